// The plots. Each takes what is chosen on the page and returns an SVG element, or null if there is nothing to draw.

const percent = (v) => (100 * v).toFixed(2);
const spread = ([mean, sd]) => percent(mean) + (sd === null ? "" : ` ± ${percent(sd)}`);
const clip = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** Accuracy of a row: on a target that does not compute in fp32, as computed there. */
function accuracyOf(row, chosen) {
  const there = chosen.axis === "latency" || chosen.axis === "ms" ? row.computed[chosen.target] : undefined;
  return (there && there[chosen.split]) || row.accuracy[chosen.split];
}

/** Cost of a row on the chosen axis: middle, low, high; null if it was not measured. */
function costOf(row, chosen) {
  if (chosen.axis === "macs" || chosen.axis === "params") {
    const [mean, sd] = row[chosen.axis];
    return [mean, mean - (sd || 0), mean + (sd || 0)];
  }
  const found = row.latency[chosen.key];
  if (!found) return null;
  const [ratio, low, high, ms, dense] = found;
  return chosen.axis === "ms" ? [ms, ms - (ratio - low) * dense, ms + (high - ratio) * dense] : [ratio, low, high];
}

/** Positions of the points (cost, gain) that no other beats, cheapest first. */
function front(points) {
  const order = points.map((_, at) => at).sort((a, b) => points[a][0] - points[b][0] || points[b][1] - points[a][1]);
  const found = [];
  for (const at of order) {
    const last = points[found[found.length - 1]];
    if (!last || points[at][1] > last[1] || (points[at][0] === last[0] && points[at][1] === last[1])) found.push(at);
  }
  return found;
}

/** The mark of a row, which tells about itself when pointed at. */
function point(x, y, row, at, chosen) {
  const shape = row.dense
    ? element("path", { d: MARKS[0], fill: "none", stroke: "currentColor", "stroke-width": 2 })
    : element("path", { d: MARKS[chosen.shape(row.method)], fill: chosen.colour(row.method), stroke: "#ffffff", "stroke-width": 0.8, class: "filled" });
  const told = tell(row);
  const mark = element("g", {
    transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, class: "mark-point", tabindex: 0, role: "img",
    "data-row": at, "aria-label": told.join("; "),
  }, element("circle", { r: 11, fill: "transparent" }), shape);
  chosen.hover(mark, told, row.command, row.dense ? null : row);
  return mark;
}

/** Thin lines through the rows of a method that differ in their budget only; `at` gives the place of one. */
function threads(svg, rows, chosen, at) {
  const series = new Map();
  for (const item of rows.filter(({ row }) => !row.dense)) {
    const name = JSON.stringify([item.row.method, item.row.label.replace(/^keep [\d.e-]+/, "")]);
    series.set(name, [...(series.get(name) || []), item]);
  }
  for (const items of series.values()) {
    const points = items.map(at).sort((a, b) => a[0] - b[0]);
    svg.append(element("path", { d: path(points), fill: "none", stroke: chosen.colour(items[0].row.method), "stroke-opacity": 0.45, "stroke-width": 1.3 }));
  }
}

/** A row in words, one line each. */
function tell(row) {
  const seeds = row.dense ? `${row.n} network${row.n > 1 ? "s" : ""}` : `${row.n} seed${row.n > 1 ? "s" : ""}`;
  const lines = [`${row.method} ${row.label}`.trim(), `test ${spread(row.accuracy.test)}, val ${spread(row.accuracy.val)} (${seeds})`];
  for (const [target, both] of Object.entries(row.computed))
    if (both.test) lines.push(`as computed on ${target}: test ${spread(both.test)}`);
  if (!row.dense) lines.push(`MACs ${row.macs[0].toFixed(3)}, params ${row.params[0].toFixed(3)}`);
  for (const [key, [ratio, low, high, ms]] of Object.entries(row.latency)) {
    const name = key.replace("/b", " b");
    const equal = low <= 1 && high >= 1 ? ", no significant difference" : "";
    lines.push(row.dense ? `${name}: ${ms.toFixed(2)} ms`
      : `${name}: ${ratio.toFixed(2)} (${low.toFixed(2)}–${high.toFixed(2)}${equal}), ${ms.toFixed(2)} ms`);
  }
  return lines;
}

