// The view of analyses over training. Written once: reports and the TensorBoard tab both mount it.
//
// A source has two methods:
//   runs()            -> Promise of [{name, steps: [summary]}], see summary() in view_record.py
//   record(run, step) -> Promise of a record, see encode() in view_record.py
// Text from data only ever becomes text nodes.

const UNDECIDED = -1, ESCAPES = -2, DIVERGED = -3;
const MAX_DRAWN = 30, MAX_UNRESOLVED = 20, MAX_LEGEND = 12, MAX_NAMED = 8;
const SVG = "http://www.w3.org/2000/svg";

// --- Elements -----------------------------------------------------------------------------------

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((c) => c !== null).map((c) => (c instanceof Node ? c : String(c))));
  return node;
}
const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// --- Numbers ------------------------------------------------------------------------------------

const short = (x) => (x === null || Number.isNaN(x) ? "?" : String(Number(x.toPrecision(3))));

function percent(share) {
  if (share > 0 && share < 0.01) return "< 1 %";
  if (share > 0.99 && share < 1) return "> 99 %";
  return `${Math.round(100 * share)} %`;
}

// A lower bound on a probability, never rounded up.
function bound(mu) {
  if (mu === null) return "";
  if (mu < 0.9999) return String(Math.floor(mu * 1e4 + 1e-9) / 1e4);
  const lacking = Math.max(1 - mu, 1.2e-16), unit = 10 ** (Math.floor(Math.log10(lacking)) - 1);
  return `1 − ${(Math.ceil(lacking / unit - 1e-9) * unit).toExponential(1)}`;
}

function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return found;
}

const rgb = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
const mix = (color, ground, t) => color.map((c, i) => Math.round(t * c + (1 - t) * ground[i]));
const ink = (color) => {
  const [r, g, b] = rgb(color);
  return 0.299 * r + 0.587 * g + 0.114 * b < 128 ? "#ffffff" : "#000000";
};

// --- Records ------------------------------------------------------------------------------------

function expand(runs, size) {
  const values = new Int32Array(size);
  for (let k = 0, at = 0; k < runs.length; k += 2) {
    values.fill(runs[k], at, (at += runs[k + 1]));
  }
  return values;
}

function restoreLoss(raw) {
  const bytes = Uint8Array.from(atob(raw.data), (c) => c.charCodeAt(0));
  const codes = new DataView(bytes.buffer), loss = new Float64Array(bytes.length / 2);
  for (let i = 0; i < loss.length; i++) {
    const code = codes.getUint16(2 * i, true);
    loss[i] = code === 65535 ? NaN : raw.low + raw.scale * Math.expm1((code / 65534) * raw.top);
  }
  return loss;
}

