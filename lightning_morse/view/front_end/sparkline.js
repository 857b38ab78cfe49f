// A curve without axes in a line of text: the loss of a run, and the floor under it.

import { svg } from "./elements.js";
import { short } from "./numbers.js";

const WIDTH = 120, HEIGHT = 24, EDGE = 2;
// Points of a curve at most: the least and the largest value of each stretch.
const MOST_POINTS = 80;
// Heights are logarithms of losses that are this many times apart.
const LOGARITHMIC_FROM = 30;

// course: see course_of() in view/course.py.
export function sparkline({ step, loss, floor }) {
  const known = [...loss, ...floor].filter((v) => v !== null);
  const low = Math.min(...known), high = Math.max(...known);
  const first = step[0], last = step[step.length - 1];
  const isWide = low > 0 && high > LOGARITHMIC_FROM * low;
  const scale = isWide ? Math.log : (v) => v;
  const tall = HEIGHT - 2 * EDGE, span = scale(high) - scale(low) || 1;
  const x = (s) => EDGE + ((s - first) / (last - first || 1)) * (WIDTH - 2 * EDGE);
  const y = (v) => EDGE + (1 - (scale(v) - scale(low)) / span) * tall;
  const curve = (values, look) => {
    const path = thinned(values).map((k, n, all) => {
      const goesOn = n && !values.slice(all[n - 1], k).includes(null);
      return `${goesOn ? "L" : "M"}${x(step[k]).toFixed(1)} ${y(values[k]).toFixed(1)}`;
    });
    // A round end makes a point of a single value.
    return svg("path", { d: path.map((p) => `${p}h0`).join(""), class: look });
  };
  const size = { width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}` };
  const said = { role: "img", "aria-label": known.length ? nameOf(loss, floor) : "no loss known" };
  return svg("svg", { ...size, ...said }, curve(floor, "floor"), curve(loss, "loss"));
}

function nameOf(loss, floor) {
  return [["loss", loss], ["floor", floor]].flatMap(([name, values]) => {
    const known = values.filter((v) => v !== null);
    if (!known.length) return [];
    return [`${name} from ${short(known[0])} to ${short(known[known.length - 1])}`];
  }).join(", ");
}

// Indices of the values that are drawn.
function thinned(values) {
  const known = values.map((v, k) => k).filter((k) => values[k] !== null);
  if (known.length <= MOST_POINTS) return known;
  const each = Math.ceil((2 * known.length) / MOST_POINTS), kept = new Set([known[0]]);
  for (let at = 0; at < known.length; at += each) {
    const part = known.slice(at, at + each);
    kept.add(part.reduce((a, b) => (values[b] < values[a] ? b : a)));
    kept.add(part.reduce((a, b) => (values[b] > values[a] ? b : a)));
  }
  kept.add(known[known.length - 1]);
  return [...kept].sort((a, b) => a - b);
}
