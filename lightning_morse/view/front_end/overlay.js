// What lies over the cells of a slice: axes, trajectory, Morse sets, exits, the current weights.

import { ink } from "./colors.js";
import { ESCAPES, boxAt, boxesWithin, contains, isMap, lossAt } from "./data.js";
import { svg, svgLine, svgText } from "./elements.js";
import { marker, star } from "./markers.js";
import { percent, short } from "./numbers.js";
import { ticks } from "./vendor/d3.js";

// More sets than this that are no attractors go without their numbers.
const MAX_NUMBERED = 12;
// Room above and below the graph of the loss, as a share of its range.
const LOSS_MARGIN = 0.08;
// Pixels for each tick.
const TICK_WIDTH = 70, TICK_HEIGHT = 55;

// layout: {plot, box, frame}, see slice.js. selected: a Morse set or null.
export function overlayItems(section, layout, selected) {
  const scale = scaleOf(section, layout), { box } = layout;
  const view = `${box.left} ${box.top} ${box.width} ${box.height}`;
  const at = { x: box.left, y: box.top, width: box.width, height: box.height };
  const inside = svg("svg", { ...at, viewBox: view });
  if (!section.planar && !isMap(section.record)) inside.append(graphOfLoss(section, scale));
  inside.append(...trajectoryItems(section.record, scale));
  const { others, attractors } = setItems(section, scale, selected);
  inside.append(...exitItems(section, box));
  const { current } = section.record;
  const marks = [...others];
  // In a section of three dimensions the weights are seen where they are projected to.
  if (current && contains(section.record, current)) marks.push(star(...scale.place(current), 14));
  marks.push(...attractors);
  return { axes: axisItems(section, layout, scale), inside, marks };
}

// Pixels of coordinates: x across, y upwards (the loss where the slice is a line), place of points.
function scaleOf(section, { box, frame }) {
  const { record, axes, planar } = section, [a, b] = axes, { lower, upper } = record;
  const x = (v) => box.left + ((v - lower[a]) / (upper[a] - lower[a])) * box.width;
  const [low, high] = planar ? [lower[b], upper[b]] : lossRange(record);
  const y = (v) => box.top + box.height - ((v - low) / (high - low)) * box.height;
  // A map has no loss: all stands half-way up.
  const height = isMap(record) ? () => (low + high) / 2 : (p) => lossAt(boxAt(record, p), p);
  const onCurve = (p) => [x(p[0]), y(height(p))];
  const place = planar ? (p) => [x(p[a]), y(p[b])] : onCurve;
  return { x, y, place, upwards: planar ? [frame.lower[b], frame.upper[b]] : [low, high] };
}

function lossRange(record) {
  let low = Infinity, high = -Infinity;
  for (const { lossValues } of boxesWithin(record)) {
    for (const loss of lossValues.filter(Number.isFinite)) {
      low = Math.min(low, loss);
      high = Math.max(high, loss);
    }
  }
  if (low > high) [low, high] = [0, 1];
  const margin = LOSS_MARGIN * (high - low || 1);
  return [low - margin, high + margin];
}

function axisItems({ record, axes, planar }, { plot, frame }, { x, y, upwards }) {
  const [a, b] = axes, items = [];
  const floor = plot.top + plot.height, middle = plot.top + plot.height / 2;
  for (const t of ticks(frame.lower[a], frame.upper[a], plot.width / TICK_WIDTH)) {
    items.push(svgLine(x(t), floor, x(t), floor + 4, { class: "axis" }));
    items.push(svgText(x(t), floor + 17, short(t), { "text-anchor": "middle" }));
  }
  const name = { "text-anchor": "middle", class: "faint" };
  items.push(svgText(plot.left + plot.width / 2, floor + 35, record.axes[a], name));
  if (!planar && isMap(record)) return items;
  for (const t of ticks(...upwards, plot.height / TICK_HEIGHT)) {
    items.push(svgLine(plot.left - 4, y(t), plot.left, y(t), { class: "axis" }));
    items.push(svgText(plot.left - 7, y(t) + 4, short(t), { "text-anchor": "end" }));
  }
  const upright = { ...name, transform: `rotate(-90 12 ${middle})` };
  items.push(svgText(12, middle, planar ? record.axes[b] : "loss", upright));
  return items;
}

