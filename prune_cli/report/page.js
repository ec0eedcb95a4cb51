// The page: what is chosen, what is pointed at, tables, saving. An error is noted where a test can see it.

addEventListener("error", (event) => { document.body.dataset.error = event.message; });

const byId = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const DATA = JSON.parse(byId("data").textContent);
const hidden = new Set(); // methods that the legend has switched off
const place = new Map(DATA.methods.map((method, at) => [method.name, at]));
const shapeOf = (method) => place.get(method) % MARKS.length;
const colourOf = (method) => (place.has(method) ? DATA.methods[place.get(method)].colour : "currentColor");

function show(lines, command, x, y) {
  const tip = byId("tip");
  tip.replaceChildren(...lines.map((text, at) => {
    const made = document.createElement("div");
    const inner = at ? text : Object.assign(document.createElement("b"), { textContent: text });
    made.append(inner);
    return made;
  }));
  if (command) tip.append(Object.assign(document.createElement("code"), { textContent: command }));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(x + 16, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(8, y - box.height - 14) : y + 18}px`;
}

const hide = () => { byId("tip").hidden = true; };

/** Tell about an element when it is pointed at or focused; a row is chosen by a click or Enter. */
function hover(mark, lines, command = "", row = null) {
  mark.addEventListener("pointermove", (event) => show(lines, command, event.clientX, event.clientY));
  mark.addEventListener("pointerleave", hide);
  mark.addEventListener("focus", () => {
    const box = mark.getBoundingClientRect();
    show(lines, command, box.right, box.bottom);
  });
  mark.addEventListener("blur", hide);
  if (!row) return;
  const choose = () => { byId("run").value = row.runs[0]; inside(); };
  mark.addEventListener("click", choose);
  mark.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
}

const group = () => DATA.groups[byId("group").value];

function chosen() {
  const [key, keyTitle, target] = group().keys[byId("target").value] || ["", "", ""];
  return {
    key, keyTitle, target, axis: byId("axis").value, split: byId("split").value, hover, colour: colourOf, shape: shapeOf,
    rows: group().rows.map((row, at) => ({ ...row, at })).filter((row) => !hidden.has(row.method)),
  };
}

function put(id, svg, otherwise) {
  const figure = byId(id);
  const empty = Object.assign(document.createElement("p"), { textContent: otherwise });
  figure.querySelector(".plot").replaceChildren(svg || empty);
  figure.querySelector(".save").hidden = !svg;
}

function plots() {
  hide();
  const now = chosen();
  put("pareto", pareto(now), "No latency was measured for this network.");
  put("honest", honest(now), "No latency was measured for this network.");
  put("seconds", seconds(now), "No times were recorded.");
  mark();
}

function inside() {
  const run = DATA.runs[byId("run").value];
  put("channels", channels(run, chosen()), "The channels of this run are not known.");
  put("curves", curves(run, chosen()), "Nothing was trained in this run.");
  byId("channels").querySelector(".dropped").textContent = run.dropped.length ? `Units taken out: ${run.dropped.join(", ")}. ` : "";
  mark();
}

/** The row of the chosen run, in plots and table. */
function mark() {
  const at = group().rows.findIndex((row) => row.runs.includes(+byId("run").value));
  for (const point of all(".mark-point")) point.classList.toggle("chosen", +point.dataset.row === at);
  for (const line of all(".results tbody tr"))
    line.classList.toggle("chosen", +line.dataset.row === at && line.closest("table").dataset.group === byId("group").value);
}

/** Another network: its targets, methods and runs. */
function regroup() {
  const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
  byId("target").replaceChildren(...group().keys.map(([, title], at) => option(at, title)));
  byId("target").disabled = !group().keys.length;
  for (const choice of all("option[value=latency], option[value=ms]", byId("axis"))) choice.disabled = !group().keys.length;
  if (!group().keys.length && byId("axis").selectedOptions[0].disabled) byId("axis").value = "macs";
  byId("run").replaceChildren(...group().rows.flatMap((row) => row.runs).map((at) => option(at, DATA.runs[at].title)));
  const methods = new Set(group().rows.filter((row) => !row.dense).map((row) => row.method));
  byId("legend").replaceChildren(...[...methods].map(entry));
  plots();
  inside();
}

function entry(method) {
  const button = Object.assign(document.createElement("button"), { type: "button", title: `Hide or show ${method}` });
  const swatch = element("svg", { class: "swatch", width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" });
  swatch.append(element("path", { d: MARKS[shapeOf(method)], fill: colourOf(method) }));
  button.append(swatch, Object.assign(document.createElement("span"), { textContent: method }));
  button.setAttribute("aria-pressed", !hidden.has(method));
  button.addEventListener("click", () => {
    if (!hidden.delete(method)) hidden.add(method);
    button.setAttribute("aria-pressed", !hidden.has(method));
    plots();
  });
  return button;
}

/** Headings sort their table; the dense network stays first. */
function sortable(table) {
  const body = table.tBodies[0];
  const rule = () => [...body.rows].forEach((row, at) => row.classList.toggle("first",
    at > 1 && !table.querySelector("[aria-sort]") && row.cells[0].textContent !== body.rows[at - 1].cells[0].textContent));
  rule();
  all("thead th", table).forEach((heading, column) => {
    if ("fixed" in heading.dataset) return;
    heading.tabIndex = 0;
    heading.title = "Sort";
    const sort = () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? "";
      const compare = (a, b) => value(a).localeCompare(value(b), "en");
      const number = (a, b) => (value(a) === "" ? Infinity : +value(a)) - (value(b) === "" ? Infinity : +value(b)) || 0;
      const [dense, ...rows] = [...body.rows].sort((a, b) => b.matches(".dense") - a.matches(".dense"));
      rows.sort(heading.matches(".text") ? compare : number);
      body.append(dense, ...(down ? rows.reverse() : rows));
      rule();
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
    });
  });
}

async function copy(button) {
  const area = Object.assign(document.createElement("textarea"), { value: button.dataset.copy });
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch { // not allowed here: the older way
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1200);
}

function save(figure) {
  const url = URL.createObjectURL(new Blob([asFile(figure.querySelector(".plot svg"))], { type: "image/svg+xml" }));
  Object.assign(document.createElement("a"), { href: url, download: `${figure.id}.svg` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Every control once, for a test that opens the page with #self-test; what was drawn is counted on the body. */
function selfTest() {
  let steps = 0;
  const step = (act) => { act(); steps++; };
  for (const select of all("select"))
    for (let at = select.options.length - 1; at >= 0; at--)
      if (!select.options[at].disabled) step(() => { select.selectedIndex = at; select.dispatchEvent(new Event("change")); });
  for (const button of all("#legend button")) { step(() => button.click()); step(() => button.click()); }
  for (const heading of all(".results th[tabindex]")) { step(() => heading.click()); step(() => heading.click()); }
  for (const drawn of all(".plot [tabindex]")) {
    step(() => drawn.dispatchEvent(new PointerEvent("pointermove", { clientX: 9, clientY: 9 })));
    step(() => drawn.dispatchEvent(new MouseEvent("click")));
  }
  for (const svg of all(".plot svg"))
    step(() => { if (new DOMParser().parseFromString(asFile(svg), "image/svg+xml").querySelector("parsererror")) throw new Error("a saved plot is not XML"); });
  hide();
  document.body.dataset.steps = steps;
}

if (DATA.groups.length) {
  for (const control of all(".controls, .copy")) control.hidden = false;
  for (const swatch of all(".swatch[data-method]")) {
    const method = swatch.dataset.method;
    if (place.has(method)) swatch.replaceChildren(element("path", { d: MARKS[shapeOf(method)], fill: colourOf(method), transform: "scale(.85)" }));
  }
  byId("group").addEventListener("change", regroup);
  for (const id of ["target", "axis", "split"]) byId(id).addEventListener("change", plots);
  byId("run").addEventListener("change", inside);
  for (const button of all(".save")) button.addEventListener("click", () => save(button.closest("figure")));
  for (const table of all(".results")) sortable(table);
  regroup();
} else for (const control of all(".copy")) control.hidden = false;
for (const button of all(".copy")) button.addEventListener("click", () => copy(button));
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
if (location.hash === "#self-test" && DATA.groups.length) selfTest();
document.body.dataset.ready = "";