function open(raw) {
  const size = raw.shape.reduce((a, b) => a * b, 1);
  const labels = expand(raw.labels, size), diverged = expand(raw.diverged, size);
  const field = labels.map((v, i) => (diverged[i] ? DIVERGED : v));
  const strides = raw.shape.map((_, k) => raw.shape.slice(k + 1).reduce((a, b) => a * b, 1));
  const reachOf = raw.reach ? expand(raw.reach.of, size) : null;
  const lossValues = restoreLoss(raw.loss), deviations = raw.deviation ? restoreDeviation(raw.deviation) : null;
  return { ...raw, field, strides, owner: expand(raw.owner, size), lossValues, deviations, reachOf };
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

const lossAt = (record, point) => valueAt(record, record.lossValues, point);

// What interpolating and rounding the loss may add to its error, from second differences of the
// lattice: an estimate, as the deviation is.
function drawingError(record, point) {
  const { shape, scale, low, top } = record.loss, values = record.lossValues;
  const rounding = ((lossAt(record, point) - low + scale) * top) / 65534 / 2;
  const bend = (at) => {
    let sum = 0, rest = at;
    for (let k = shape.length - 1, stride = 1; k >= 0; stride *= shape[k--]) {
      const i = rest % shape[k];
      rest = (rest - i) / shape[k];
      if (shape[k] < 3) continue;
      const mid = at + (Math.min(Math.max(i, 1), shape[k] - 2) - i) * stride;
      sum += Math.abs(values[mid - stride] - 2 * values[mid] + values[mid + stride]) / 8;
    }
    return sum;
  };
  return rounding + Math.max(...cornersAt(record, point).map(([at]) => bend(at)));
}

// The loss with its deviation, to as many digits as that leaves it.
function lossText(record, point) {
  const loss = lossAt(record, point);
  const error = record.deviations ? valueAt(record, record.deviations, point) + drawingError(record, point) : NaN;
  if (!(error > 0 && Number.isFinite(loss))) return short(loss);
  const digits = Math.ceil(Math.log10(Math.abs(loss) / error)) + 1;
  return `${Number(loss.toPrecision(Math.min(Math.max(digits, 3), 6)))} ± ${Number(error.toPrecision(2))}`;
}

// Sets a cell may reach, and whether it may leave the box; null if the record does not say.
function reachAt(record, cell) {
  if (!record.reachOf) return null;
  const mask = record.reach.kinds[record.reachOf[cell]], n = record.sets.length;
  const has = (i) => (parseInt(mask[i >> 2], 16) >> (i & 3)) & 1;
  return { sets: record.sets.map((_, i) => i).filter(has), leaves: Boolean(has(n)) };
}

function reachText(reach) {
  const runs = [];
  for (const i of reach.sets) {
    if (runs.length && i === runs[runs.length - 1][1] + 1) runs[runs.length - 1][1] = i;
    else runs.push([i, i]);
  }
  const named = runs.slice(0, MAX_NAMED).map(([a, b]) => (a === b ? `${a}` : b === a + 1 ? `${a}, ${b}` : `${a} to ${b}`));
  const more = runs.slice(MAX_NAMED).reduce((sum, [a, b]) => sum + b - a + 1, 0);
  const where = [];
  if (named.length) where.push(`reach ${named.join(", ")}${more ? ` and ${more} more` : ""}`);
  if (reach.leaves) where.push("leave the box");
  return where.length ? `: may ${where.join(" or ")}` : "";
}

function restoreDeviation(raw) {
  return Float64Array.from(atob(raw.data), (c) => {
    const code = c.charCodeAt(0);
    return code === 255 ? NaN : raw.low * Math.exp((code / 254) * raw.top);
  });
}

function kind(record, i) {
  const m = record.sets[i], d = record.shape.length;
  if (m.attractor) return m.resolved ? "attractor" : "attractor(s)";
  if (!m.resolved) return "unresolved";
  if (m.index === null) return "saddle or repeller";
  return m.index === d ? "repeller" : "saddle";
}

// A scalar of the monitor that made the record, whatever that is called.
function scalar(record, name) {
  const key = Object.keys(record.scalars).find((k) => k.endsWith(`/${name}`));
  return key === undefined ? null : record.scalars[key];
}

function areaName(value) {
  if (value >= 0) return `basin of attractor ${value}`;
  return { [UNDECIDED]: "undecided", [ESCAPES]: "leaves the box", [DIVERGED]: "diverged" }[value];
}

function areaText(record, cell) {
  const value = record.field[cell], reach = value === UNDECIDED ? reachAt(record, cell) : null;
  return areaName(value) + (reach ? reachText(reach) : "");
}

// --- Markers ------------------------------------------------------------------------------------

function marker(record, i, x, y, scale = 1) {
  const m = record.sets[i], what = kind(record, i), r = 6 * scale;
  const look = { stroke: "#000000", "stroke-width": 1.2, fill: "#ffffff" };
  if (m.attractor) return svg("circle", { ...look, cx: x, cy: y, r: 9 * scale, fill: m.color });
  if (what === "unresolved") return svg("path", { ...look, d: `M${x} ${y - r}l${r} ${r}l${-r} ${r}l${-r} ${-r}z` });
  if (what === "repeller") return svg("path", { ...look, d: `M${x} ${y - r}l${r} ${1.8 * r}h${-2 * r}z` });
  const a = r / 2.2, grey = m.index === null ? "#9a9a9a" : m.index === 1 ? "#ffffff" : "#222222";
  const d = `M${x} ${y - a}l${a} ${-a}l${a} ${a}l${-a} ${a}l${a} ${a}l${-a} ${a}l${-a} ${-a}l${-a} ${a}l${-a} ${-a}l${a} ${-a}l${-a} ${-a}l${a} ${-a}z`;
  return svg("path", { ...look, d, fill: grey });
}

function star(x, y, r) {
  const corners = Array.from({ length: 10 }, (_, k) => {
    const a = (k * Math.PI) / 5 - Math.PI / 2, q = k % 2 ? 0.42 * r : r;
    return `${(x + q * Math.cos(a)).toFixed(1)} ${(y + q * Math.sin(a)).toFixed(1)}`;
  });
  return svg("path", { d: `M${corners.join("L")}z`, fill: "#ffffff", stroke: "#000000", "stroke-width": 1.3 });
}

// --- Slice --------------------------------------------------------------------------------------

class Slice {
  constructor(onProbe, heading = "Slice of the loss") {
    this.canvas = html("canvas", { "aria-hidden": "true" });
    this.overlay = svg("svg", { role: "img", tabindex: 0 });
    this.box = html("div", { class: "slice" }, this.canvas, this.overlay);
    this.pair = html("select", { "aria-label": "axes of the section" });
    this.depth = html("input", { type: "range", "aria-label": "where the section is" });
    this.depthText = html("span");
    this.controls = html("div", { class: "section" }, this.pair, html("label", {}, this.depth, this.depthText));
    this.root = html("section", { class: "card", "aria-label": "slice" }, html("h2", {}, heading), this.controls, this.box);
    this.onProbe = onProbe;
    this.at = null;
    this.pair.addEventListener("change", () => this.chooseSection());
    this.depth.addEventListener("input", () => this.draw());
    this.overlay.addEventListener("pointermove", (e) => this.probePixel(e.offsetX, e.offsetY));
    this.overlay.addEventListener("pointerleave", () => this.probeCell(null));
    this.overlay.addEventListener("keydown", (e) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key];
      if (!move || !this.record) return;
      e.preventDefault();
      e.stopPropagation();
      const from = this.at ?? [this.nx >> 1, this.ny >> 1];
      this.probeCell([from[0] + move[0], from[1] + move[1]]);
    });
  }

  // The frame, {lower, upper}, is what of the slice is drawn: the box of the record if null.
  show(record, selected, frame = null) {
    this.frame = frame ?? record;
    if (this.record !== record) {
      this.record = record;
      this.at = null;
      const d = record.shape.length;
      this.controls.hidden = d !== 3;
      if (d === 3) {
        const pairs = [[0, 1], [0, 2], [2, 1]];
        const before = this.pair.value || "0 1";
        this.pair.replaceChildren(...pairs.map(([a, b]) => html("option", { value: `${a} ${b}` }, `${record.axes[a]} × ${record.axes[b]}`)));
        this.pair.value = before;
        this.chooseSection(false);
      } else this.axes = d === 2 ? [0, 1] : [0];
    }
    this.selected = selected;
    this.draw();
  }

  chooseSection(redraw = true) {
    this.axes = this.pair.value.split(" ").map(Number);
    const r = this.record, k = 3 - this.axes[0] - this.axes[1], n = r.shape[k];
    const first = r.sets.find((m) => m.attractor);
    const point = r.current ?? first?.center ?? r.lower.map((v, j) => (v + r.upper[j]) / 2);
    const cell = Math.floor(((point[k] - r.lower[k]) / (r.upper[k] - r.lower[k])) * n);
    Object.assign(this.depth, { min: 0, max: n - 1, value: Math.min(Math.max(cell, 0), n - 1) });
    if (redraw) this.draw();
  }

  // Cell of the grid at column i, row j of what is drawn.
  cell(i, j) {
    const { record, axes } = this;
    let at = i * record.strides[axes[0]];
    if (axes.length > 1) at += j * record.strides[axes[1]];
    if (record.shape.length === 3) at += Number(this.depth.value) * record.strides[3 - axes[0] - axes[1]];
    return at;
  }

  point(u, v) {
    const { record, axes } = this, place = (k, t) => record.lower[k] + t * (record.upper[k] - record.lower[k]);
    const p = [];
    p[axes[0]] = place(axes[0], u);
    if (axes.length > 1) p[axes[1]] = place(axes[1], v);
    if (record.shape.length === 3) {
      const k = 3 - axes[0] - axes[1];
      p[k] = place(k, (Number(this.depth.value) + 0.5) / record.shape[k]);
    }
    return p;
  }

  draw() {
    const { record, axes } = this;
    if (!record || !this.box.isConnected) return;
    const d = record.shape.length, plane = d > 1;
    if (d === 3) {
      const k = 3 - axes[0] - axes[1];
      this.depthText.textContent = `${record.axes[k]} = ${short(this.point(0, 0)[k])}`;
    }
    const width = this.box.clientWidth, tall = Math.min(width, Math.max(360, window.innerHeight - 215));
    const height = plane ? tall : Math.min(tall, 0.7 * width);
    const outer = { left: 52, top: 6, w: width - 64, h: height - 48 };
    // Where the box of the record lies in the frame, as shares of it.
    const part = (k, v) => (v - this.frame.lower[k]) / (this.frame.upper[k] - this.frame.lower[k]);
    const [l, r] = [record.lower, record.upper].map((c) => part(axes[0], c[axes[0]]));
    const [b, t] = plane ? [record.lower, record.upper].map((c) => part(axes[1], c[axes[1]])) : [0, 1];
    const edge = { left: outer.left + l * outer.w, top: outer.top + (1 - t) * outer.h };
    Object.assign(this, { outer, edge, w: (r - l) * outer.w, h: (t - b) * outer.h });
    this.box.style.height = `${height}px`;
    [this.nx, this.ny] = [record.shape[axes[0]], plane ? record.shape[axes[1]] : 1];
    this.overlay.setAttribute("width", width);
    this.overlay.setAttribute("height", height);
    this.overlay.setAttribute("aria-label", `${record.facts.claim}; arrow keys move from cell to cell`);
    this.paint(width, height);
    this.decorate(plane);
  }

  paint(width, height) {
    const { record, canvas, nx, ny, w, h, edge } = this;
    const ratio = window.devicePixelRatio || 1, style = getComputedStyle(this.box);
    const color = (name) => style.getPropertyValue(name).trim();
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.imageSmoothingEnabled = false;
    const ground = rgb(color("--void")), tint = Number(color("--tint"));
    const fills = { [UNDECIDED]: ground, [ESCAPES]: rgb(color("--escape")), [DIVERGED]: rgb(color("--diverged")) };
    record.sets.forEach((m, i) => m.attractor && (fills[i] = mix(rgb(m.color), ground, tint)));
    const cells = new ImageData(nx, ny), hatched = new ImageData(nx, ny), veil = new ImageData(nx, ny);
    for (const value of Object.keys(fills)) fills[value] = [...fills[value], 255];
    const card = [...rgb(color("--card")), 205];
    const grid = new Int16Array(nx * ny), owners = new Int16Array(nx * ny);
    for (let i = 0; i < nx; i++) {
      for (let j = 0; j < ny; j++) {
        const at = this.cell(i, j), value = record.field[at], owner = record.owner[at];
        const pixel = 4 * ((ny - 1 - j) * nx + i);
        grid[i * ny + j] = value;
        owners[i * ny + j] = owner;
        cells.data.set(fills[value], pixel);
        if (value === UNDECIDED) hatched.data[pixel + 3] = 255;
        if (this.selected !== null && value !== this.selected && owner !== this.selected) veil.data.set(card, pixel);
      }
    }
    const raised = (image) => {
      const small = html("canvas", { width: nx, height: ny });
      small.getContext("2d").putImageData(image, 0, 0);
      return small;
    };
    c.drawImage(raised(cells), edge.left, edge.top, w, h);
    const hatch = html("canvas", { width: canvas.width, height: canvas.height }), q = hatch.getContext("2d");
    q.setTransform(ratio, 0, 0, ratio, 0, 0);
    q.imageSmoothingEnabled = false;
    q.drawImage(raised(hatched), edge.left, edge.top, w, h);
    q.globalCompositeOperation = "source-in";
    const lines = html("canvas", { width: canvas.width, height: canvas.height }), l = lines.getContext("2d");
    l.setTransform(ratio, 0, 0, ratio, 0, 0);
    l.strokeStyle = color("--hatch");
    l.lineWidth = 0.9;
    for (let s = -height; s < width; s += 7) {
      l.moveTo(s, height);
      l.lineTo(s + height, 0);
    }
    l.stroke();
    q.drawImage(lines, 0, 0, width, height);
    c.drawImage(hatch, 0, 0, width, height);

    c.save();
    c.beginPath();
    c.rect(edge.left, edge.top, w, h);
    c.clip();
    this.outline(c, grid, color("--separator"), 0.8);
    if (ny > 1) this.contours(c, color("--contour"));
    const attractor = record.sets.map((m) => m.attractor);
    this.outline(c, owners.map((o) => (o >= 0 && attractor[o] ? -1 : o)), color("--ink"), 1.1);
    c.drawImage(raised(veil), edge.left, edge.top, w, h);
    if (this.selected !== null) this.outline(c, owners.map((o) => (o === this.selected ? 1 : 0)), color("--accent"), 3);
    c.restore();
    c.strokeStyle = color("--faint");
    c.lineWidth = 1;
    c.strokeRect(edge.left, edge.top, w, h);
  }

  // Lines between neighbouring cells of different value.
  outline(c, values, color, width) {
    const { nx, ny, w, h, edge } = this;
    const x = (i) => edge.left + (i / nx) * w, y = (j) => edge.top + h - (j / ny) * h;
    c.beginPath();
    for (let i = 0; i < nx; i++) {
      for (let j = 0; j < ny; j++) {
        const here = values[i * ny + j];
        if (i + 1 < nx && values[(i + 1) * ny + j] !== here) {
          c.moveTo(x(i + 1), y(j));
          c.lineTo(x(i + 1), y(j + 1));
        }
        if (j + 1 < ny && values[i * ny + j + 1] !== here) {
          c.moveTo(x(i), y(j + 1));
          c.lineTo(x(i + 1), y(j + 1));
        }
      }
    }
    c.strokeStyle = color;
    c.lineWidth = width;
    c.stroke();
  }

  // Marching triangles: each square of the loss lattice is cut along a diagonal, so that there is
  // no ambiguous case.
  contours(c, color) {
    const { record, axes, w, h, edge } = this;
    const [mx, my] = axes.map((k) => record.loss.shape[k]);
    let loss = record.lossValues;
    if (record.shape.length === 3) {
      loss = new Float64Array(mx * my);
      for (let i = 0; i < mx; i++) {
        for (let j = 0; j < my; j++) loss[i * my + j] = lossAt(record, this.point(i / (mx - 1), j / (my - 1)));
      }
    }
    const x = (i) => edge.left + (i / (mx - 1)) * w, y = (j) => edge.top + h - (j / (my - 1)) * h;
    c.beginPath();
    const at = new Float64Array(4);
    for (let i = 0; i + 1 < mx; i++) {
      for (let j = 0; j + 1 < my; j++) {
        const k = i * my + j, square = [loss[k], loss[k + my], loss[k + my + 1], loss[k + 1]];
        const low = Math.min(...square), high = Math.max(...square);
        // A comparison with NaN is false: squares with one have no contour.
        for (const level of record.levels) {
          if (!(low < level && level <= high)) continue;
          for (const [m, di, dj] of [[1, 1, 0], [3, 0, 1]]) {
            // Corners of the triangle: the square's first, its corner m, and the one opposite.
            const p = [square[0], square[m], square[2]], ci = [i, i + di, i + 1], cj = [j, j + dj, j + 1];
            let n = 0;
            for (let e = 0; e < 3; e++) {
              const f = (e + 1) % 3;
              if (p[e] < level === p[f] < level) continue;
              const t = (level - p[e]) / (p[f] - p[e]);
              at[n++] = x(ci[e] + t * (ci[f] - ci[e]));
              at[n++] = y(cj[e] + t * (cj[f] - cj[e]));
            }
            if (n === 4) {
              c.moveTo(at[0], at[1]);
              c.lineTo(at[2], at[3]);
            }
          }
        }
      }
    }
    c.strokeStyle = color;
    c.lineWidth = 0.7;
    c.stroke();
  }

  decorate(plane) {
    const { record, axes, w, h, edge, frame, outer } = this;
    const [a, b] = axes, span = (k) => record.upper[k] - record.lower[k];
    const x = (v) => edge.left + ((v - record.lower[a]) / span(a)) * w;
    let low = record.lower[b], high = record.upper[b];
    if (!plane) {
      const finite = record.lossValues.filter(Number.isFinite);
      [low, high] = finite.length ? [finite.reduce((p, q) => Math.min(p, q)), finite.reduce((p, q) => Math.max(p, q))] : [0, 1];
      const margin = 0.08 * (high - low || 1);
      [low, high] = [low - margin, high + margin];
    }
    const y = (v) => edge.top + h - ((v - low) / (high - low)) * h;
    const place = plane ? (p) => [x(p[a]), y(p[b])] : (p) => [x(p[0]), y(lossAt(record, p))];
    const items = [];
    const floor = outer.top + outer.h, middle = outer.top + outer.h / 2;
    for (const t of ticks(frame.lower[a], frame.upper[a], outer.w / 70)) {
      items.push(svg("line", { class: "axis", x1: x(t), x2: x(t), y1: floor, y2: floor + 4 }));
      items.push(svg("text", { x: x(t), y: floor + 17, "text-anchor": "middle" }, short(t)));
    }
    const [least, most] = plane ? [frame.lower[b], frame.upper[b]] : [low, high];
    for (const t of ticks(least, most, outer.h / 55)) {
      items.push(svg("line", { class: "axis", x1: outer.left - 4, x2: outer.left, y1: y(t), y2: y(t) }));
      items.push(svg("text", { x: outer.left - 7, y: y(t) + 4, "text-anchor": "end" }, short(t)));
    }
    items.push(svg("text", { x: outer.left + outer.w / 2, y: floor + 35, "text-anchor": "middle", class: "faint" }, record.axes[a]));
    const name = plane ? record.axes[b] : "loss";
    items.push(svg("text", { x: 12, y: middle, transform: `rotate(-90 12 ${middle})`, "text-anchor": "middle", class: "faint" }, name));

    const inside = svg("svg", { x: edge.left, y: edge.top, width: w, height: h, viewBox: `${edge.left} ${edge.top} ${w} ${h}` });
    if (!plane) {
      const n = record.loss.shape[0];
      const line = Array.from({ length: n }, (_, i) => this.point(i / (n - 1))).map(place).filter((p) => Number.isFinite(p[1]));
      inside.append(svg("polyline", { points: line.join(" "), fill: "none", stroke: "var(--ink)", "stroke-width": 1.8 }));
    }
    const path = record.trajectory.map(place);
    if (path.length) {
      const points = path.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ");
      inside.append(svg("polyline", { points, fill: "none", stroke: "var(--card)", "stroke-width": 3.4, "stroke-linejoin": "round", opacity: 0.7 }));
      inside.append(svg("polyline", { class: "trajectory", points, fill: "none", stroke: "var(--ink)", "stroke-width": 1.6, "stroke-linejoin": "round" }));
      inside.append(svg("rect", { x: path[0][0] - 4, y: path[0][1] - 4, width: 8, height: 8, fill: "#ffffff", stroke: "#000000" }));
    }
    const met = record.shape.length < 3 ? null : new Set();
    if (met) for (let i = 0; i < this.nx; i++) for (let j = 0; j < this.ny; j++) met.add(record.owner[this.cell(i, j)]);
    const shown = record.sets.map((_, i) => i).filter((i) => !met || met.has(i));
    const crowd = shown.filter((i) => !record.sets[i].attractor).length > MAX_LEGEND;
    const late = [];
    for (const i of shown.reverse()) {
      const m = record.sets[i], [px, py] = place(m.center);
      if (m.attractor) {
        late.push(marker(record, i, px, py), svg("text", { x: px, y: py + 4, "text-anchor": "middle", "font-weight": 700, style: null, fill: ink(m.color), class: "number" }, i));
      } else {
        inside.append(marker(record, i, px, py));
        if (!crowd || i === this.selected) inside.append(svg("text", { x: px + 8, y: py - 6, class: "halo" }, i));
      }
    }
    inside.append(...this.exits(plane));
    if (record.current) inside.append(star(...place(record.current), 14));
    inside.append(...late);
    for (const number of inside.querySelectorAll(".number")) number.style.fill = number.getAttribute("fill");
    this.cross = svg("rect", { fill: "none", stroke: "var(--accent)", "stroke-width": 2, visibility: "hidden" });
    inside.append(this.cross);
    this.overlay.replaceChildren(...items, inside);
    this.probeCell(this.at);
  }

  // An arrow at each face through which part of the box may leave it, in the middle of the cells
  // there that certainly leave.
  exits(plane) {
    const { record, axes, nx, ny, w, h, edge } = this;
    const faces = [[nx, ny, 0, 1, 0], [nx, ny, 1, -1, 0], [ny, nx, 0, 0, -1], [ny, nx, 1, 0, 1]];
    return faces.slice(0, plane ? 4 : 2).flatMap(([deep, long, upper, dx, dy], k) => {
      const share = record.exits[axes[k >> 1]][k % 2], at = upper * (deep - 1);
      if (!share) return [];
      const out = Array.from({ length: long }, (_, j) => j).filter((j) => record.field[dx ? this.cell(at, j) : this.cell(j, at)] === ESCAPES);
      const along = plane && out.length ? (out[out.length >> 1] + 0.5) / long : 0.5;
      const px = edge.left + (dx ? upper : along) * w, py = edge.top + (dx ? 1 - along : 1 - upper) * h;
      const [ax, ay] = [px + 15 * dx, py + 15 * dy], said = `${percent(share)} of the box may leave through this face`;
      const d = `M${px + 2 * dx} ${py + 2 * dy}L${ax - 7 * dy} ${ay + 7 * dx}L${ax + 7 * dy} ${ay - 7 * dx}z`;
      const text = { x: px + 19 * dx, y: py + 4 + 24 * dy, "text-anchor": dx > 0 ? "start" : dx < 0 ? "end" : "middle", class: "halo" };
      return [svg("path", { class: "exit", d }, svg("title", {}, said)), svg("text", text, percent(share))];
    });
  }

  probePixel(px, py) {
    const { w, h, edge, nx, ny } = this;
    const u = (px - edge.left) / w, v = 1 - (py - edge.top) / h;
    if (!this.record || u < 0 || u >= 1 || v < 0 || v >= 1) this.probeCell(null);
    else this.probeCell([Math.floor(u * nx), Math.floor(v * ny)]);
  }

  probeCell(at) {
    if (!this.record || !this.cross) return;
    const { record, nx, ny, w, h, edge } = this;
    this.cross.setAttribute("visibility", at ? "visible" : "hidden");
    if (!at) {
      this.at = null;
      this.onProbe(null);
      return;
    }
    const [i, j] = [Math.min(Math.max(at[0], 0), nx - 1), Math.min(Math.max(at[1], 0), ny - 1)];
    this.at = [i, j];
    const place = { x: edge.left + (i / nx) * w, y: edge.top + h - ((j + 1) / ny) * h, width: w / nx, height: h / ny };
    for (const [name, value] of Object.entries(place)) this.cross.setAttribute(name, value);
    const cell = this.cell(i, j), point = this.point((i + 0.5) / nx, (j + 0.5) / ny);
    const owner = record.owner[cell];
    this.onProbe({
      where: `(${point.map(short).join(", ")})`,
      area: areaText(record, cell),
      loss: lossText(record, point),
      set: owner < 0 ? null : `in Morse set ${owner}, ${kind(record, owner)}`,
    });
  }
}

