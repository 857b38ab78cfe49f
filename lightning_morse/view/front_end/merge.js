// The merge diagram: up to which confidence each attractor persists, and how it ends.

import { attractorsOf } from "./data.js";
import { html, svg, svgLine, svgText } from "./elements.js";
import { bound } from "./numbers.js";

const MAX_LANES = 30, LEAST_WIDTH = 300, LEFT = 88, RIGHT = 112, TOP = 24, BOTTOM = 34;
const LANE = 26, NARROW_LANE = 18, MAX_WIDE_LANES = 12;
const TICK_WIDTH = 62;
// Confidences are drawn as -log10(1 - p), their number of nines; here rounding ends.
const LEAST_FAILURE = 1e-16;
const NOTE = "Lines join where attractors merge and end in a cross where one may leave the box. "
  + "A diamond marks the confidence in that attractor alone.";

const nines = (p) => -Math.log10(Math.max(1 - p, LEAST_FAILURE));

// room: pixels across.
export function drawMerge(root, record, room) {
  root.replaceChildren();
  const attractors = attractorsOf(record).slice(0, MAX_LANES), { mu } = record.facts;
  if (!attractors.length || mu === 0) {
    const why = attractors.length
      ? "The samples refute the surrogate, so nothing is claimed."
      : "No attractor holds at the requested confidence.";
    root.replaceChildren(html("p", { class: "message" }, why));
    return;
  }
  const scale = scaleOf(record, attractors, Math.max(LEAST_WIDTH, room));
  const { width, height } = scale;
  const name = "confidence up to which each attractor persists";
  const page = svg("svg", { width, height, role: "img", "aria-label": name });
  page.append(...axisItems(scale));
  attractors.forEach((_, a) => page.append(...laneItems(record, attractors, a, scale)));
  page.append(...claimItems(record, scale));
  root.replaceChildren(page, html("p", { class: "note" }, NOTE));
}

function scaleOf(record, attractors, width) {
  const levels = record.ladder.levels.map(nines), low = levels[0];
  const own = attractors.map((i) => nines(record.sets[i].mu ?? 0));
  const last = levels[levels.length - 1];
  const high = Math.max(last, ...own, nines(record.facts.mu), low + 0.5);
  const lane = attractors.length > MAX_WIDE_LANES ? NARROW_LANE : LANE;
  const inner = width - LEFT - RIGHT, tall = lane * attractors.length;
  const order = orderOf(attractors, record.ladder.blocks);
  const x = (v) => LEFT + ((v - low) / (high - low)) * inner;
  const y = (a) => TOP + lane * (order.indexOf(a) + 0.5);
  return { levels, own, low, high, width, inner, tall, height: TOP + tall + BOTTOM, x, y };
}

// Attractors whose blocks merge stand next to each other.
function orderOf(attractors, blocks) {
  const groups = new Map(attractors.map((_, a) => [a, [a]]));
  for (const row of blocks) {
    attractors.forEach((_, a) => {
      const into = row[a];
      if (into < 0 || into === a || !groups.has(a) || !groups.has(into)) return;
      groups.get(into).push(...groups.get(a));
      groups.delete(a);
    });
  }
  return [...groups.values()].flat();
}

function axisItems({ low, high, width, inner, tall, x }) {
  const items = [], each = Math.ceil((high - low) / (inner / TICK_WIDTH));
  for (let k = Math.ceil(low); k <= high; k++) {
    if (k % each) continue;
    const written = k < 5 ? String(Number((1 - 10 ** -k).toFixed(k))) : `1−1e−${k}`;
    items.push(svgLine(x(k), TOP, x(k), TOP + tall, { class: "axis" }));
    items.push(svgText(x(k), TOP + tall + 15, written, { "text-anchor": "middle" }));
  }
  const middle = { "text-anchor": "middle", class: "faint" };
  items.push(svgText(LEFT + inner / 2, TOP + tall + 31, "confidence given the model", middle));
  items.push(svgText(width - RIGHT + 16, 14, "own mu ≥", { class: "faint" }));
  return items;
}

function laneItems(record, attractors, a, { levels, own, low, width, x, y }) {
  const m = record.sets[attractors[a]], path = record.ladder.blocks.map((row) => row[a]);
  const left = path.findIndex((b) => b !== a), stays = left < 0 ? path.length : left;
  const end = levels[Math.max(0, stays - 1)], at = y(a);
  const solid = { stroke: m.color, "stroke-width": 3.5 };
  const items = [svgLine(x(low), at, x(end), at, solid)];
  if (stays < path.length && path[stays] < 0) {
    const px = x((end + levels[stays]) / 2), d = `M${px - 5} ${at - 5}l10 10m0 -10l-10 10`;
    items.push(svgLine(x(end), at, px, at, solid));
    items.push(svg("path", { d, stroke: m.color, "stroke-width": 2.5 }));
  } else if (stays < path.length && path[stays] < attractors.length) {
    items.push(svgLine(x(end), at, x(levels[stays]), y(path[stays]), solid));
  }
  const dotted = { stroke: m.color, "stroke-dasharray": "2 3" };
  items.push(svgLine(x(end), at, x(Math.max(end, own[a])), at, dotted));
  const diamond = `M${x(Math.max(own[a], low))} ${at - 6}l6 6l-6 6l-6 -6z`;
  items.push(svg("path", { d: diamond, fill: m.color, stroke: "#000000" }));
  const name = `attractor ${attractors[a]}`;
  items.push(svgText(LEFT - 8, at + 4, name, { "text-anchor": "end" }));
  items.push(svgText(width - RIGHT + 16, at + 4, bound(m)));
  return items;
}

function claimItems(record, { low, inner, tall, x }) {
  const at = x(Math.max(nines(record.facts.mu), low));
  const look = { stroke: "var(--ink)", "stroke-dasharray": "7 3", "stroke-width": 1.4 };
  const anchor = at > LEFT + inner / 2 ? "end" : "start";
  const said = `mu of “${record.facts.claim}”`;
  return [
    svgLine(at, TOP - 6, at, TOP + tall, look),
    svgText(Math.max(at, LEFT + 12), 14, said, { "text-anchor": anchor }),
  ];
}
