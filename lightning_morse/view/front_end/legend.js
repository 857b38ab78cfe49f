// The legend: symbols and areas that occur in the record.

import { DIVERGED, ESCAPES, UNDECIDED, attractorsOf } from "./data.js";
import { html, svg, svgLine } from "./elements.js";
import { marker, star } from "./markers.js";
import { percent } from "./numbers.js";
import { term } from "./terms.js";
import { kind, nameOfDiverged } from "./words.js";

// More attractors than this are counted instead of listed.
const MAX_LISTED = 12;
const OBLIQUE = "M2 17L16 3M9 17L22 4M2 10L9 3M16 17L22 11";

export function drawLegend(root, record) {
  const items = [...setItems(record), ...areaItems(record), ...courseItems(record)];
  root.replaceChildren(...items.map(([mark, name]) => html("li", {}, mark, term(name))));
}

const chip = (...marks) => {
  return svg("svg", { width: 24, height: 20, "aria-hidden": "true" }, ...marks);
};

function setItems(record) {
  const attractors = attractorsOf(record), more = attractors.length - MAX_LISTED;
  const items = attractors.slice(0, MAX_LISTED).map((i) => {
    const name = `attractor ${i}: ${percent(record.sets[i].basin)}`;
    return [chip(marker(record, i, 12, 10, 0.8)), name];
  });
  if (more > 0) items.push([chip(), `${more} more attractors`]);
  const types = new Map();
  record.sets.forEach((m, i) => m.attractor || types.set(kind(record, i), i));
  for (const [name, i] of [...types].sort()) items.push([chip(marker(record, i, 12, 10)), name]);
  return items;
}

function areaItems(record) {
  const seen = new Set(record.boxes.flatMap((box) => [...new Set(box.field)])), items = [];
  const size = { x: 2, y: 3, width: 20, height: 14 };
  const patch = (fill) => svg("rect", { ...size, fill, stroke: "var(--line)" });
  const hatch = svg("path", { d: OBLIQUE, stroke: "var(--hatch)" });
  if (seen.has(UNDECIDED)) items.push([chip(patch("var(--void)"), hatch), "undecided"]);
  if (seen.has(ESCAPES)) items.push([chip(patch("var(--escape)")), "leaves the box"]);
  if (seen.has(DIVERGED)) {
    items.push([chip(patch("var(--diverged)")), nameOfDiverged(record)]);
  }
  if (record.exits.flat().some((share) => share)) {
    const arrow = svg("path", { class: "exit", d: "M3 10L18 3V17z" });
    items.push([chip(arrow), "exit, share that may take it"]);
  }
  return items;
}

function courseItems(record) {
  const items = [];
  if (record.trajectory.length) {
    const line = svgLine(1, 10, 23, 10, { stroke: "var(--ink)", "stroke-width": 1.6 });
    const square = { x: 1, y: 6, width: 8, height: 8, fill: "#ffffff", stroke: "#000000" };
    items.push([chip(line, svg("rect", square)), "trajectory and its start"]);
  }
  if (record.current) {
    const { lower, upper } = record;
    const outside = record.current.some((v, k) => v < lower[k] || v > upper[k]);
    const name = outside ? "current weights, outside the box" : "current weights";
    items.push([chip(star(12, 10, 9)), name]);
  }
  return items;
}
