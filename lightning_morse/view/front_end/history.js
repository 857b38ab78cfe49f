// Curves over training: counts, confidence, shares of the box. Switches and forks are marked.

import { html, svg, svgLine, svgText } from "./elements.js";
import { percent } from "./numbers.js";
import { ticks } from "./vendor/d3.js";

const LEAST_WIDTH = 300, LEFT = 62, RIGHT = 12, TOP = 22, BOTTOM = 6, BOTTOM_WITH_STEPS = 24;
// Pixels for each tick.
const TICK_WIDTH = 90, TICK_HEIGHT = 28;
const HEIGHT = 92, HEIGHT_OF_SHARES = 132;
// Below this the distance of mu to 1 is lost in rounding.
const LEAST_FAILURE = 1e-16;
// Analyses have dots as long as there are so many pixels for each.
const DOT_WIDTH = 8;
// Half the width, in pixels, of the bar that a single analysis is drawn as.
const HALF_BAR = 30;
const MOST_NAMED = 4; // events of a kind whose steps are named
// What is marked by uprights: the count in the summaries, the class, and what it means.
const EVENTS = [
  { count: "switches", look: "switch", said: "Dotted upright: training certainly changed basins" },
  { count: "forks", look: "fork", said: "Broken upright: one basin was found to be two" },
];

export class History {
  constructor() {
    this.root = html("div", { class: "charts" });
  }

  // steps: summaries of a run, see summary() in view/record.py. now: the step that is shown. room:
  // pixels across. From one step to the next only the line that marks it moves.
  draw(steps, now, room) {
    if (this.steps !== steps || this.room !== room) {
      Object.assign(this, { steps, room });
      this.build(steps.filter((s) => !s.error));
    }
    for (const line of this.root.querySelectorAll(".marked")) {
      line.setAttribute("x1", this.x(now));
      line.setAttribute("x2", this.x(now));
    }
  }

  build(good) {
    const { steps } = this, [first, last] = [steps[0].step, steps[steps.length - 1].step];
    const width = Math.max(LEAST_WIDTH, this.room), inner = width - LEFT - RIGHT;
    const share = (s) => (last === first ? 0.5 : (s - first) / (last - first));
    this.x = (s) => LEFT + share(s) * inner;
    const events = EVENTS.map((event) => ({ ...event, pairs: risesOf(good, event.count) }));
    const across = { width, inner, first, last, x: this.x, events };
    const charts = good.length ? [countChart, confidenceChart, shareChart] : [];
    const drawn = charts.map((chart) => chart(good, across));
    const notes = events.filter(({ pairs }) => pairs.length).map(noteOn);
    this.root.replaceChildren(...drawn, ...notes.map((text) => html("p", { class: "note" }, text)));
  }
}

// Pairs of successive analyses between which a count has risen. Where one of the two does not have
// it, nothing is known.
function risesOf(good, count) {
  const pairs = good.slice(1).map((s, k) => [good[k], s]);
  const isKnown = (s) => Number.isFinite(s[count]);
  return pairs.filter(([a, b]) => isKnown(a) && isKnown(b) && b[count] > a[count]);
}

// Half way between the two analyses: when it was is not known.
function eventMarks({ events, x }, top, bottom) {
  return events.flatMap(({ look, pairs }) => pairs.map(([a, b]) => {
    const at = (x(a.step) + x(b.step)) / 2;
    return svgLine(at, top, at, bottom, { class: look });
  }));
}

function noteOn({ pairs, said }) {
  const between = pairs.slice(0, MOST_NAMED).map(([a, b]) => `${a.step} and ${b.step}`);
  const rest = pairs.length - between.length;
  const where = between.join(", ") + (rest ? ` and ${rest} times more` : "");
  return `${said}, between steps ${where}.`;
}

// An empty chart with its name and horizontal lines; y: pixels of a value.
function frameOf(name, across, { height, low, high, marks, label, bottom = BOTTOM }) {
  const { width, inner } = across, tall = height - TOP - bottom;
  const y = (v) => TOP + tall - ((v - low) / (high - low || 1)) * tall;
  const page = svg("svg", { width, height, role: "img", "aria-label": name });
  page.append(svgText(LEFT, 12, name, { class: "faint" }));
  for (const t of marks) {
    page.append(svgLine(LEFT, y(t), LEFT + inner, y(t), { class: "axis" }));
    page.append(svgText(LEFT - 6, y(t) + 4, label(t), { "text-anchor": "end" }));
  }
  const cursor = svgLine(LEFT, TOP, LEFT, TOP + tall, { class: "marked" });
  const uprights = [...eventMarks(across, TOP, TOP + tall), cursor];
  return { page, y, uprights };
}

