// The card with a slice of the loss: choice of the section, layout, and the cell pointed at.

import { html, svg } from "./elements.js";
import { short } from "./numbers.js";
import { overlayItems } from "./overlay.js";
import { paintSlice } from "./paint.js";
import { Section } from "./section.js";
import { areaText, kind, lossText } from "./words.js";

// Pixels around the plot for ticks and labels of the axes.
const MARGIN = { left: 52, right: 12, top: 6, bottom: 42 };
// Pixels of the window left for header and headings, and the least height of a slice.
const HEIGHT_OF_THE_REST = 215, LEAST_HEIGHT = 360;
const HEIGHT_OF_A_LINE = 0.7; // of the width, where the slice has one dimension
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
// Axes across and upwards of the sections of a slice of three dimensions.
const PAIRS_OF_AXES = [[0, 1], [0, 2], [2, 1]];

export class Slice {
  // onProbe: is told about the cell pointed at, or null.
  constructor(onProbe, heading = "Slice of the loss") {
    this.canvas = html("canvas", { "aria-hidden": "true" });
    this.overlay = svg("svg", { role: "img", tabindex: 0 });
    this.box = html("div", { class: "slice" }, this.canvas, this.overlay);
    this.pair = html("select", { "aria-label": "axes of the section" });
    this.depth = html("input", { type: "range", "aria-label": "position of the section" });
    this.depthText = html("span");
    const depth = html("label", {}, this.depth, this.depthText);
    this.controls = html("div", { class: "section" }, this.pair, depth);
    const parts = [html("h2", {}, heading), this.controls, this.box];
    this.root = html("section", { class: "card", "aria-label": "slice" }, ...parts);
    this.onProbe = onProbe;
    this.at = null;
    this.listen();
  }

  listen() {
    this.pair.addEventListener("change", () => {
      this.startSection();
      this.draw();
    });
    this.depth.addEventListener("input", () => this.draw());
    this.overlay.addEventListener("pointermove", (e) => this.probePixel(e.offsetX, e.offsetY));
    this.overlay.addEventListener("pointerleave", () => this.probeCell(null));
    this.overlay.addEventListener("keydown", (e) => {
      const step = STEPS[e.key];
      if (!step || !this.section) return;
      e.preventDefault();
      e.stopPropagation();
      const from = this.at ?? [this.section.columns >> 1, this.section.rows >> 1];
      this.probeCell([from[0] + step[0], from[1] + step[1]]);
    });
  }

  // frame: {lower, upper} of what is drawn, in coordinates of the slice; the box of the record if
  // null.
  show(record, selected, frame = null) {
    this.frame = frame ?? record;
    this.selected = selected;
    if (this.record !== record) {
      this.record = record;
      this.at = null;
      this.controls.hidden = record.shape.length !== 3;
      if (record.shape.length === 3) this.offerSections();
    }
    this.draw();
  }

  offerSections() {
    const { axes } = this.record, before = this.pair.value || "0 1";
    const options = PAIRS_OF_AXES.map(([a, b]) => {
      return html("option", { value: `${a} ${b}` }, `${axes[a]} × ${axes[b]}`);
    });
    this.pair.replaceChildren(...options);
    this.pair.value = before;
    this.startSection();
  }

  chosenAxes() {
    const d = this.record.shape.length;
    if (d === 3) return this.pair.value.split(" ").map(Number);
    return d === 2 ? [0, 1] : [0];
  }

  // A section starts at the current weights, or else at the first attractor or the centre.
  startSection() {
    const r = this.record, k = new Section(r, this.chosenAxes()).normal, n = r.shape[k];
    const first = r.sets.find((m) => m.attractor);
    const point = r.current ?? first?.center ?? r.lower.map((v, j) => (v + r.upper[j]) / 2);
    const cell = Math.floor(((point[k] - r.lower[k]) / (r.upper[k] - r.lower[k])) * n);
    const value = Math.min(Math.max(cell, 0), n - 1);
    Object.assign(this.depth, { min: 0, max: n - 1, value });
  }