// --- Morse graph --------------------------------------------------------------------------------

// Sets worth drawing and the edges between them; paths through those left out become edges.
function shownGraph(record) {
  const n = record.sets.length, all = record.sets.map((_, i) => i);
  const open = all.filter((i) => !record.sets[i].attractor && !record.sets[i].resolved);
  const hidden = new Set(n > MAX_DRAWN ? open.sort((i, j) => record.sets[i].loss - record.sets[j].loss).slice(MAX_UNRESOLVED) : []);
  const shown = all.filter((i) => !hidden.has(i));
  if (!hidden.size) return { shown, edges: record.edges, hidden: 0 };
  const next = all.map(() => []);
  for (const [u, v] of record.edges) next[u].push(v);
  const below = all.map((i) => {
    const found = new Set(), stack = [i];
    while (stack.length) for (const v of next[stack.pop()]) if (!found.has(v)) found.add(v) && stack.push(v);
    return found;
  });
  const edges = [];
  for (const u of shown) {
    const reached = [...below[u]].filter((v) => !hidden.has(v));
    for (const v of reached) if (!reached.some((k) => below[k].has(v))) edges.push([u, v]);
  }
  return { shown, edges, hidden: hidden.size };
}

// Levels by the longest way down, attractors in the lowest. An edge that passes a level has a bend
// there, which takes part in the ordering, so that no edge runs behind a node.
function layered(record, graph, perRow) {
  const next = new Map(graph.shown.map((i) => [i, []])), depth = new Map();
  for (const [u, v] of graph.edges) next.get(u).push(v);
  const level = (i) => {
    if (!depth.has(i)) depth.set(i, record.sets[i].attractor ? 0 : 1 + Math.max(0, ...next.get(i).map(level)));
    return depth.get(i);
  };
  graph.shown.forEach(level);
  const rows = [], row = new Map();
  for (const k of [...new Set(depth.values())].sort((a, b) => b - a)) {
    const nodes = graph.shown.filter((i) => depth.get(i) === k).sort((i, j) => record.sets[j].loss - record.sets[i].loss);
    const pieces = Math.ceil(nodes.length / perRow), each = Math.ceil(nodes.length / pieces);
    for (let at = 0; at < nodes.length; at += each) rows.push(nodes.slice(at, at + each));
  }
  rows.forEach((nodes, r) => nodes.forEach((n) => row.set(n, r)));
  const ways = graph.edges.map(([u, v]) => {
    const bends = Array.from({ length: row.get(v) - row.get(u) - 1 }, (_, k) => ({ row: row.get(u) + 1 + k }));
    for (const bend of bends) rows[bend.row].push(bend);
    return [u, ...bends, v];
  });
  const near = new Map(rows.flat().map((n) => [n, []]));
  const pairs = ways.flatMap((way) => way.slice(1).map((n, k) => [way[k], n]));
  for (const [u, v] of pairs) {
    near.get(u).push(v);
    near.get(v).push(u);
  }
  // Few crossings: sweeps in which each row takes the order of the mean place of its neighbours in
  // the row before; the best order seen is kept.
  const place = new Map(), top = (n) => (n instanceof Object ? n.row : row.get(n));
  const put = (nodes) => nodes.forEach((n, k) => place.set(n, (k + 0.5) / nodes.length));
  const crossings = () => pairs.reduce((sum, [u, v], k) => sum + pairs.slice(k + 1).filter(([s, t]) =>
    top(s) === top(u) && (place.get(s) - place.get(u)) * (place.get(t) - place.get(v)) < 0).length, 0);
  rows.forEach(put);
  let best = { crossings: crossings(), rows: rows.map((nodes) => [...nodes]) };
  for (let sweep = 0; sweep < 12 && best.crossings; sweep++) {
    const down = sweep % 2 === 0;
    for (const nodes of down ? rows : [...rows].reverse()) {
      const wish = new Map(nodes.map((n) => {
        const before = near.get(n).filter((m) => (down ? top(m) < top(n) : top(m) > top(n))).map((m) => place.get(m));
        return [n, before.length ? before.reduce((a, b) => a + b, 0) / before.length : place.get(n)];
      }));
      nodes.sort((a, b) => wish.get(a) - wish.get(b));
      put(nodes);
    }
    const now = crossings();
    if (now < best.crossings) best = { crossings: now, rows: rows.map((nodes) => [...nodes]) };
  }
  return { rows: best.rows, ways };
}