function curve(good, values, across, y, look) {
  const at = good.map((s, k) => [across.x(s.step), y(values[k])]);
  const points = at.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ");
  const line = svg("polyline", { points, fill: "none", "stroke-width": 2, ...look });
  if (at.length * DOT_WIDTH > across.inner) return [line];
  const dots = at.map(([cx, cy]) => svg("circle", { cx, cy, r: 2.6, fill: look.stroke }));
  return [line, ...dots];
}

const wholeTicks = (low, high) => {
  return ticks(low, high, (HEIGHT - TOP - BOTTOM) / TICK_HEIGHT).filter(Number.isInteger);
};

function countChart(good, across) {
  const counts = good.map((s) => s.attractors), open = good.map((s) => s.unresolved);
  const high = Math.max(1, ...counts, ...open), marks = wholeTicks(0, high);
  const name = "attractors (solid), places that may hide a minimum (dashed)";
  const scale = { height: HEIGHT, low: 0, high, marks, label: String };
  const { page, y, uprights } = frameOf(name, across, scale);
  const dashed = { stroke: "var(--faint)", "stroke-dasharray": "5 3" };
  page.append(...curve(good, open, across, y, dashed));
  page.append(...curve(good, counts, across, y, { stroke: "var(--ink)" }));
  page.append(...uprights);
  return page;
}

function confidenceChart(good, across) {
  const powers = good.map((s) => Math.log10(Math.max(1 - s.mu, LEAST_FAILURE)));
  const low = Math.min(-2, Math.floor(Math.min(...powers)));
  const name = "1 − mu: bound on the probability that the claim is wrong";
  const label = (t) => (t ? `1e${t}` : "1"), marks = wholeTicks(low, 0);
  const scale = { height: HEIGHT, low, high: 0, marks, label };
  const { page, y, uprights } = frameOf(name, across, scale);
  page.append(...curve(good, powers, across, y, { stroke: "var(--ink)" }));
  page.append(...uprights);
  return page;
}

function shareChart(good, across) {
  const name = "shares of the box: basins, undecided (hatched), escaping (grey)";
  const marks = [0, 0.5, 1], height = HEIGHT_OF_SHARES, bottom = BOTTOM_WITH_STEPS;
  const scale = { height, low: 0, high: 1, marks, label: percent, bottom };
  const { page, y, uprights } = frameOf(name, across, scale);
  page.prepend(svg("defs", {}, hatchPattern()));
  let floor = good.map(() => 0);
  for (const { values, fill } of layersOf(good)) {
    const roof = floor.map((v, k) => v + values[k]), look = { fill, stroke: "var(--card)" };
    for (const [start, end] of stretches(values)) {
      const part = (list) => list.slice(start, end);
      const points = band(part(good), part(floor), part(roof), across.x, y);
      page.append(svg("polygon", { points, ...look, "stroke-width": 0.8 }));
    }
    floor = roof;
  }
  const { first, last, inner, x } = across;
  const all = first === last ? [first] : ticks(first, last, inner / TICK_WIDTH);
  for (const t of all.filter(Number.isInteger)) {
    page.append(svgText(x(t), height - 4, t, { "text-anchor": "middle" }));
  }
  page.append(svgText(LEFT - 6, height - 4, "step", { "text-anchor": "end", class: "faint" }));
  page.append(...uprights);
  return page;
}

// Shares from the bottom up: an attractor keeps its place and colour over the run.
function layersOf(good) {
  const basins = new Map();
  good.forEach((s, k) => s.basins.forEach(({ identity, volume, color }) => {
    if (!basins.has(identity)) basins.set(identity, { values: good.map(() => 0), fill: color });
    basins.get(identity).values[k] = volume;
  }));
  const identities = [...basins.keys()].sort((a, b) => a - b);
  return [
    ...identities.map((identity) => basins.get(identity)),
    { values: good.map((s) => s.undecided), fill: "url(#morse-hatch)" },
    { values: good.map((s) => s.escape), fill: "var(--escape)" },
  ];
}

// Start and end of each stretch of values above 0, with a value of 0 on either side: of many
// attractors most are seen in few of the analyses.
function stretches(values) {
  const found = [];
  for (let k = 0; k < values.length; k++) {
    if (!values[k]) continue;
    const start = Math.max(k - 1, 0);
    while (k + 1 < values.length && values[k + 1]) k++;
    found.push([start, Math.min(k + 2, values.length)]);
  }
  return found;
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
