// Curves over training: counts, confidence, and shares of the box.

import { svg, svgLine, svgText } from "./elements.js";
import { percent } from "./numbers.js";
import { ticks } from "./vendor/d3.js";

const LEAST_WIDTH = 300, LEFT = 62, RIGHT = 12, TOP = 22, BOTTOM = 6, BOTTOM_WITH_STEPS = 24;
// Pixels for each tick.
const TICK_WIDTH = 90, TICK_HEIGHT = 28;
const HEIGHT = 92, HEIGHT_OF_SHARES = 132;
// Below this the distance of mu to 1 is lost in rounding.
const LEAST_FAILURE = 1e-16;
// Half the width, in pixels, of the bar that a single analysis is drawn as.
const HALF_BAR = 30;

// steps: summaries of a run, see summary() in view/record.py. now: the step that is shown.
export function drawHistory(root, steps, now) {
  root.replaceChildren();
  const good = steps.filter((s) => !s.error);
  if (!good.length) return;
  const width = Math.max(LEAST_WIDTH, root.clientWidth), inner = width - LEFT - RIGHT;
  const [first, last] = [steps[0].step, steps[steps.length - 1].step];
  const share = (s) => (last === first ? 0.5 : (s - first) / (last - first));
  const across = { width, inner, first, last, now, x: (s) => LEFT + share(s) * inner };
  root.append(countChart(good, across), confidenceChart(good, across), shareChart(good, across));
}

// An empty chart with its name and horizontal lines; y: pixels of a value.
function frameOf(name, across, { height, low, high, marks, label, bottom = BOTTOM }) {
  const { width, inner, now, x } = across, tall = height - TOP - bottom;
  const y = (v) => TOP + tall - ((v - low) / (high - low || 1)) * tall;
  const page = svg("svg", { width, height, role: "img", "aria-label": name });
  page.append(svgText(LEFT, 12, name, { class: "faint" }));
  for (const t of marks) {
    page.append(svgLine(LEFT, y(t), LEFT + inner, y(t), { class: "axis" }));
    page.append(svgText(LEFT - 6, y(t) + 4, label(t), { "text-anchor": "end" }));
  }
  const cursor = svgLine(x(now), TOP, x(now), TOP + tall, { class: "marked" });
  return { page, y, cursor };
}

function curve(good, values, across, y, look) {
  const at = good.map((s, k) => [across.x(s.step), y(values[k])]);
  const points = at.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ");
  const dots = at.map(([cx, cy]) => svg("circle", { cx, cy, r: 2.6, fill: look.stroke }));
  return [svg("polyline", { points, fill: "none", "stroke-width": 2, ...look }), ...dots];
}

const wholeTicks = (low, high) => {
  return ticks(low, high, (HEIGHT - TOP - BOTTOM) / TICK_HEIGHT).filter(Number.isInteger);
};

function countChart(good, across) {
  const counts = good.map((s) => s.attractors), open = good.map((s) => s.unresolved);
  const high = Math.max(1, ...counts, ...open), marks = wholeTicks(0, high);
  const name = "attractors (solid), places that may hide a minimum (dashed)";
  const scale = { height: HEIGHT, low: 0, high, marks, label: String };
  const { page, y, cursor } = frameOf(name, across, scale);
  const dashed = { stroke: "var(--faint)", "stroke-dasharray": "5 3" };
  page.append(...curve(good, open, across, y, dashed));
  page.append(...curve(good, counts, across, y, { stroke: "var(--ink)" }), cursor);
  return page;
}

function confidenceChart(good, across) {
  const powers = good.map((s) => Math.log10(Math.max(1 - s.mu, LEAST_FAILURE)));
  const low = Math.min(-2, Math.floor(Math.min(...powers)));
  const name = "1 − mu: bound on the probability that the claim is wrong";
  const label = (t) => (t ? `1e${t}` : "1"), marks = wholeTicks(low, 0);
  const { page, y, cursor } = frameOf(name, across, { height: HEIGHT, low, high: 0, marks, label });
  page.append(...curve(good, powers, across, y, { stroke: "var(--ink)" }), cursor);
  return page;
}

function shareChart(good, across) {
  const name = "shares of the box: basins, undecided (hatched), escaping (grey)";
  const marks = [0, 0.5, 1], height = HEIGHT_OF_SHARES, bottom = BOTTOM_WITH_STEPS;
  const scale = { height, low: 0, high: 1, marks, label: percent, bottom };
  const { page, y, cursor } = frameOf(name, across, scale);
  page.prepend(svg("defs", {}, hatchPattern()));
  let floor = good.map(() => 0);
  for (const { values, fill } of layersOf(good)) {
    const roof = floor.map((v, k) => v + values[k]);
    const points = band(good, floor, roof, across.x, y);
    page.append(svg("polygon", { points, fill, stroke: "var(--card)", "stroke-width": 0.8 }));
    floor = roof;
  }
  const { first, last, inner, x } = across;
  const all = first === last ? [first] : ticks(first, last, inner / TICK_WIDTH);
  for (const t of all.filter(Number.isInteger)) {
    page.append(svgText(x(t), height - 4, t, { "text-anchor": "middle" }));
  }
  page.append(svgText(LEFT - 6, height - 4, "step", { "text-anchor": "end", class: "faint" }));
  page.append(cursor);
  return page;
}

// Shares from the bottom up: an attractor keeps its place and colour over the run.
function layersOf(good) {
  const identities = new Set(good.flatMap((s) => s.basins.map((b) => b.identity)));
  const basins = [...identities].sort((a, b) => a - b).map((identity) => {
    const own = good.map((s) => s.basins.find((b) => b.identity === identity));
    return { values: own.map((b) => b?.volume ?? 0), fill: own.find((b) => b).color };
  });
  return [
    ...basins,
    { values: good.map((s) => s.undecided), fill: "url(#morse-hatch)" },
    { values: good.map((s) => s.escape), fill: "var(--escape)" },
  ];
}

// Corners of the area between two curves; of one analysis alone, of a bar.
function band(good, floor, roof, x, y) {
  let up = good.map((s, k) => [x(s.step), y(roof[k])]);
  let down = good.map((s, k) => [x(s.step), y(floor[k])]);
  if (good.length === 1) {
    const wide = ([[at, v]]) => [[at - HALF_BAR, v], [at + HALF_BAR, v]];
    [up, down] = [wide(up), wide(down)];
  }
  const corners = [...up, ...down.reverse()];
  return corners.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ");
}

function hatchPattern() {
  const size = { width: 6, height: 6 }, line = { stroke: "var(--hatch)", "stroke-width": 1.8 };
  const turned = { patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  const ground = svg("rect", { ...size, fill: "var(--void)" });
  const pattern = { id: "morse-hatch", ...size, ...turned };
  return svg("pattern", pattern, ground, svgLine(0, 0, 0, 6, line));
}