function pareto(chosen) {
  const rows = chosen.rows.map((row) => ({ row, at: row.at, cost: costOf(row, chosen), gain: accuracyOf(row, chosen) }))
    .filter(({ cost }) => cost);
  if (!rows.length) return null;
  const axis = { macs: "MACs, part of the dense network’s", params: "Parameters, part of the dense network’s",
    latency: `Latency on ${chosen.keyTitle}, part of the dense network’s`, ms: `Latency on ${chosen.keyTitle}, ms` }[chosen.axis];
  const svg = canvas(620, 440, "Accuracy against cost");
  const there = rows.some(({ row }) => accuracyOf(row, chosen) !== row.accuracy[chosen.split]);
  const side = `${chosen.split === "test" ? "Test" : "Validation"} accuracy, %${there ? ", as computed there" : ""}`;
  const across = range(rows.flatMap(({ cost }) => cost), 0.05, chosen.axis === "ms" ? [] : [1]);
  const up = range(rows.flatMap(({ gain: [mean, sd] }) => [100 * (mean - (sd || 0)), 100 * (mean + (sd || 0))]), 0.07);
  const { x, y } = axes(svg, [66, 14, 606, 384], [Math.max(0, across[0]), across[1]], up, [clip(axis, 70), side]);
  const dense = rows.find(({ row }) => row.dense);
  if (dense) {
    const height = y(100 * dense.gain[0]);
    svg.append(line(66, height, 606, height, { "stroke-dasharray": "2 4", "stroke-opacity": 0.6 }));
  }
  const best = front(rows.map(({ cost, gain }) => [cost[0], gain[0]])).map((at) => rows[at]);
  const steps = best.flatMap(({ cost, gain }, at) => {
    const here = [x(cost[0]), y(100 * gain[0])];
    return at ? [[here[0], y(100 * best[at - 1].gain[0])], here] : [here];
  });
  svg.append(element("path", {
    d: path(steps), fill: "none", stroke: "currentColor", "stroke-width": 1.4, "stroke-opacity": 0.55,
    "stroke-linejoin": "round", "data-front": best.map(({ at }) => at).join(" "),
  }));
  threads(svg, rows, chosen, ({ cost, gain }) => [x(cost[0]), y(100 * gain[0])]);
  for (const { row, cost, gain: [mean, sd] } of rows) {
    const colour = chosen.colour(row.method);
    if (sd) whisker(svg, x(cost[0]), y(100 * (mean - sd)), x(cost[0]), y(100 * (mean + sd)), colour);
    if (cost[2] - cost[1] > 1e-9) whisker(svg, x(cost[1]), y(100 * mean), x(cost[2]), y(100 * mean), colour);
  }
  for (const { row, at, cost, gain } of rows) svg.append(point(x(cost[0]), y(100 * gain[0]), row, at, chosen));
  if (dense)
    svg.append(words(x(dense.cost[0]) - 10, y(100 * dense.gain[0]) - 9, "dense", { "text-anchor": "end", "font-size": 12.5 }));
  return svg;
}

