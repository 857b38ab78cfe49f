// Facts about cells and Morse sets in words.

import { DIVERGED, UNDECIDED, deviationAt, isMap, lossAt, reachAt } from "./data.js";
import { short } from "./numbers.js";

// More ranges of Morse sets than this are counted instead of listed.
const MAX_RANGES_LISTED = 8;

// Type of a Morse set; a set that may hide attractors is never called a saddle.
export function kind(record, i) {
  const m = record.sets[i], d = record.shape.length;
  if (m.attractor) return m.resolved ? "attractor" : "attractor(s)";
  if (!m.resolved) return "may hide a minimum";
  if (m.index === null) return "saddle or repeller";
  return m.index === d ? "repeller" : "saddle";
}

// The loss with its deviation, to as many digits as the deviation leaves significant.
export function lossText(record, point) {
  const loss = lossAt(record, point), error = deviationAt(record, point);
  if (!(error > 0 && Number.isFinite(loss))) return short(loss);
  const digits = Math.ceil(Math.log10(Math.abs(loss) / error)) + 1;
  const written = Number(loss.toPrecision(Math.min(Math.max(digits, 3), 6)));
  return `${written} ± ${Number(error.toPrecision(2))}`;
}

// Of a map these are the cells where the runs say too little.
export const nameOfDiverged = (record) => (isMap(record) ? "unknown" : "diverged");

export function areaText(record, cell) {
  const value = record.field[cell];
  const reach = value === UNDECIDED ? reachAt(record, cell) : null;
  if (value === DIVERGED) return nameOfDiverged(record);
  return areaName(value) + (reach ? reachText(reach) : "");
}

function areaName(value) {
  if (value >= 0) return `basin of attractor ${value}`;
  return value === UNDECIDED ? "undecided" : "leaves the box";
}

function reachText(reach) {
  const ranges = [];
  for (const i of reach.sets) {
    const last = ranges[ranges.length - 1];
    if (last && i === last[1] + 1) last[1] = i;
    else ranges.push([i, i]);
  }
  const listed = ranges.slice(0, MAX_RANGES_LISTED).map(rangeText);
  const more = ranges.slice(MAX_RANGES_LISTED).reduce((sum, [a, b]) => sum + b - a + 1, 0);
  const where = [];
  if (listed.length) where.push(`reach ${listed.join(", ")}${more ? ` and ${more} more` : ""}`);
  if (reach.unknown) where.push("come to what is unknown");
  else if (reach.leaves) where.push("leave the box");
  return where.length ? `: may ${where.join(" or ")}` : "";
}

function rangeText([first, last]) {
  if (first === last) return `${first}`;
  return last === first + 1 ? `${first}, ${last}` : `${first} to ${last}`;
}