  draw() {
    const { record } = this;
    if (!record || !this.box.isConnected) return;
    this.section = new Section(record, this.chosenAxes(), Number(this.depth.value));
    const { section } = this, k = section.normal;
    if (k !== null) {
      this.depthText.textContent = `${record.axes[k]} = ${short(section.point(0, 0)[k])}`;
    }
    this.layout = layoutOf(section, this.frame, this.box.clientWidth);
    const { size, box } = this.layout;
    this.box.style.height = `${size.height}px`;
    this.overlay.setAttribute("width", size.width);
    this.overlay.setAttribute("height", size.height);
    const said = `${record.facts.claim}; arrow keys move from cell to cell`;
    this.overlay.setAttribute("aria-label", said);
    const style = getComputedStyle(this.box), { selected } = this;
    const color = (name) => style.getPropertyValue(name).trim();
    paintSlice(this.canvas, section, { size, box, selected, color });

    const { axes, inside } = overlayItems(section, this.layout, selected);
    const look = { fill: "none", stroke: "var(--accent)", "stroke-width": 2 };
    this.cross = svg("rect", { ...look, visibility: "hidden" });
    inside.append(this.cross);
    this.overlay.replaceChildren(...axes, inside);
    this.probeCell(this.at);
  }

  probePixel(x, y) {
    if (!this.section) return;
    const { section, layout: { box } } = this;
    const u = (x - box.left) / box.width, v = 1 - (y - box.top) / box.height;
    if (u < 0 || u >= 1 || v < 0 || v >= 1) this.probeCell(null);
    else this.probeCell([Math.floor(u * section.columns), Math.floor(v * section.rows)]);
  }

  probeCell(at) {
    if (!this.cross) return;
    const { record, section, layout: { box } } = this, { columns, rows } = section;
    this.cross.setAttribute("visibility", at ? "visible" : "hidden");
    if (!at) {
      this.at = null;
      this.onProbe(null);
      return;
    }
    const i = Math.min(Math.max(at[0], 0), columns - 1), j = Math.min(Math.max(at[1], 0), rows - 1);
    this.at = [i, j];
    const width = box.width / columns, height = box.height / rows;
    const x = box.left + i * width, y = box.top + box.height - (j + 1) * height;
    for (const [name, value] of Object.entries({ x, y, width, height })) {
      this.cross.setAttribute(name, value);
    }
    const cell = section.cell(i, j), owner = record.owner[cell];
    const point = section.point((i + 0.5) / columns, (j + 0.5) / rows);
    this.onProbe({
      where: `(${point.map(short).join(", ")})`,
      area: areaText(record, cell),
      loss: lossText(record, point),
      set: owner < 0 ? null : `in Morse set ${owner}, ${kind(record, owner)}`,
    });
  }
}

// Where things are, in pixels: size of the drawing, plot within its margins, and box, the part of
// the plot that the box of the record takes up in the frame.
function layoutOf(section, frame, width) {
  const { record, axes, planar } = section;
  const tall = Math.min(width, Math.max(LEAST_HEIGHT, window.innerHeight - HEIGHT_OF_THE_REST));
  const height = planar ? tall : Math.min(tall, HEIGHT_OF_A_LINE * width);
  const plot = {
    left: MARGIN.left,
    top: MARGIN.top,
    width: width - MARGIN.left - MARGIN.right,
    height: height - MARGIN.top - MARGIN.bottom,
  };
  const share = (k, v) => (v - frame.lower[k]) / (frame.upper[k] - frame.lower[k]);
  const span = (k) => [share(k, record.lower[k]), share(k, record.upper[k])];
  const [left, right] = span(axes[0]), [bottom, top] = planar ? span(axes[1]) : [0, 1];
  const box = {
    left: plot.left + left * plot.width,
    top: plot.top + (1 - top) * plot.height,
    width: (right - left) * plot.width,
    height: (top - bottom) * plot.height,
  };
  return { size: { width, height }, plot, box, frame };
}