function honest(chosen) {
  const rows = chosen.rows.map((row) => ({ row, at: row.at, latency: row.latency[chosen.key] })).filter(({ latency }) => latency);
  if (!rows.length) return null;
  const svg = canvas(620, 440, "MACs ratio against latency ratio");
  const right = Math.max(1, ...rows.map(({ row }) => row.macs[0])) * 1.06;
  const top = Math.max(1.12, ...rows.map(({ latency }) => latency[2] * 1.04));
  const titles = ["MACs, part of the dense network’s", clip(`Latency on ${chosen.keyTitle}`, 44)];
  const { x, y } = axes(svg, [66, 14, 606, 384], [0, right], [0, top], titles);
  svg.append(element("rect", { x: x(0), y: y(top), width: x(1) - x(0), height: y(1) - y(top), fill: "#d55e00", "fill-opacity": 0.1 }));
  svg.append(words(x(0) + 10, y(1) - 7, "smaller, but not faster", { "font-size": 12.5, "fill-opacity": 0.75 }));
  svg.append(line(x(0), y(1), x(1), y(1), { "stroke-opacity": 0.45 }));
  const end = Math.min(right, top);
  svg.append(line(x(0), y(0), x(end), y(end), { "stroke-dasharray": "5 5", "stroke-opacity": 0.55 }));
  svg.append(words(0, 0, "time falls as MACs do", {
    "font-size": 12.5, "fill-opacity": 0.75, "text-anchor": "middle",
    transform: `translate(${x(0.2)} ${y(0.2) + 21}) rotate(${(Math.atan2(y(1) - y(0), x(1) - x(0)) * 180) / Math.PI})`,
  }));
  threads(svg, rows, chosen, ({ row, latency }) => [x(row.macs[0]), y(latency[0])]);
  for (const { row, latency: [, low, high] } of rows)
    if (high > low) whisker(svg, x(row.macs[0]), y(low), x(row.macs[0]), y(high), chosen.colour(row.method));
  for (const { row, at, latency } of rows) svg.append(point(x(row.macs[0]), y(latency[0]), row, at, chosen));
  return svg;
}

function channels(run, chosen) {
  const count = run.layers.length;
  if (!count) return null;
  const width = 1240, slot = Math.min(64, (width - 80) / count), right = 66 + slot * count;
  const longest = Math.max(...run.layers.map(([name]) => Math.min(26, name.length)));
  const bottom = 230, svg = canvas(width, bottom + 24 + longest * 5, `Channels kept per layer: ${run.title}`);
  const { y } = axes(svg, [66, 14, right, bottom], [0, count], [0, Math.max(...run.layers.map(([, , size]) => size)) * 1.04],
    ["", "Channels"], [1, 4]);
  const every = Math.ceil(13 / slot);
  run.layers.forEach(([name, kept, size], at) => {
    const x = 66 + slot * at + slot * 0.14, wide = slot * 0.72;
    const bar = element("g", { tabindex: 0, role: "img", "aria-label": `${name}: ${kept} of ${size}` });
    bar.append(element("rect", { x, y: y(size), width: wide, height: y(0) - y(size), fill: chosen.colour(run.method), "fill-opacity": 0.2 }));
    bar.append(element("rect", { x, y: y(kept), width: wide, height: y(0) - y(kept), fill: chosen.colour(run.method) }));
    const middle = x + wide / 2, arm = Math.min(5, wide / 2);
    if (!kept) bar.append(element("path", {
      d: `M${middle - arm} ${bottom - 6 - arm}l${2 * arm} ${2 * arm}m0 ${-2 * arm}l${-2 * arm} ${2 * arm}`, stroke: "currentColor", "stroke-width": 1.5,
    }));
    svg.append(bar);
    chosen.hover(bar, [name, kept ? `${kept} of ${size} channels (${((100 * kept) / size).toFixed(0)}%)` : `all ${size} channels are gone with their unit`]);
    if (at % every === 0)
      svg.append(words(0, 0, clip(name, 26), { "font-size": 11.5, "text-anchor": "end", transform: `translate(${middle + 3} ${bottom + 12}) rotate(-50)` }));
  });
  return svg;
}

