// Records: decoding what encode() in view/encoding.py writes, and looking values up in them.

import { checkRecord } from "./damage.js";

// Labels of cells that belong to no basin.
export const UNDECIDED = -1;
export const ESCAPES = -2;
export const DIVERGED = -3;

// Codes of the quantised loss and of its deviation; the last one stands for "not finite".
const LOSS_CODES = 65534, NO_LOSS = 65535, DEVIATION_CODES = 254, NO_DEVIATION = 255;

// A record and the boxes inside, which are like records of their own: what is known of their cells
// replaces what is known of those around. The first of record.boxes is the whole. Throws an error
// that says what is wrong with a record that cannot be drawn.
export function openRecord(raw) {
  checkRecord(raw);
  const whole = openBox({ ...raw, scalars: bareNames(raw.scalars) });
  const none = raw.exits.map(() => [0, 0]); // shares are known of the faces of the whole only
  const bare = { ...raw, deviation: null, reach: null, exits: none, scalars: whole.scalars };
  whole.boxes = [whole, ...(raw.inner ?? []).map((box) => openBox({ ...bare, ...box }))];
  for (const box of whole.boxes) box.boxes = whole.boxes;
  return whole;
}

function openBox(raw) {
  const size = raw.shape.reduce((a, b) => a * b, 1);
  const labels = expand(raw.labels, size), diverged = expand(raw.diverged, size);
  return {
    ...raw,
    field: labels.map((label, i) => (diverged[i] ? DIVERGED : label)),
    strides: raw.shape.map((_, k) => raw.shape.slice(k + 1).reduce((a, b) => a * b, 1)),
    owner: expand(raw.owner, size),
    lossValues: restoreLoss(raw.loss),
    deviations: raw.deviation ? restoreDeviation(raw.deviation) : null,
    reachOf: raw.reach ? expand(raw.reach.of, size) : null,
  };
}

// Published scalars carry the name of their monitor as a prefix. It is cut here and nowhere else.
function bareNames(scalars) {
  const bare = Object.entries(scalars).map(([k, v]) => [k.slice(k.lastIndexOf("/") + 1), v]);
  return Object.fromEntries(bare);
}

export const scalar = (record, name) => record.scalars[name] ?? null;

// Values from run lengths: value, length, value, length ...
function expand(runs, size) {
  const values = new Int32Array(size);
  for (let k = 0, at = 0; k < runs.length; k += 2) {
    values.fill(runs[k], at, (at += runs[k + 1]));
  }
  return values;
}

function restoreLoss(raw) {
  const text = atob(raw.data), loss = new Float64Array(text.length / 2);
  for (let i = 0; i < loss.length; i++) {
    const code = text.charCodeAt(2 * i) + 256 * text.charCodeAt(2 * i + 1);
    const share = (code / LOSS_CODES) * raw.top;
    loss[i] = code === NO_LOSS ? NaN : raw.low + raw.scale * Math.expm1(share);
  }
  return loss;
}

function restoreDeviation(raw) {
  // There are few codes and many points.
  const ofCode = Float64Array.from({ length: NO_DEVIATION + 1 }, (_, code) => {
    return code === NO_DEVIATION ? NaN : raw.low * Math.exp((code / DEVIATION_CODES) * raw.top);
  });
  const text = atob(raw.data), deviations = new Float64Array(text.length);
  for (let i = 0; i < text.length; i++) deviations[i] = ofCode[text.charCodeAt(i)];
  return deviations;
}

export function contains(box, point) {
  return point.every((v, k) => v >= box.lower[k] && v <= box.upper[k]);
}

// The box around another one; of the whole there is none, and it answers for itself.
export function boxAround(box) {
  const around = box.boxes.filter((o) => o !== box && boxesWithin(o).includes(box));
  return around.pop() ?? box;
}

// A box and those inside it, each after the ones around it.
export function boxesWithin(box) {
  const [a, b] = [box.lower, box.upper];
  const within = (o) => o.lower.every((v, k) => v >= a[k] && o.upper[k] <= b[k]);
  return [box, ...box.boxes.slice(box.boxes.indexOf(box) + 1).filter(within)];
}

// The innermost box at a point, of those within one; that one itself for a point outside.
export function boxAt(box, point) {
  return boxesWithin(box).filter((o) => o === box || contains(o, point)).pop();
}

// The lattice points around a point of the box, and their weights in multilinear interpolation.
function cornersAt(record, point) {
  const shape = record.loss.shape;
  let corners = [[0, 1]];
  for (let k = 0; k < shape.length; k++) {
    const n = shape[k];
    const u = ((point[k] - record.lower[k]) / (record.upper[k] - record.lower[k])) * (n - 1);
    const i = Math.min(Math.max(Math.floor(u), 0), n - 2), t = Math.min(Math.max(u - i, 0), 1);
    corners = corners.flatMap(([at, w]) => [[at * n + i, w * (1 - t)], [at * n + i + 1, w * t]]);
  }
  return corners;
}

function valueAt(record, values, point) {
  return cornersAt(record, point).reduce((sum, [at, w]) => (w ? sum + w * values[at] : sum), 0);
}

export const lossAt = (record, point) => valueAt(record, record.lossValues, point);

// Deviation of the loss as it is drawn; NaN where the record has none.
export function deviationAt(record, point) {
  if (!record.deviations) return NaN;
  return valueAt(record, record.deviations, point) + drawingError(record, point);
}

// Error that interpolating and rounding the loss may add, from second differences on the lattice.
// An estimate, like the deviation itself.
function drawingError(record, point) {
  const { scale, low, top } = record.loss;
  const rounding = ((lossAt(record, point) - low + scale) * top) / LOSS_CODES / 2;
  return rounding + Math.max(...cornersAt(record, point).map(([at]) => bendAt(record, at)));
}

function bendAt(record, at) {
  const shape = record.loss.shape, values = record.lossValues;
  let sum = 0, rest = at;
  for (let k = shape.length - 1, stride = 1; k >= 0; stride *= shape[k--]) {
    const i = rest % shape[k];
    rest = (rest - i) / shape[k];
    if (shape[k] < 3) continue;
    const mid = at + (Math.min(Math.max(i, 1), shape[k] - 2) - i) * stride;
    sum += Math.abs(values[mid - stride] - 2 * values[mid] + values[mid + stride]) / 8;
  }
  return sum;
}

// Whether a record is that of a map learnt from recorded runs: such a map has no loss anywhere.
export const isMap = (record) => record.boxes[0].lossValues.every(Number.isNaN);

// Morse sets that a cell may reach, and whether it may leave the box or come to where nothing is
// known; null if the record does not say.
export function reachAt(record, cell) {
  if (!record.reachOf) return null;
  const mask = record.reach.kinds[record.reachOf[cell]], n = record.sets.length;
  const has = (i) => (parseInt(mask[i >> 2], 16) >> (i & 3)) & 1;
  const sets = record.sets.map((_, i) => i).filter(has);
  const unknown = Boolean(record.reach.unknown?.includes(record.reachOf[cell]));
  return { sets, leaves: Boolean(has(n)), unknown };
}

export const attractorsOf = (record) =>
  record.sets.map((_, i) => i).filter((i) => record.sets[i].attractor);