// Size and text of the nodes of a row: as much as there is room for.
function nodeStyle(slot) {
  if (slot >= 100) return { wide: 96, high: 54, lines: (name, loss, what) => [name, `loss ${loss}`, what] };
  if (slot >= 52) return { wide: slot - 6, high: 50, font: slot < 62 ? 10 : 11, lines: (name, loss, what, brief) => [name, loss, brief] };
  return { wide: Math.max(14, Math.min(40, slot - 4)), high: 26, font: slot < 26 ? 9 : 11, lines: (name) => [name] };
}

function drawGraph(root, record, selected, onSelect) {
  const width = Math.max(280, root.clientWidth), bendWidth = 14;
  root.replaceChildren();
  if (!record.sets.length) {
    root.append(html("p", { class: "message" }, `No Morse set: ${record.facts.escape === 1 ? "every trajectory leaves the box" : "nothing is certain"}.`));
    return;
  }
  const graph = shownGraph(record);
  const { rows, ways } = layered(record, graph, Math.floor(width / 24));
  const styles = rows.map((row) => {
    const nodes = row.filter((n) => typeof n === "number").length;
    return nodeStyle((width - bendWidth * (row.length - nodes)) / nodes);
  });
  const tall = styles.reduce((sum, style) => sum + style.high, 0);
  // What the diagram below and the headings leave of the height of the slice.
  const lanes = record.sets.filter((m) => m.attractor).length;
  const available = Math.max(300, window.innerHeight - 440 - 26 * Math.min(lanes, 12));
  const gap = Math.min(120, Math.max(46, (available - tall) / Math.max(1, rows.length - 1)));
  const x = new Map(), y = new Map(), style = new Map();
  let height = 6;
  rows.forEach((row, r) => {
    const room = row.map((n) => (typeof n === "number" ? styles[r].wide : bendWidth));
    const space = (width - room.reduce((a, b) => a + b, 0)) / row.length;
    let at = space / 2;
    row.forEach((n, k) => {
      x.set(n, at + room[k] / 2);
      y.set(n, height);
      style.set(n, styles[r]);
      at += room[k] + space;
    });
    height += styles[r].high + gap;
  });
  height += 6 - gap;
  const page = svg("svg", { width, height, role: "group", "aria-label": "Morse graph, downhill" });
  page.append(svg("defs", {}, svg("marker", { id: "morse-arrow", viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0 1L10 5L0 9z", fill: "context-stroke" }))));
  for (const way of ways) {
    const u = way[0], v = way[way.length - 1], touched = selected === u || selected === v;
    const pieces = way.slice(1).map((n, k) => {
      const before = way[k], [x0, x1, y0, y1] = [x.get(before), x.get(n), y.get(before) + style.get(before).high, y.get(n)];
      const bend = 0.45 * (y1 - y0), through = typeof n === "number" ? "" : `V${y1 + style.get(n).high}`;
      return `C${x0} ${y0 + bend} ${x1} ${y1 - bend} ${x1} ${y1}${through}`;
    });
    const d = `M${x.get(u)} ${y.get(u) + style.get(u).high}${pieces.join("")}`;
    page.append(svg("path", { class: `edge${touched ? " touched" : ""}`, "marker-end": "url(#morse-arrow)", d }));
  }
  for (const n of graph.shown) {
    const m = record.sets[n], { wide, high, font, lines } = style.get(n);
    const what = m.attractor ? `${percent(m.basin)} of box` : !m.resolved ? "unresolved" : `index ${m.index ?? "?"}`;
    const brief = m.attractor ? percent(m.basin) : !m.resolved ? "open" : what;
    const said = `Morse set ${n}, ${kind(record, n)}, loss ${short(m.loss)}, ${what}`;
    const node = svg("g", {
      class: `node${m.resolved ? "" : " open"}${n === selected ? " selected" : ""}`,
      "data-set": n, tabindex: 0, role: "button", "aria-pressed": n === selected, "aria-label": said,
      transform: `translate(${x.get(n) - wide / 2} ${y.get(n)})`,
    }, svg("title", {}, said), svg("rect", { width: wide, height: high, rx: Math.min(8, wide / 4) }));
    if (m.attractor) node.lastChild.style.fill = m.color;
    const written = lines(String(n), short(m.loss), what, brief);
    written.forEach((line, k) => {
      const text = svg("text", { x: wide / 2, y: high / 2 + 4.5 + 15.5 * (k - (written.length - 1) / 2), "text-anchor": "middle", "font-weight": k ? 400 : 700 }, line);
      if (font) text.style.fontSize = `${font}px`;
      if (m.attractor) text.style.fill = ink(m.color);
      node.append(text);
    });
    node.addEventListener("click", () => onSelect(n));
    node.addEventListener("keydown", (e) => {
      if (e.key !== "Enter" && e.key !== " ") return;
      e.preventDefault();
      onSelect(n);
    });
    page.append(node);
  }
  root.append(page);
  const notes = ["Arrows point downhill. Choose a set to light up its cells and its basin."];
  if (record.sets.some((m) => !m.resolved)) notes.push("Dashed: may hide a further attractor.");
  if (graph.hidden) notes.push(`${graph.hidden} unresolved Morse set${graph.hidden > 1 ? "s" : ""} of higher loss not drawn.`);
  root.append(html("p", { class: "note" }, notes.join(" ")));
}

// --- Over training ------------------------------------------------------------------------------

function drawHistory(root, steps, now) {
  const width = Math.max(300, root.clientWidth), good = steps.filter((s) => !s.error);
  const left = 62, right = 12, w = width - left - right;
  root.replaceChildren();
  if (!good.length) return;
  const [first, last] = [steps[0].step, steps[steps.length - 1].step];
  const x = (s) => (last === first ? left + w / 2 : left + ((s - first) / (last - first)) * w);

  function chart(name, height, low, high, marks, label, bottom = 6) {
    const top = 22, h = height - top - bottom, y = (v) => top + h - ((v - low) / (high - low || 1)) * h;
    const page = svg("svg", { width, height, role: "img", "aria-label": name });
    page.append(svg("text", { x: left, y: 12, class: "faint" }, name));
    for (const t of marks) {
      page.append(svg("line", { class: "axis", x1: left, x2: left + w, y1: y(t), y2: y(t) }));
      page.append(svg("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, label(t)));
    }
    return { page, y, top, h, close: () => {
      page.append(svg("line", { class: "marked", x1: x(now), x2: x(now), y1: top, y2: top + h }));
      root.append(page);
    } };
  }
  const line = (page, values, y, attributes) => {
    page.append(svg("polyline", { points: good.map((s, k) => `${x(s.step).toFixed(1)},${y(values[k]).toFixed(1)}`).join(" "), fill: "none", "stroke-width": 2, ...attributes }));
    good.forEach((s, k) => page.append(svg("circle", { cx: x(s.step), cy: y(values[k]), r: 2.6, fill: attributes.stroke })));
  };

  const counts = good.map((s) => s.attractors), open = good.map((s) => s.unresolved), most = Math.max(1, ...counts, ...open);
  const whole = ticks(0, most, 3).filter(Number.isInteger);
  const a = chart("attractors (solid), unresolved sets (dashed)", 92, 0, most, whole, String);
  line(a.page, open, a.y, { stroke: "#D55E00", "stroke-dasharray": "5 3" });
  line(a.page, counts, a.y, { stroke: "#0072B2" });
  a.close();

  const lacking = good.map((s) => Math.log10(Math.max(1 - s.mu, 1e-16)));
  const lowest = Math.min(-2, Math.floor(Math.min(...lacking)));
  const powers = ticks(lowest, 0, 3).filter(Number.isInteger);
  const b = chart("1 − mu: the claim on the attractors is wrong with probability at most", 92, lowest, 0, powers, (t) => (t ? `1e${t}` : "1"));
  line(b.page, lacking, b.y, { stroke: "#0072B2" });
  b.close();

  const c = chart("shares of the box: basins, undecided (hatched), escapes (grey)", 132, 0, 1, [0, 0.5, 1], percent, 24);
  c.page.prepend(svg("defs", {}, svg("pattern", { id: "morse-hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("rect", { width: 6, height: 6, fill: "var(--void)" }), svg("line", { x1: 0, x2: 0, y1: 0, y2: 6, stroke: "var(--hatch)", "stroke-width": 1.8 }))));
  const known = [...new Set(good.flatMap((s) => s.basins.map((b) => b.identity)))].sort((a, b) => a - b);
  const half = good.length > 1 ? 0 : 30;
  let floor = good.map(() => 0);
  const stack = (values, paint) => {
    const roof = floor.map((v, k) => v + values[k]);
    const up = good.map((s, k) => [x(s.step) - (k ? -half : half), c.y(roof[k])]);
    const down = good.map((s, k) => [x(s.step) - (k ? -half : half), c.y(floor[k])]).reverse();
    if (half) {
      up.push([x(good[0].step) + half, c.y(roof[0])]);
      down.unshift([x(good[0].step) + half, c.y(floor[0])]);
    }
    c.page.append(svg("polygon", { points: [...up, ...down].map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" "), fill: paint, stroke: "var(--card)", "stroke-width": 0.8 }));
    floor = roof;
  };
  for (const identity of known) {
    const own = good.map((s) => s.basins.find((b) => b.identity === identity));
    stack(own.map((b) => b?.volume ?? 0), own.find((b) => b).color);
  }
  stack(good.map((s) => s.undecided), "url(#morse-hatch)");
  stack(good.map((s) => s.escape), "var(--escape)");
  const marks = first === last ? [first] : ticks(first, last, w / 90).filter(Number.isInteger);
  for (const t of marks) c.page.append(svg("text", { x: x(t), y: 128, "text-anchor": "middle" }, t));
  c.page.append(svg("text", { x: left - 6, y: 128, "text-anchor": "end", class: "faint" }, "step"));
  c.close();
}

// --- Merge diagram ------------------------------------------------------------------------------

function drawMerge(root, record) {
  root.replaceChildren();
  const attractors = record.sets.map((_, i) => i).filter((i) => record.sets[i].attractor).slice(0, MAX_DRAWN);
  if (!attractors.length || record.facts.mu === 0) {
    const why = record.facts.mu === 0 ? "No confidence in anything: the samples refute the surrogate." : "No attractor stands at the confidence asked for.";
    root.append(html("p", { class: "message" }, why));
    return;
  }
  const at = (p) => -Math.log10(Math.max(1 - p, 1e-16)), blocks = record.ladder.blocks;
  const levels = record.ladder.levels.map(at), own = attractors.map((i) => at(record.sets[i].mu ?? 0));
  const low = levels[0], high = Math.max(levels[levels.length - 1], ...own, at(record.facts.mu), low + 0.5);
  const width = Math.max(300, root.clientWidth), left = 88, right = 112, lane = attractors.length > 12 ? 18 : 26, top = 24;
  const w = width - left - right, h = lane * attractors.length, height = top + h + 34;
  const x = (v) => left + ((v - low) / (high - low)) * w;
  // Attractors whose blocks merge stand beside each other.
  const groups = new Map(attractors.map((_, a) => [a, [a]]));
  for (const row of blocks) {
    attractors.forEach((_, a) => {
      if (row[a] >= 0 && row[a] !== a && groups.has(a) && groups.has(row[a])) {
        groups.get(row[a]).push(...groups.get(a));
        groups.delete(a);
      }
    });
  }
  const order = [...groups.values()].flat(), y = (a) => top + lane * (order.indexOf(a) + 0.5);
  const page = svg("svg", { width, height, role: "img", "aria-label": "up to which confidence the attractors stand" });
  for (let k = Math.ceil(low); k <= high; k++) {
    const each = Math.ceil((high - low) / (w / 62));
    if (k % each) continue;
    page.append(svg("line", { class: "axis", x1: x(k), x2: x(k), y1: top, y2: top + h }));
    page.append(svg("text", { x: x(k), y: top + h + 15, "text-anchor": "middle" }, k < 5 ? String(Number((1 - 10 ** -k).toFixed(k))) : `1−1e−${k}`));
  }
  page.append(svg("text", { x: left + w / 2, y: top + h + 31, "text-anchor": "middle", class: "faint" }, "confidence"));
  page.append(svg("text", { x: width - right + 16, y: 14, class: "faint" }, "its mu ≥"));
  attractors.forEach((i, a) => {
    const path = blocks.map((row) => row[a]), m = record.sets[i];
    let stays = path.findIndex((b) => b !== a);
    if (stays < 0) stays = path.length;
    const end = levels[Math.max(0, stays - 1)], look = { stroke: m.color, "stroke-width": 3.5 };
    page.append(svg("line", { ...look, x1: x(low), x2: x(end), y1: y(a), y2: y(a) }));
    if (stays < path.length && path[stays] < 0) {
      const px = x((end + levels[stays]) / 2);
      page.append(svg("line", { ...look, x1: x(end), x2: px, y1: y(a), y2: y(a) }));
      page.append(svg("path", { d: `M${px - 5} ${y(a) - 5}l10 10m0 -10l-10 10`, stroke: m.color, "stroke-width": 2.5 }));
    } else if (stays < path.length && path[stays] < attractors.length) {
      page.append(svg("line", { ...look, x1: x(end), x2: x(levels[stays]), y1: y(a), y2: y(path[stays]) }));
    }
    page.append(svg("line", { x1: x(end), x2: x(Math.max(end, own[a])), y1: y(a), y2: y(a), stroke: m.color, "stroke-dasharray": "2 3" }));
    page.append(svg("path", { d: `M${x(Math.max(own[a], low))} ${y(a) - 6}l6 6l-6 6l-6 -6z`, fill: m.color, stroke: "#000000" }));
    page.append(svg("text", { x: left - 8, y: y(a) + 4, "text-anchor": "end" }, `attractor ${i}`));
    page.append(svg("text", { x: width - right + 16, y: y(a) + 4 }, bound(m.mu)));
  });
  const claim = x(Math.max(at(record.facts.mu), low));
  page.append(svg("line", { x1: claim, x2: claim, y1: top - 6, y2: top + h, stroke: "var(--ink)", "stroke-dasharray": "7 3", "stroke-width": 1.4 }));
  page.append(svg("text", { x: Math.max(claim, left + 12), y: 14, "text-anchor": claim > left + w / 2 ? "end" : "start" }, `mu of “${record.facts.claim}”`));
  root.append(page, html("p", { class: "note" }, "Lines join where attractors merge and end in a cross where one may leave the box; a diamond is the confidence of one attractor by itself."));
}

// --- Table, facts, legend -----------------------------------------------------------------------

function drawTable(root, record, selected) {
  const head = ["set", "what", "index", "loss", "volume", "basin", "mu ≥", "center"];
  const rows = record.sets.map((m, i) => {
    const center = `(${m.center.map(short).join(", ")})`;
    const cells = [i, kind(record, i), m.index ?? "?", m.loss === null ? "?" : Number(m.loss.toPrecision(4)), percent(m.volume), m.attractor ? percent(m.basin) : "", bound(m.mu), center];
    return html("tr", { class: i === selected ? "selected" : null }, ...cells.map((c) => html("td", {}, c)));
  });
  root.replaceChildren(html("table", {}, html("thead", {}, html("tr", {}, ...head.map((t) => html("th", { scope: "col" }, t)))), html("tbody", {}, ...rows)));
}

function drawFacts(root, record) {
  const f = record.facts, basin = scalar(record, "basin_current");
  const shortly = (v) => (v === null ? null : short(v));
  const known = (name) => (scalar(record, name) === 0 ? "unknown" : shortly(scalar(record, name)));
  const explained = scalar(record, "explained");
  const rows = [
    ["mu ≥", bound(f.mu)],
    ["undecided", percent(f.undecided)],
    ["escapes", percent(f.escape)],
    ["loss now", shortly(f.loss_now)],
    ["basin now", basin === null ? null : basin >= 0 ? String(basin) : basin === -1 ? "undecided" : "leaves the box"],
    ["barrier", known("barrier")],
    ["headroom", known("headroom")],
    ["switches", shortly(scalar(record, "basin_switches"))],
    ["explained", explained === null ? null : percent(explained)],
    ["calibration", short(f.calibration)],
  ];
  root.replaceChildren(...rows.filter((r) => r[1] !== null).flatMap(([a, b]) => [html("dt", {}, a), html("dd", {}, b)]));
}

function drawLegend(root, record) {
  const chip = (...marks) => svg("svg", { width: 24, height: 20, "aria-hidden": "true" }, ...marks);
  const items = [], attractors = record.sets.map((_, i) => i).filter((i) => record.sets[i].attractor);
  for (const i of attractors.slice(0, MAX_LEGEND)) items.push([chip(marker(record, i, 12, 10, 0.8)), `attractor ${i}: ${percent(record.sets[i].basin)}`]);
  if (attractors.length > MAX_LEGEND) items.push([chip(), `${attractors.length - MAX_LEGEND} more attractors`]);
  const kinds = new Map();
  record.sets.forEach((m, i) => m.attractor || kinds.set(kind(record, i), i));
  for (const [name, i] of [...kinds].sort()) items.push([chip(marker(record, i, 12, 10)), name]);
  const seen = new Set(record.field);
  const patch = (paint) => chip(svg("rect", { x: 2, y: 3, width: 20, height: 14, fill: paint, stroke: "var(--line)" }));
  const hatch = svg("path", { d: "M2 17L16 3M9 17L22 4M2 10L9 3M16 17L22 11", stroke: "var(--hatch)" });
  const undecided = patch("var(--void)");
  undecided.append(hatch);
  if (seen.has(UNDECIDED)) items.push([undecided, "undecided"]);
  if (seen.has(ESCAPES)) items.push([patch("var(--escape)"), "leaves the box"]);
  if (seen.has(DIVERGED)) items.push([patch("var(--diverged)"), "diverged"]);
  if (record.exits.flat().some((share) => share)) items.push([chip(svg("path", { class: "exit", d: "M3 10L18 3V17z" })), "exit, share that may take it"]);
  if (record.trajectory.length) items.push([chip(svg("line", { x1: 1, x2: 23, y1: 10, y2: 10, stroke: "var(--ink)", "stroke-width": 1.6 }), svg("rect", { x: 1, y: 6, width: 8, height: 8, fill: "#ffffff", stroke: "#000000" })), "trajectory, its start"]);
  if (record.current) {
    const outside = record.current.some((v, k) => v < record.lower[k] || v > record.upper[k]);
    items.push([chip(star(12, 10, 9)), outside ? "now: outside the box" : "now"]);
  }
  root.replaceChildren(...items.map(([mark, name]) => html("li", {}, mark, name)));
}

// --- Runs side by side --------------------------------------------------------------------------

// Slices of chosen runs next to each other, each at its last analysis up to the step shown.
class Beside {
  constructor(source) {
    this.source = source;
    this.panes = new Map();
    this.asked = 0;
    this.list = html("div", { class: "choices" });
    this.same = html("input", { type: "checkbox", id: "morse-same" });
    this.chooser = html("details", { class: "chooser" }, html("summary", {}, "Compare"), html("div", { class: "menu" }, this.list, html("label", {}, this.same, "same axes (if the slices are the same)")));
    this.root = html("section", { class: "beside", "aria-label": "runs side by side" });
    this.root.hidden = true;
    this.same.addEventListener("change", () => this.draw());
  }

  offer(all) {
    this.all = all;
    this.chooser.hidden = all.length < 2;
    this.list.replaceChildren(...all.map((run, k) => {
      const box = html("input", { type: "checkbox", value: k });
      box.addEventListener("change", () => this.show(this.step));
      return html("label", {}, box, run.label);
    }));
  }

  async show(step) {
    this.step = step;
    const ticket = ++this.asked, chosen = [...this.list.querySelectorAll("input:checked")].map((box) => this.all[box.value]);
    const found = await Promise.all(chosen.map(async (run) => {
      const past = run.steps.filter((s) => s.step <= step).pop();
      if (!past || past.error) return { run, why: past ? past.error : "no analysis up to this step" };
      const kept = this.panes.get(run);
      if (kept?.record?.step === past.step) return { run, record: kept.record };
      try {
        return { run, record: open(await this.source.record(run.name, past.step)) };
      } catch (error) {
        return { run, why: error.message };
      }
    }));
    if (ticket !== this.asked) return;
    const before = this.panes;
    this.panes = new Map(found.map(({ run, record, why }) => {
      const pane = before.get(run) ?? this.pane(run);
      return [run, Object.assign(pane, { record, why })];
    }));
    this.root.replaceChildren(...[...this.panes.values()].map((pane) => pane.slice.root));
    this.root.hidden = !this.panes.size;
    this.draw();
  }

  pane(run) {
    const said = html("p", { class: "note" }), probe = html("p", { class: "note" });
    const slice = new Slice((p) => (probe.textContent = p ? [p.area, `loss ${p.loss}`, p.set].filter(Boolean).join(" · ") : ""), run.label);
    slice.root.setAttribute("aria-label", `slice of ${run.name}`);
    slice.root.append(said, probe);
    return { slice, said };
  }

  draw() {
    const records = [...this.panes.values()].map((pane) => pane.record).filter(Boolean);
    const alike = records.length > 1 && records.every((r) => r.shape.length === records[0].shape.length);
    this.same.disabled = !alike;
    const around = (name, pick) => records[0][name].map((_, k) => pick(...records.map((r) => r[name][k])));
    const frame = alike && this.same.checked ? { lower: around("lower", Math.min), upper: around("upper", Math.max) } : null;
    for (const { slice, said, record, why } of this.panes.values()) {
      slice.box.hidden = slice.controls.hidden = !record;
      if (!record) said.textContent = why;
      else {
        const loss = record.facts.loss_now, now = loss === null ? "" : ` · loss ${short(loss)}`;
        said.textContent = `step ${record.step} · ${record.facts.claim} · mu ≥ ${bound(record.facts.mu)}${now}`;
        slice.controls.hidden = record.shape.length !== 3;
        slice.show(record, null, frame);
      }
    }
  }
}

// --- The whole ----------------------------------------------------------------------------------

export async function mount(root, source) {
  const state = { run: 0, at: 0, selected: null, playing: null, record: null, asked: 0 };
  root.classList.add("morse-view");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = new URLSearchParams(location.hash.slice(1)).get("theme");
  const theme = html("button", { type: "button", class: "theme" });
  const applyTheme = () => {
    const now = chosen ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now;
    theme.textContent = now === "dark" ? "Light" : "Dark";
    theme.setAttribute("aria-label", `change to the ${now === "dark" ? "light" : "dark"} theme`);
  };

  const runs = html("select", { id: "morse-run" });
  const slider = html("input", { type: "range", min: 0, value: 0, "aria-label": "step" });
  const when = html("span", { class: "when", role: "status" });
  const play = html("button", { type: "button" }, "Play");
  const probe = html("div", { class: "probe", "aria-live": "polite" });
  const showProbe = (p) => {
    if (!p) probe.replaceChildren(html("span", { class: "note" }, "Point at a cell to see what is known of it."));
    else probe.replaceChildren(...[p.area, `loss ${p.loss}`, p.set, p.where].filter((t) => t !== null).map((t) => html("div", {}, t)));
  };
  const slice = new Slice(showProbe);
  const claim = html("p", { class: "claim" }), facts = html("dl"), legend = html("ul", { class: "legend" });
  const graph = html("div", { class: "graph" }), charts = html("div", { class: "charts" }), merge = html("div"), table = html("div");
  const card = (name, body) => html("section", { class: "card", "aria-label": name }, html("h2", {}, name), body);
  const details = html("section", { class: "card", "aria-label": "findings" }, claim, facts, probe, legend);
  const middle = html("div", { class: "column" }, card("Morse graph", graph), card("Attractors against confidence", merge));
  const top = html("div", { class: "top" }, slice.root, middle, details);
  const overTraining = card("Over training", charts);
  const below = html("div", { class: "below" }, overTraining, card("Morse sets", table));
  const message = html("div", { class: "card message", role: "alert" });
  const steps = html("div", { class: "steps" }, slider), beside = new Beside(source);
  root.replaceChildren(
    html("header", {}, html("h1", {}, "Morse graph of the loss"), html("label", {}, "run", runs), beside.chooser, play, steps, when, theme),
    message, beside.root, top, below,
  );
  message.hidden = true;
  showProbe(null);

  let all = [];
  const tell = (text) => {
    message.textContent = text;
    message.hidden = false;
    top.hidden = below.hidden = true;
  };
  const drawSelection = () => {
    slice.show(state.record, state.selected);
    drawGraph(graph, state.record, state.selected, select);
    drawTable(table, state.record, state.selected);
  };
  const drawAll = () => {
    if (!state.record) return;
    const r = state.record, run = all[state.run];
    claim.textContent = r.facts.claim;
    drawFacts(facts, r);
    drawLegend(legend, r);
    drawSelection();
    drawHistory(charts, run.steps, run.steps[state.at].step);
    drawMerge(merge, r);
    beside.draw();
  };
  function select(i) {
    const focused = graph.contains(document.activeElement);
    state.selected = state.selected === i ? null : i;
    drawSelection();
    if (focused) graph.querySelector(`[data-set="${i}"]`)?.focus();
  }
  async function goTo(at) {
    const run = all[state.run], ticket = ++state.asked;
    state.at = Math.min(Math.max(at, 0), run.steps.length - 1);
    const s = run.steps[state.at];
    slider.max = run.steps.length - 1;
    slider.value = state.at;
    const epoch = s.epoch === null || s.epoch === undefined ? "" : ` · epoch ${s.epoch + 1}`;
    when.textContent = `step ${s.step}${epoch}`;
    slider.setAttribute("aria-valuetext", when.textContent);
    let raw = null, why = s.error;
    if (!why) {
      try {
        raw = open(await source.record(run.name, s.step));
      } catch (error) {
        why = error.message;
      }
    }
    if (ticket !== state.asked) return;
    beside.show(s.step);
    state.record = raw;
    if (!raw) {
      tell(`The record of this step cannot be shown.\n${why}`);
      return;
    }
    if (state.selected !== null && state.selected >= raw.sets.length) state.selected = null;
    message.hidden = true;
    top.hidden = below.hidden = false;
    drawAll();
    root.dataset.shown = `${run.name} ${s.step}`;
  }
  const stop = () => {
    clearInterval(state.playing);
    state.playing = null;
    play.textContent = "Play";
  };
  const startRun = (k) => {
    stop();
    state.run = k;
    state.selected = null;
    overTraining.hidden = all[k].steps.length < 2;
    play.hidden = steps.hidden = overTraining.hidden;
    return goTo(all[k].steps.length - 1);
  };
  slider.addEventListener("input", () => goTo(Number(slider.value)));
  runs.addEventListener("change", () => startRun(runs.selectedIndex));
  play.addEventListener("click", () => {
    if (state.playing) return stop();
    play.textContent = "Stop";
    if (state.at === all[state.run].steps.length - 1) goTo(0);
    state.playing = setInterval(() => {
      if (state.at + 1 >= all[state.run].steps.length) stop();
      else goTo(state.at + 1);
    }, 700);
    return undefined;
  });
  beside.chooser.addEventListener("keydown", (e) => {
    if (e.key === "Escape") beside.chooser.open = false;
  });
  theme.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    applyTheme();
    drawAll();
  });
  dark.addEventListener("change", () => {
    applyTheme();
    drawAll();
  });
  root.ownerDocument.addEventListener("keydown", (e) => {
    if (e.defaultPrevented || ["INPUT", "SELECT"].includes(e.target.tagName) || !all.length) return;
    if (e.key === "ArrowLeft") goTo(state.at - 1);
    else if (e.key === "ArrowRight") goTo(state.at + 1);
  });
  let width = 0;
  new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    drawAll();
  }).observe(root);
  applyTheme();

  try {
    all = await source.runs();
  } catch (error) {
    tell(`The runs cannot be read.\n${error.message}`);
    return;
  }
  all = all.filter((r) => r.steps.length);
  if (!all.length) {
    tell(source.nothing ?? "There is no analysis to show.");
    root.querySelector("header").hidden = true;
    return;
  }
  // The folders that all runs share say nothing about any of them.
  const parts = all.map((r) => r.name.split("/"));
  let shared = 0;
  while (all.length > 1 && parts.every((p) => shared < p.length - 1 && p[shared] === parts[0][shared])) shared++;
  all.forEach((r, k) => (r.label = parts[k].slice(shared).join("/")));
  beside.offer(all);
  runs.replaceChildren(...all.map((r) => html("option", {}, r.label)));
  await startRun(0);
}