function curves(run, chosen) {
  const before = run.curves.train, after = run.curves.finetune;
  if (!before.length && !after.length) return null;
  const svg = canvas(620, 440, `Training curves: ${run.title}`);
  const cut = before.length ? before[before.length - 1][0] : 0;
  const parts = [[before, 0, "currentColor", 0.5], [after, cut, chosen.colour(run.method), 1]];
  const last = cut + (after.length ? after[after.length - 1][0] : 0);
  const panels = [["Training loss", 1, 1, 14, 178], ["Validation, %", 2, 100, 204, 384]];
  for (const [title, field, scale, top, bottom] of panels) {
    const values = parts.flatMap(([curve]) => curve.map((e) => scale * e[field]));
    const fixed = field === 2 && after.length ? [100 * run.cut] : [];
    const under = field === 2;
    const { x, y } = axes(svg, [66, top, 606, bottom], [0, last || 1], range(values, 0.06, fixed), [under ? "Epoch" : "", title], [6, 5]);
    if (cut && after.length) {
      svg.append(line(x(cut), top, x(cut), bottom, { "stroke-dasharray": "2 4", "stroke-opacity": 0.6 }));
      if (under) svg.append(words(x(cut) - 6, bottom - 8, "cut", { "font-size": 12.5, "text-anchor": "end" }));
    }
    for (const [curve, from, colour, opacity] of parts) {
      const points = curve.map((e) => [x(from + e[0]), y(scale * e[field])]);
      if (under && curve === after && after.length) points.unshift([x(cut), y(100 * run.cut)]);
      if (points.length) svg.append(element("path", {
        d: path(points), fill: "none", stroke: colour, "stroke-opacity": opacity, "stroke-width": 1.8, "stroke-linejoin": "round",
      }));
      if (points.length === 1) svg.append(element("circle", { cx: points[0][0], cy: points[0][1], r: 3, fill: colour }));
    }
    if (under && after.length)
      svg.append(element("circle", { cx: x(cut), cy: y(100 * run.cut), r: 4, fill: "none", stroke: chosen.colour(run.method), "stroke-width": 1.8 }));
  }
  return svg;
}

const STAGES = [["train", "training", 1], ["prune", "pruning", 1], ["finetune", "fine-tuning", 0.55], ["benchmark", "measuring", 0.22]];

function seconds(chosen) {
  const rows = chosen.rows.filter((row) => Object.keys(row.seconds).length);
  if (!rows.length) return null;
  const high = 20, left = 190, bottom = 44 + rows.length * high;
  const svg = canvas(620, bottom + 54, "Seconds by stage");
  const sum = (row) => STAGES.reduce((total, [stage]) => total + (row.seconds[stage] || 0), 0);
  const most = Math.max(...rows.map(sum)) * 1.04 || 1;
  const x = (v) => left + (v / most) * (606 - left);
  STAGES.slice(1).reduceRight((end, [, name, opacity]) => {
    const start = end - 18 - name.length * 6.6;
    svg.append(element("rect", { x: start, y: 8, width: 11, height: 11, "fill-opacity": opacity }), words(start + 16, 18, name, { "font-size": 12.5 }));
    return start - 10;
  }, 606);
  for (const v of ticks(0, most, 5)) {
    svg.append(line(x(v), 32, x(v), bottom, { "stroke-opacity": 0.11 }));
    svg.append(words(x(v), bottom + 20, String(v), { "text-anchor": "middle" }));
  }
  svg.append(line(left, 32, left, bottom), words((left + 606) / 2, bottom + 42, "Seconds", { "text-anchor": "middle", "font-size": 14 }));
  rows.forEach((row, at) => {
    const top = 38 + at * high, bar = element("g", { tabindex: 0, role: "img" });
    let from = 0;
    for (const [stage, , opacity] of STAGES) {
      const took = row.seconds[stage] || 0;
      bar.append(element("rect", { x: x(from), y: top, width: x(from + took) - x(from), height: high - 6, fill: chosen.colour(row.method), "fill-opacity": opacity }));
      from += took;
    }
    const told = [row.dense ? "dense (training)" : `${row.method} ${row.label}`.trim(), ...STAGES.filter(([stage]) => stage in row.seconds).map(([stage, name]) => `${name}: ${row.seconds[stage].toFixed(1)} s`)];
    bar.setAttribute("aria-label", told.join("; "));
    chosen.hover(bar, told);
    svg.append(bar, words(left - 8, top + 12, clip(told[0], 27), { "text-anchor": "end", "font-size": 12.5 }));
  });
  return svg;
}
