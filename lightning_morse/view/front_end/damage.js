// Checks of what is drawn: a damaged record is said to be so, and never hangs or empties a page.

const MAX_CELLS = 2 ** 24, MAX_AXES = 3;

const isList = Array.isArray;
const isWhole = Number.isSafeInteger;
const isNumber = Number.isFinite; // of no text, and of no null
const isObject = (v) => typeof v === "object" && v !== null && !isList(v);
// Shares of older records may lie outside by a rounding.
const isShare = (v) => isNumber(v) && v >= -1e-9 && v <= 1 + 1e-9;
const isPoint = (v, d) => isList(v) && v.length === d && v.every(isNumber);
const isText = (text, length) => typeof text === "string" && text.length === length;
const product = (values) => values.reduce((a, b) => a * b, 1);

function expect(right, name) {
  if (!right) throw new Error(`This record is damaged: "${name}" is not what it should be.`);
}

// Throws an error that names the part that is wrong.
export function checkRecord(raw) {
  expect(isObject(raw), "record");
  expect(isList(raw.shape), "shape");
  const d = raw.shape.length;
  expect(isList(raw.sets) && raw.sets.every((m) => isSet(m, d)), "sets");
  checkBox(raw, d, raw.sets.length);
  expect(raw.inner === undefined || isList(raw.inner), "inner");
  for (const box of raw.inner ?? []) checkBox(box, d, raw.sets.length);
  checkEdges(raw.edges, raw.sets.length);
  checkCourse(raw, d);
  checkLadder(raw.ladder, raw.sets.filter((m) => m.attractor).length);
  expect(isObject(raw.facts) && typeof raw.facts.claim === "string", "facts");
  for (const name of ["mu", "escape", "undecided"]) expect(isShare(raw.facts[name]), name);
}

function isSet(m, d) {
  const known = isObject(m) && typeof m.attractor === "boolean" && typeof m.resolved === "boolean";
  const index = known && (m.index === null || (isWhole(m.index) && m.index >= 0 && m.index <= d));
  const color = known && (/^#[0-9a-f]{6}$/i.test(m.color) || (m.color === null && !m.attractor));
  return index && color && isPoint(m.center, d) && isShare(m.volume);
}

function checkBox(box, d, sets) {
  expect(isObject(box), "box");
  const shape = isList(box.shape) && box.shape.length === d && d >= 1 && d <= MAX_AXES;
  expect(shape && box.shape.every((n) => isWhole(n) && n > 0), "shape");
  const size = product(box.shape);
  expect(size <= MAX_CELLS, "shape");
  expect(isPoint(box.lower, d) && isPoint(box.upper, d), "lower");
  expect(box.lower.every((v, k) => v < box.upper[k]), "lower");
  expect(areRuns(box.labels, size, -2, sets - 1), "labels");
  expect(areRuns(box.owner, size, -1, sets - 1), "owner");
  expect(areRuns(box.diverged, size, 0, 1), "diverged");
  expect(isList(box.levels) && box.levels.every(isNumber), "levels");
  checkLoss(box, d);
  if (box.reach) checkReach(box.reach, size, sets);
}

function areRuns(runs, size, least, most) {
  if (!isList(runs) || runs.length % 2) return false;
  let sum = 0;
  for (let k = 0; k < runs.length; k += 2) {
    const right = isWhole(runs[k]) && runs[k] >= least && runs[k] <= most;
    if (!right || !isWhole(runs[k + 1]) || runs[k + 1] <= 0) return false;
    sum += runs[k + 1];
  }
  return sum === size;
}

function checkLoss({ loss, deviation }, d) {
  expect(isObject(loss) && isList(loss.shape) && loss.shape.length === d, "loss");
  expect(loss.shape.every((n) => isWhole(n) && n > 1), "loss");
  expect([loss.low, loss.scale, loss.top].every(isNumber), "loss");
  const points = product(loss.shape), length = (bytes) => 4 * Math.ceil(bytes / 3);
  expect(isText(loss.data, length(2 * points)), "loss");
  if (!deviation) return;
  expect(isNumber(deviation.low) && isNumber(deviation.top), "deviation");
  expect(isText(deviation.data, length(points)), "deviation");
}

function checkReach(reach, size, sets) {
  const length = Math.floor(sets / 4) + 1;
  const isMask = (mask) => isText(mask, length) && /^[0-9a-f]*$/.test(mask);
  expect(isObject(reach) && isList(reach.kinds) && reach.kinds.every(isMask), "reach");
  expect(areRuns(reach.of, size, 0, reach.kinds.length - 1), "reach");
  const isKind = (k) => isWhole(k) && k >= 0 && k < reach.kinds.length;
  const { unknown } = reach;
  expect(unknown === undefined || (isList(unknown) && unknown.every(isKind)), "reach");
}

// A layout of the graph never ends where there is a cycle, and drawing an edge often is no use.
function checkEdges(edges, sets) {
  const isEnd = (v) => isWhole(v) && v >= 0 && v < sets;
  const isEdge = (e) => isList(e) && e.length === 2 && e.every(isEnd);
  expect(isList(edges) && edges.every(isEdge), "edges");
  const below = Array.from({ length: sets }, () => new Set()), above = new Array(sets).fill(0);
  for (const [u, v] of edges) {
    expect(!below[u].has(v), "edges");
    below[u].add(v);
    above[v]++;
  }
  const free = above.flatMap((n, i) => (n ? [] : [i]));
  for (let k = 0; k < free.length; k++) {
    for (const v of below[free[k]]) if (!--above[v]) free.push(v);
  }
  expect(free.length === sets, "edges");
}

function checkCourse(raw, d) {
  const { trajectory, current, exits, axes, scalars } = raw;
  expect(isList(trajectory) && trajectory.every((p) => isPoint(p, d)), "trajectory");
  expect(current === null || isPoint(current, d), "current");
  expect(isList(exits) && exits.length === d && exits.every((e) => isPoint(e, 2)), "exits");
  expect(isList(axes) && axes.length === d, "axes");
  expect(isObject(scalars) && Object.values(scalars).every(isNumber), "scalars");
}

function checkLadder(ladder, attractors) {
  expect(isObject(ladder) && isList(ladder.levels) && ladder.levels.every(isNumber), "ladder");
  const isRow = (row) => isList(row) && row.length === attractors && row.every(isWhole);
  const { blocks, levels } = ladder;
  expect(isList(blocks) && (!attractors || blocks.length === levels.length), "ladder");
  expect(!attractors || blocks.every(isRow), "ladder");
  expect(!attractors || blocks.flat().every((b) => b >= -1 && b < attractors), "ladder");
}
