"use strict";
// Drawing: elements, marks, axes. All text goes in as text, never as markup. Colours are attributes and ink is
// currentColor, so that a saved plot looks as it does here without a style sheet.

const MARKS = [
  "M0-5A5 5 0 1 1 0 5A5 5 0 1 1 0-5Z", // circle
  "M-4.5-4.5H4.5V4.5H-4.5Z", // square
  "M0-5.8L5.5 4.2H-5.5Z", // triangle
  "M0-6.2L6.2 0L0 6.2L-6.2 0Z", // diamond
  "M0 5.8L5.5-4.2H-5.5Z", // triangle on its tip
  "M-1.9-5.5H1.9V-1.9H5.5V1.9H1.9V5.5H-1.9V1.9H-5.5V-1.9H-1.9Z", // plus
  "M0-6.4L1.7-2.1L6.1-2L2.7.9L3.8 5.2L0 2.7L-3.8 5.2L-2.7.9L-6.1-2L-1.7-2.1Z", // star
  "M-5.2-2.5L-2.5-5.2L0-2.6L2.5-5.2L5.2-2.5L2.6 0L5.2 2.5L2.5 5.2L0 2.6L-2.5 5.2L-5.2 2.5L-2.6 0Z", // cross
  "M-5.2 0L-2.6-4.6H2.6L5.2 0L2.6 4.6H-2.6Z", // hexagon
  "M-4-5.5H4L1.6 0L4 5.5H-4L-1.6 0Z", // hourglass
];
const FONT = "'Helvetica Neue', 'Liberation Sans', Arial, sans-serif";

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function canvas(width, height, label) {
  return element("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label, "font-family": FONT, "font-size": 13,
    fill: "currentColor",
  });
}

const line = (x1, y1, x2, y2, more = {}) => element("line", { x1, y1, x2, y2, stroke: "currentColor", ...more });
const words = (x, y, text, more = {}) => element("text", { x, y, ...more }, text);

/** Round numbers that cover [low, high] in about `count` steps. */
function ticks(low, high, count = 5) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(+(k * step).toPrecision(10));
  return found;
}

/** The range of values, a little wider; `fixed` values are always inside. */
function range(values, pad = 0.06, fixed = []) {
  const low = Math.min(...values, ...fixed), high = Math.max(...values, ...fixed);
  const room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}

const decimals = (marks) => Math.max(...marks.map((m) => (String(m).split(".")[1] || "").length));

/** Axes with a light grid; returns the two scales. `frame`: left, top, right, bottom. */
function axes(svg, frame, [x0, x1], [y0, y1], titles, steps = [6, 5]) {
  const [left, top, right, bottom] = frame;
  const x = (v) => left + ((v - x0) / (x1 - x0)) * (right - left);
  const y = (v) => bottom - ((v - y0) / (y1 - y0)) * (bottom - top);
  const across = ticks(x0, x1, steps[0]), up = ticks(y0, y1, steps[1]);
  for (const v of up) {
    svg.append(line(left, y(v), right, y(v), { "stroke-opacity": 0.11 }));
    svg.append(words(left - 9, y(v) + 4.5, v.toFixed(decimals(up)), { "text-anchor": "end" }));
  }
  for (const v of titles[0] ? across : []) {
    svg.append(line(x(v), bottom, x(v), bottom + 5));
    svg.append(words(x(v), bottom + 20, v.toFixed(decimals(across)), { "text-anchor": "middle" }));
  }
  svg.append(line(left, bottom, right, bottom));
  if (titles[0]) svg.append(words((left + right) / 2, bottom + 42, titles[0], { "text-anchor": "middle", "font-size": 14 }));
  svg.append(words(0, 0, titles[1], {
    "text-anchor": "middle", "font-size": 14, transform: `translate(15 ${(top + bottom) / 2}) rotate(-90)`,
  }));
  return { x, y };
}

/** A bar of uncertainty, horizontal or vertical. */
function whisker(svg, x1, y1, x2, y2, colour) {
  const flat = y1 === y2, stroke = { stroke: colour, "stroke-opacity": 0.75, "stroke-width": 1.2 };
  svg.append(line(x1, y1, x2, y2, stroke));
  for (const [x, y] of [[x1, y1], [x2, y2]])
    svg.append(flat ? line(x, y - 3, x, y + 3, stroke) : line(x - 3, y, x + 3, y, stroke));
}

const path = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** A plot as a file of its own: light, on white. */
function asFile(svg) {
  const copy = svg.cloneNode(true);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ");
  for (const [key, value] of Object.entries({ xmlns: "http://www.w3.org/2000/svg", width, height, color: "#1b1d21" }))
    copy.setAttribute(key, value);
  for (const mark of copy.querySelectorAll("[tabindex]")) mark.removeAttribute("tabindex");
  copy.prepend(element("rect", { width, height, fill: "#ffffff" }));
  return new XMLSerializer().serializeToString(copy);
}
