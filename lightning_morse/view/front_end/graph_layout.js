// Which Morse sets are drawn, and the rows they stand in.

// Of more Morse sets those of the highest barriers are drawn, as in the figure of a Morse graph
// (plotting/graph_choice.py), and so many attractors before all passes.
const MAX_DRAWN = 30, MAX_ATTRACTORS = 12;
// Sweeps to reduce crossings; more bring nothing at these sizes.
const SWEEPS = 12;

// Compares for an order from the highest down; infinities are equal.
const downward = (u, v) => Number(u < v) - Number(u > v);

// Sets worth drawing and the edges between them; paths through those left out become edges.
export function shownGraph(record) {
  const all = record.sets.map((_, i) => i);
  if (all.length <= MAX_DRAWN) return { shown: all, edges: record.edges, hidden: 0 };
  const below = reachable(all.length, record.edges), edges = [];
  const drawn = new Set(byBarrier(record.sets, below).slice(0, MAX_DRAWN));
  const shown = all.filter((i) => drawn.has(i));
  for (const u of shown) {
    const reached = shown.filter((v) => below[u].has(v));
    for (const v of reached) if (!reached.some((k) => below[k].has(v))) edges.push([u, v]);
  }
  return { shown, edges, hidden: all.length - shown.length };
}

// First what a reader would miss most: attractors by the rise in loss up to their lowest pass, with
// these passes; what carries no barrier last, and what may hide a minimum after what may not.
function byBarrier(sets, below) {
  const all = sets.map((_, i) => i), loss = (i) => sets[i].loss ?? Infinity;
  const isPass = (i) => sets[i].index === null || sets[i].index <= 1;
  const rise = new Map(), pass = new Map();
  for (const a of all.filter((i) => sets[i].attractor)) {
    const passes = all.filter((i) => below[i].has(a) && isPass(i));
    pass.set(a, passes.sort((i, j) => downward(loss(j), loss(i)))[0]);
    rise.set(a, passes.length ? loss(pass.get(a)) - loss(a) : Infinity);
  }
  const attractors = [...rise.keys()];
  attractors.sort((i, j) => downward(rise.get(i), rise.get(j)) || downward(loss(j), loss(i)));
  const first = attractors.slice(0, MAX_ATTRACTORS);
  const passes = first.map((a) => pass.get(a)).filter((i) => i !== undefined);
  const rest = [...all].sort((i, j) => sets[j].resolved - sets[i].resolved
    || downward(loss(j), loss(i)));
  return [...new Set([...first, ...passes, ...attractors, ...rest])];
}

// For each vertex, all that paths of at least one edge lead to.
function reachable(n, edges) {
  const next = Array.from({ length: n }, () => []);
  for (const [u, v] of edges) next[u].push(v);
  return next.map((_, i) => {
    const found = new Set(), stack = [i];
    while (stack.length) {
      for (const v of next[stack.pop()]) {
        if (found.has(v)) continue;
        found.add(v);
        stack.push(v);
      }
    }
    return found;
  });
}

// Rows of nodes and bends from the top down, and the way of each edge through them. An edge that
// passes a row has a bend there, which takes part in the ordering, so no edge runs behind a node.
export function layered(record, graph, perRow) {
  const rows = rowsOfNodes(record, graph, perRow), rowOf = new Map();
  rows.forEach((nodes, r) => nodes.forEach((n) => rowOf.set(n, r)));
  const ways = graph.edges.map(([u, v]) => {
    const passed = rowOf.get(v) - rowOf.get(u) - 1;
    const bends = Array.from({ length: passed }, (_, k) => ({ row: rowOf.get(u) + 1 + k }));
    for (const bend of bends) {
      rows[bend.row].push(bend);
      rowOf.set(bend, bend.row);
    }
    return [u, ...bends, v];
  });
  return { rows: untangled(rows, ways, rowOf), ways };
}

// Levels by the longest way down, attractors in the lowest; wide levels take several rows.
function rowsOfNodes(record, graph, perRow) {
  const next = new Map(graph.shown.map((i) => [i, []])), depth = new Map();
  for (const [u, v] of graph.edges) next.get(u).push(v);
  const level = (i) => {
    if (!depth.has(i)) {
      const below = 1 + Math.max(0, ...next.get(i).map(level));
      depth.set(i, record.sets[i].attractor ? 0 : below);
    }
    return depth.get(i);
  };
  graph.shown.forEach(level);
  const rows = [], loss = (i) => record.sets[i].loss;
  for (const k of [...new Set(depth.values())].sort((a, b) => b - a)) {
    const nodes = graph.shown.filter((i) => depth.get(i) === k).sort((i, j) => loss(j) - loss(i));
    const pieces = Math.ceil(nodes.length / perRow), each = Math.ceil(nodes.length / pieces);
    for (let at = 0; at < nodes.length; at += each) rows.push(nodes.slice(at, at + each));
  }
  return rows;
}

// Few crossings (barycentre heuristic of Sugiyama, Tagawa, Toda 1981): in each sweep a row takes
// the order of the mean place of its neighbours in the row before. The best order seen is kept.
function untangled(rows, ways, rowOf) {
  const near = new Map(rows.flat().map((n) => [n, []]));
  const pairs = ways.flatMap((way) => way.slice(1).map((n, k) => [way[k], n]));
  for (const [u, v] of pairs) {
    near.get(u).push(v);
    near.get(v).push(u);
  }
  const place = new Map();
  const put = (nodes) => nodes.forEach((n, k) => place.set(n, (k + 0.5) / nodes.length));
  const copied = () => rows.map((nodes) => [...nodes]);
  rows.forEach(put);
  let best = { crossings: crossings(pairs, place, rowOf), rows: copied() };
  for (let sweep = 0; sweep < SWEEPS && best.crossings; sweep++) {
    const down = sweep % 2 === 0;
    for (const nodes of down ? rows : [...rows].reverse()) {
      const earlier = (n, m) => (down ? rowOf.get(m) < rowOf.get(n) : rowOf.get(m) > rowOf.get(n));
      const wish = new Map(nodes.map((n) => {
        const before = near.get(n).filter((m) => earlier(n, m)).map((m) => place.get(m));
        const sum = before.reduce((a, b) => a + b, 0);
        return [n, before.length ? sum / before.length : place.get(n)];
      }));
      nodes.sort((a, b) => wish.get(a) - wish.get(b));
      put(nodes);
    }
    const now = crossings(pairs, place, rowOf);
    if (now < best.crossings) best = { crossings: now, rows: copied() };
  }
  return best.rows;
}

function crossings(pairs, place, rowOf) {
  let count = 0;
  pairs.forEach(([u, v], k) => {
    for (const [s, t] of pairs.slice(k + 1)) {
      if (rowOf.get(s) !== rowOf.get(u)) continue;
      if ((place.get(s) - place.get(u)) * (place.get(t) - place.get(v)) < 0) count++;
    }
  });
  return count;
}
