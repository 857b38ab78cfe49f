// The card with a slice of the loss: choice of the section, layout, and the cell pointed at.

import { boxAround, boxesWithin, isMap } from "./data.js";
import { html, svg } from "./elements.js";
import { short } from "./numbers.js";
import { overlayItems } from "./overlay.js";
import { paintSlice } from "./paint.js";
import { Section } from "./section.js";
import { boundsOf, cellOf, holds, layoutOf, middleOf, placeOf } from "./slice_layout.js";
import { Surface } from "./surface.js";
import { areaText, kind, lossText } from "./words.js";

// An arrow key goes this many pixels beyond the edge of a cell.
const BEYOND = 1e-3;
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const HEADINGS = { loss: "Slice of the loss", map: "Map of recorded runs" };
// Axes across and upwards of the sections of a slice of three dimensions.
const PAIRS_OF_AXES = [[0, 1], [0, 2], [2, 1]];

export class Slice {
  // onProbe: is told about the cell pointed at, or null. heading: says what is shown if left out.
  constructor(onProbe, heading = null) {
    this.canvas = html("canvas", { "aria-hidden": "true" });
    this.overlay = svg("svg", { role: "group", tabindex: 0 });
    this.flat = html("div", { class: "flat" }, this.canvas, this.overlay);
    this.surface = new Surface(() => {
      this.setInSpace(false);
      this.draw();
    });
    this.box = html("div", { class: "slice" }, this.flat, this.surface.root);
    this.space = html("button", { type: "button" });
    this.setInSpace(false);
    this.pair = html("select", { "aria-label": "axes of the section" });
    this.depth = html("input", { type: "range", "aria-label": "position of the section" });
    this.depthText = html("span");
    const depth = html("label", {}, this.depth, this.depthText);
    this.zoom = html("select", { "aria-label": "box that is shown" });
    this.cut = html("span", { class: "cut" }, this.pair, depth);
    this.hint = html("span", { class: "note" });
    this.controls = html("div", { class: "section" }, this.cut, this.zoom, this.hint);
    this.givenHeading = heading;
    this.heading = html("h2", {}, heading ?? HEADINGS.loss);
    const head = html("div", { class: "head" }, this.heading, this.space);
    const parts = [head, this.controls, this.box];
    this.root = html("section", { class: "card", "aria-label": "slice" }, ...parts);
    this.onProbe = onProbe;
    this.at = null;
    this.listen();
  }

  listen() {
    this.space.addEventListener("click", () => {
      this.setInSpace(!this.inSpace);
      this.draw();
    });
    // The browser takes a while for its first context, and it can do so before the button is down.
    for (const name of ["pointerenter", "focus"]) {
      this.space.addEventListener(name, () => {
        if (this.layout) this.surface.isPossible(this.layout.size);
      });
    }
    this.zoom.addEventListener("change", () => this.enter(this.whole.boxes[this.zoom.value]));
    this.pair.addEventListener("change", () => {
      this.startSection();
      this.draw();
    });
    this.depth.addEventListener("input", () => this.draw());
    this.overlay.addEventListener("pointermove", (e) => this.probePixel(e.offsetX, e.offsetY));
    this.overlay.addEventListener("pointerleave", () => this.probe());
    this.overlay.addEventListener("dblclick", (e) => {
      this.zoomAt(this.layerAt(e.offsetX, e.offsetY));
    });
    this.overlay.addEventListener("keydown", (e) => {
      const step = STEPS[e.key];
      if (!this.section || !(step || e.key === "Enter")) return;
      e.preventDefault();
      e.stopPropagation();
      if (step) this.step(...step);
      else this.zoomAt(this.layers.find((l) => l.mark === e.target) ?? this.at?.layer);
    });
    this.root.addEventListener("keydown", (e) => {
      if (e.key === "Escape" && this.record !== this.whole) this.zoomOut();
    });
  }

  // Into the box of a layer, if it is one inside.
  zoomAt(layer) {
    if (!layer || layer.section.record === this.record) return;
    this.enter(layer.section.record);
    this.overlay.focus();
  }

  zoomOut() {
    if (!this.whole || this.record === this.whole) return;
    this.enter(boxAround(this.record));
    if (!this.inSpace) this.overlay.focus();
  }

  // The flat view comes back where the browser has no WebGL, or takes it away.
  setInSpace(wish) {
    const possible = !wish || this.surface.isPossible(this.layout.size);
    this.inSpace = wish && possible;
    this.space.textContent = this.inSpace ? "Flat" : "In space";
    this.space.disabled = !possible;
    if (!possible) this.space.title = "This browser has no WebGL.";
  }

  // frame: {lower, upper} of what is drawn, in coordinates of the slice; the box of the record if
  // null.
  show(record, selected, frame = null) {
    this.frame = frame;
    this.selected = selected;
    if (this.whole === record) {
      this.draw();
      return;
    }
    this.whole = record;
    this.heading.textContent = this.givenHeading ?? HEADINGS[isMap(record) ? "map" : "loss"];
    this.offerBoxes();
    this.cut.hidden = record.shape.length !== 3;
    this.controls.hidden = this.cut.hidden && this.zoom.hidden;
    if (!this.cut.hidden) this.offerSections();
    this.enter(record.boxes[this.zoom.value]);
  }

  // A box stays chosen from one analysis to the next as long as there is one of its number.
  offerBoxes() {
    const { boxes } = this.whole, before = Number(this.zoom.value);
    const names = boxes.map((_, k) => (k ? `box ${k} inside` : "whole box"));
    this.zoom.replaceChildren(...names.map((name, k) => html("option", { value: k }, name)));
    this.zoom.value = before < boxes.length ? before : 0;
    this.zoom.hidden = boxes.length < 2;
  }