function graphOfLoss(section, { place }) {
  const { record } = section;
  const points = boxesWithin(record).flatMap((box) => {
    const n = box.loss.shape[0], of = section.of(box);
    const own = Array.from({ length: n }, (_, i) => of.point(i / (n - 1)));
    return own.filter((p) => boxAt(record, p) === box).map(place);
  });
  const drawn = points.filter((p) => Number.isFinite(p[1])).sort((p, q) => p[0] - q[0]);
  const finite = drawn.join(" ");
  const look = { fill: "none", stroke: "var(--ink)", "stroke-width": 1.8 };
  return svg("polyline", { points: finite, ...look });
}

function trajectoryItems(record, { place }) {
  const path = record.trajectory.map(place);
  if (!path.length) return [];
  const points = path.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ");
  const line = { points, fill: "none", "stroke-linejoin": "round" };
  const halo = { ...line, stroke: "var(--card)", "stroke-width": 3.4, opacity: 0.7 };
  const [x, y] = path[0], square = { x: x - 4, y: y - 4, width: 8, height: 8 };
  return [
    svg("polyline", halo),
    svg("polyline", { class: "trajectory", ...line, stroke: "var(--ink)", "stroke-width": 1.6 }),
    svg("rect", { ...square, fill: "#ffffff", stroke: "#000000" }),
  ];
}

// Symbols and numbers of the Morse sets; in three dimensions of those that the section meets.
function setItems(section, { place }, selected) {
  const { record } = section, met = setsMet(section);
  const shown = record.sets.map((_, i) => i).filter((i) => !met || met.has(i));
  const crowded = shown.filter((i) => !record.sets[i].attractor).length > MAX_NUMBERED;
  const others = [], attractors = [];
  // Marks are drawn whole, also at the very edge; so none of what lies outside.
  for (const i of shown.filter((n) => contains(record, record.sets[n].center)).reverse()) {
    const m = record.sets[i], [x, y] = place(m.center);
    if (m.attractor) {
      const look = { "text-anchor": "middle", "font-weight": 700, class: "number" };
      const number = svgText(x, y + 4, i, look);
      number.style.fill = ink(m.color);
      attractors.push(marker(record, i, x, y), number);
    } else {
      others.push(marker(record, i, x, y));
      if (!crowded || i === selected) others.push(svgText(x + 8, y - 6, i, { class: "halo" }));
    }
  }
  return { others, attractors };
}

function setsMet(section) {
  if (section.normal === null) return null;
  const met = new Set();
  for (let i = 0; i < section.columns; i++) {
    for (let j = 0; j < section.rows; j++) met.add(section.record.owner[section.cell(i, j)]);
  }
  return met;
}

// An arrow at each face through which part of the box may leave, in the middle of the cells there
// that certainly leave.
function exitItems(section, box) {
  const { columns, rows, record, axes, planar } = section;
  // Cells across and along the face, whether it is the upper one, and the direction inwards.
  const faces = [
    [columns, rows, 0, 1, 0],
    [columns, rows, 1, -1, 0],
    [rows, columns, 0, 0, -1],
    [rows, columns, 1, 0, 1],
  ];
  return faces.slice(0, planar ? 4 : 2).flatMap(([across, along, upper, dx, dy], k) => {
    const share = record.exits[axes[k >> 1]][k % 2];
    if (!share) return [];
    const layer = upper * (across - 1), all = Array.from({ length: along }, (_, j) => j);
    const cellAt = (j) => (dx ? section.cell(layer, j) : section.cell(j, layer));
    const leaving = all.filter((j) => record.field[cellAt(j)] === ESCAPES);
    const found = planar && leaving.length;
    const middle = found ? (leaving[leaving.length >> 1] + 0.5) / along : 0.5;
    const x = box.left + (dx ? upper : middle) * box.width;
    const y = box.top + (dx ? 1 - middle : 1 - upper) * box.height;
    return exitArrow(x, y, dx, dy, share);
  });
}

// The tip is near the face at (x, y), the rest reaches inwards along (dx, dy).
function exitArrow(x, y, dx, dy, share) {
  const said = `${percent(share)} of the box may leave through this face`;
  const [ax, ay] = [x + 15 * dx, y + 15 * dy], tip = `${x + 2 * dx} ${y + 2 * dy}`;
  const base = `L${ax - 7 * dy} ${ay + 7 * dx}L${ax + 7 * dy} ${ay - 7 * dx}`;
  const anchor = dx > 0 ? "start" : dx < 0 ? "end" : "middle";
  const look = { "text-anchor": anchor, class: "halo" };
  return [
    svg("path", { class: "exit", d: `M${tip}${base}z` }, svg("title", {}, said)),
    svgText(x + 19 * dx, y + 4 + 24 * dy, percent(share), look),
  ];
}
