// Symbols of Morse sets and of the current weights, the same in the slice and in the legend.

import { svg } from "./elements.js";
import { kind } from "./words.js";

const ATTRACTOR_RADIUS = 9, SET_RADIUS = 6;
// A cross is filled by the Morse index of its saddle: white for 1, dark above, grey if unknown.
const INDEX_UNKNOWN = "#9a9a9a", INDEX_ONE = "#ffffff", INDEX_ABOVE_ONE = "#222222";

export function marker(record, i, x, y, scale = 1) {
  const m = record.sets[i], type = kind(record, i), r = SET_RADIUS * scale;
  const look = { stroke: "#000000", "stroke-width": 1.2, fill: "#ffffff" };
  if (m.attractor) {
    return svg("circle", { ...look, cx: x, cy: y, r: ATTRACTOR_RADIUS * scale, fill: m.color });
  }
  if (!m.resolved) {
    const diamond = `M${x} ${y - r}l${r} ${r}l${-r} ${r}l${-r} ${-r}z`;
    return svg("path", { ...look, d: diamond });
  }
  if (type === "repeller") {
    return svg("path", { ...look, d: `M${x} ${y - r}l${r} ${1.8 * r}h${-2 * r}z` });
  }
  const shade = { null: INDEX_UNKNOWN, 1: INDEX_ONE }[m.index] ?? INDEX_ABOVE_ONE;
  return svg("path", { ...look, d: cross(x, y, r / 2.2), fill: shade });
}

function cross(x, y, a) {
  const turns = [
    [a, -a], [a, a], [-a, a], [a, a], [-a, a], [-a, -a],
    [-a, a], [-a, -a], [a, -a], [-a, -a], [a, -a],
  ];
  return `M${x} ${y - a}${turns.map(([dx, dy]) => `l${dx} ${dy}`).join("")}z`;
}

export function star(x, y, r) {
  const corners = Array.from({ length: 10 }, (_, k) => {
    const a = (k * Math.PI) / 5 - Math.PI / 2, q = k % 2 ? 0.42 * r : r;
    return `${(x + q * Math.cos(a)).toFixed(1)} ${(y + q * Math.sin(a)).toFixed(1)}`;
  });
  const look = { fill: "#ffffff", stroke: "#000000", "stroke-width": 1.3 };
  return svg("path", { d: `M${corners.join("L")}z`, ...look });
}