  // Shows one box of the record, with those inside it.
  enter(box) {
    this.record = box;
    this.zoom.value = this.whole.boxes.indexOf(box);
    this.at = null;
    if (!this.cut.hidden) this.startSection();
    this.draw();
  }

  offerSections() {
    const { axes } = this.whole, before = this.pair.value || "0 1";
    const options = PAIRS_OF_AXES.map(([a, b]) => {
      return html("option", { value: `${a} ${b}` }, `${axes[a]} × ${axes[b]}`);
    });
    this.pair.replaceChildren(...options);
    this.pair.value = before;
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

  // What drawing asks the browser for, before anything on the page changes: it lays the page out
  // and works out its style for each question after a change.
  measure() {
    this.room = this.box.clientWidth;
    this.color = colorsOf(this.box, this.color?.names);
  }

  draw() {
    const { record } = this;
    if (!record || !this.box.isConnected) return;
    this.section = new Section(record, this.chosenAxes(), Number(this.depth.value));
    const { section } = this, k = section.normal;
    if (k !== null) {
      this.depthText.textContent = `${record.axes[k]} = ${short(section.point(0, 0)[k])}`;
    }
    // Axes in common are those of whole boxes.
    const frame = record === this.whole ? this.frame ?? record : record;
    this.layout = layoutOf(section, frame, this.room || this.box.clientWidth);
    const { size, box } = this.layout;
    const sections = boxesWithin(record).map((b) => section.of(b)).filter(Boolean);
    const layersIn = (place) => sections.map((inner) => {
      return { section: inner, box: placeOf(inner, section, place) };
    });
    this.layers = layersIn(box);
    this.box.style.height = `${size.height}px`;
    this.overlay.setAttribute("width", size.width);
    this.overlay.setAttribute("height", size.height);
    const zooms = record === this.whole ? "" : ", Escape goes back";
    const said = `slice: ${record.facts.claim}; arrow keys move from cell to cell${zooms}`;
    this.overlay.setAttribute("aria-label", said);
    this.hint.textContent = this.zoom.hidden ? "" : hintOf(record, this.layers.length > 1);
    const { selected } = this, color = this.color ?? colorsOf(this.box);
    const inSpace = this.inSpace && section.planar;
    this.space.hidden = !section.planar;
    this.flat.hidden = inSpace;
    this.surface.root.hidden = !inSpace;
    if (inSpace) this.surface.show({ section, layersIn, selected, color, size });
    else paintSlice(this.canvas, this.layers, { size, selected, color });

    const { axes, inside, marks } = overlayItems(section, this.layout, selected);
    const look = { fill: "none", stroke: "var(--accent)", "stroke-width": 2 };
    this.cross = svg("rect", { ...look, visibility: "hidden" });
    inside.append(this.cross);
    for (const layer of this.layers.slice(1)) layer.mark = markOf(layer, this.whole);
    const boxes = this.layers.slice(1).map((layer) => layer.mark);
    this.overlay.replaceChildren(...axes, inside, ...boxes, ...marks);
    const same = (layer) => layer.section.record === this.at?.layer.section.record;
    const layer = this.layers.find(same);
    this.probe(layer && { ...this.at, layer });
  }

  // The innermost box at a pixel answers for it.
  layerAt(x, y) {
    return this.section && this.layers.filter(({ box }) => holds(box, x, y)).pop();
  }

  probePixel(x, y) {
    const layer = this.layerAt(x, y);
    if (!this.section) return;
    this.probe(layer && cellOf(layer, x, y));
  }

  // To the cell beside the present one, or in the middle.
  step(dx, dy) {
    const { box } = this.layout, at = this.at && boundsOf(this.at);
    const [x, y] = at ? [at.x + at.width / 2, at.y + at.height / 2] : middleOf(box);
    if (!at) this.probePixel(x, y);
    const { width, height } = at ?? boundsOf(this.at);
    const to = [x + dx * (width / 2 + BEYOND), y - dy * (height / 2 + BEYOND)];
    if (holds(box, ...to)) this.probePixel(...to);
    else this.probe(this.at);
  }

  // at: {layer, i, j}, a cell of one of the layers; nothing to probe no cell.
  probe(at = null) {
    if (!this.cross) return;
    this.at = at;
    this.cross.setAttribute("visibility", at ? "visible" : "hidden");
    if (!at) {
      this.onProbe(null);
      return;
    }
    for (const [name, value] of Object.entries(boundsOf(at))) this.cross.setAttribute(name, value);
    const { layer: { section }, i, j } = at, { record, columns, rows } = section;
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

// The outline of a box inside: it can be focused, and takes no pointer away from the cells.
function markOf({ section: { record }, box: { left, top, width, height } }, whole) {
  const name = `box ${whole.boxes.indexOf(record)} inside: Enter zooms into it`;
  const look = { class: "inside", tabindex: 0, role: "button", "aria-label": name };
  return svg("rect", { x: left, y: top, width, height, ...look });
}

function hintOf(record, hasInside) {
  const ways = [];
  if (hasInside) ways.push("double click or Enter zooms into a box inside");
  if (record !== record.boxes[0]) ways.push("Escape goes back");
  const said = ways.join(", ");
  return said && `${said[0].toUpperCase()}${said.slice(1)}.`;
}

// Values of custom properties of the style sheet, each asked for once: those named now, others
// when they are needed.
function colorsOf(element, names = []) {
  const style = getComputedStyle(element), known = new Map();
  const color = (name) => {
    if (!known.has(name)) known.set(name, style.getPropertyValue(name).trim());
    return known.get(name);
  };
  names.forEach(color);
  return Object.defineProperty(color, "names", { get: () => [...known.keys()] });
}
