// The slice in space: height is the loss, colours are those of the flat picture, which lies on it.
// It is turned with the mouse or the arrow keys; + and - come closer and go back, Home starts
// again.

import { Camera, projected } from "./camera.js";
import { ink, rgb } from "./colors.js";
import { boxAt, contains, lossAt } from "./data.js";
import { html, svg, svgText } from "./elements.js";
import { marker, star } from "./markers.js";
import { short } from "./numbers.js";
import { paintSlice } from "./paint.js";
import { painter3d } from "./painter3d.js";
import { Relief } from "./relief.js";

// Side of the picture on the surface, and its pixels for each unit: a power of two in all.
const PICTURE = 512, PICTURE_RATIO = 2;
const SEGMENTS = 24; // of an edge of the ground, each hidden or seen
const TURN = 0.09, TURN_PER_PIXEL = 0.008, CLOSER = 1.15; // radians, radians, a factor
const KEYS = {
  ArrowLeft: (eye) => eye.turn(-TURN, 0),
  ArrowRight: (eye) => eye.turn(TURN, 0),
  ArrowUp: (eye) => eye.turn(0, TURN),
  ArrowDown: (eye) => eye.turn(0, -TURN),
  "+": (eye) => eye.closer(CLOSER),
  "-": (eye) => eye.closer(1 / CLOSER),
  Home: (eye) => eye.reset(),
};
const ABOVE = 0.012; // of what lies on the surface: marks, and the line of the trajectory
const HIDDEN = 0.22; // opacity of what the surface hides
const LABEL = "Surface of the loss. Arrow keys turn it, plus and minus zoom, Home starts again.";

export class Surface {
  // onLost: is told if the browser takes the context away.
  constructor(onLost) {
    this.canvas = html("canvas", { "aria-hidden": "true" });
    this.picture = html("canvas"); // what lies on the surface, kept for its memory
    this.overlay = svg("svg", { role: "img", tabindex: 0, "aria-label": LABEL });
    this.note = html("p", { class: "note" });
    this.root = html("div", { class: "surface" }, this.canvas, this.overlay, this.note);
    this.camera = new Camera();
    this.asked = 0;
    this.canvas.addEventListener("webglcontextlost", () => {
      this.painter = undefined;
      onLost();
    });
    this.listen();
  }

  // Whether the browser can draw it, in this size; asked before it is drawn first.
  isPossible(size) {
    if (this.painter === undefined) {
      this.resize(size); // later the browser would make it all a second time
      this.painter = painter3d(this.canvas);
    }
    return this.painter !== null;
  }

  listen() {
    const { overlay } = this;
    overlay.addEventListener("pointerdown", (e) => {
      overlay.setPointerCapture(e.pointerId);
      this.held = [e.clientX, e.clientY];
    });
    overlay.addEventListener("pointermove", (e) => {
      if (!this.held) return;
      const [x, y] = this.held;
      this.camera.turn((e.clientX - x) * TURN_PER_PIXEL, (e.clientY - y) * TURN_PER_PIXEL);
      this.held = [e.clientX, e.clientY];
      this.drawSoon();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      overlay.addEventListener(name, () => (this.held = null));
    }
    overlay.addEventListener("keydown", (e) => {
      const change = KEYS[e.key === "=" ? "+" : e.key];
      if (!change) return;
      e.preventDefault();
      change(this.camera);
      this.drawSoon();
    });
  }

  // section: what is shown. layersIn: its layers with their places in a square of a given size.
  show({ section, layersIn, selected, color, size }) {
    const box = { left: 0, top: 0, width: PICTURE, height: PICTURE }, layers = layersIn(box);
    const { picture } = this;
    const sides = { width: PICTURE, height: PICTURE };
    paintSlice(picture, layers, { size: sides, selected, color, ratio: PICTURE_RATIO });
    Object.assign(this, { section, selected, color, size });
    this.relief = new Relief(layers, PICTURE, section.record.facts.loss_floor);
    this.painter.load(this.relief.mesh(), picture);
    this.note.textContent = noteOf(this.relief);
    this.draw();
  }

  // Of several changes before the next frame only the last is drawn.
  drawSoon() {
    window.cancelAnimationFrame(this.asked);
    this.asked = window.requestAnimationFrame(() => this.draw());
  }

  // Only where the size is another one: the browser makes a new canvas of it each time.
  resize({ width, height }) {
    const { canvas, overlay } = this, ratio = window.devicePixelRatio || 1;
    const [across, upwards] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width === across && canvas.height === upwards) return;
    Object.assign(canvas, { width: across, height: upwards });
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    overlay.setAttribute("width", width);
    overlay.setAttribute("height", height);
  }

  draw() {
    const { overlay, size, camera } = this, { width, height } = size;
    this.resize(size);
    const matrix = camera.matrix(width / height);
    const ground = rgb(this.color("--card")).map((v) => v / 255);
    const [c, s] = [Math.cos(camera.yaw), Math.sin(camera.yaw)];
    this.painter.draw(matrix, [0.5 * c - 0.4 * s, -0.5 * s - 0.4 * c, 0.77], ground);
    overlay.replaceChildren(...this.items(matrix));
  }

  items(matrix) {
    const eye = this.camera.place(), { record } = this.section;
    const pixel = (p) => projected(matrix, p, this.size);
    const look = (p) => (this.relief.hides(p, eye) ? { opacity: HIDDEN } : {});
    const sets = record.sets.map((_, i) => i).filter((i) => this.isShown(record.sets[i].center));
    const others = sets.filter((i) => !record.sets[i].attractor);
    const attractors = sets.filter((i) => record.sets[i].attractor);
    const items = [...this.frame(pixel, look), ...this.trajectory(pixel, look)];
    const put = (point, ...marks) => items.push(svg("g", look(point), ...marks));
    for (const i of others) {
      const p = this.place(record.sets[i].center);
      put(p, marker(record, i, ...pixel(p)));
    }
    if (record.current && this.isShown(record.current)) {
      const p = this.place(record.current);
      put(p, star(...pixel(p), 14));
    }
    for (const i of attractors) {
      const p = this.place(record.sets[i].center), [x, y] = pixel(p);
      const number = svgText(x, y + 4, i, { "text-anchor": "middle", "font-weight": 700 });
      number.style.fill = ink(record.sets[i].color);
      put(p, marker(record, i, x, y), number);
    }
    return items;
  }

  // In a section of three dimensions points are seen where they are projected to.
  isShown(point) {
    return contains(this.section.record, point) && Number.isFinite(this.place(point)[2]);
  }

  // Of a point of the slice, just above the surface.
  place(point) {
    const { section: { record, axes, normal }, relief } = this;
    const [x, y] = axes.map((k) => {
      return (2 * (point[k] - record.lower[k])) / (record.upper[k] - record.lower[k]) - 1;
    });
    const own = () => relief.heightOf(lossAt(boxAt(record, point), point));
    return [x, y, (normal === null ? own() : relief.at(x, y)) + ABOVE];
  }

  // Pieces of the path that are seen or hidden alike are one line each.
  trajectory(pixel, look) {
    const { trajectory } = this.section.record, pieces = [];
    let before = null, last = null;
    for (const point of trajectory) {
      const at = this.isShown(point) ? this.place(point) : null;
      if (at && before) {
        const how = look(at);
        const goesOn = last && last.end === before && last.how.opacity === how.opacity;
        if (!goesOn) pieces.push((last = { how, points: [pixel(before)] }));
        last.points.push(pixel(at));
        last.end = at;
      }
      before = at;
    }
    const round = { fill: "none", "stroke-linecap": "round", "stroke-linejoin": "round" };
    return pieces.flatMap(({ how, points }) => {
      const line = { points: points.join(" "), ...round, ...how };
      const core = { ...line, class: "trajectory", stroke: "#000000", "stroke-width": 2 };
      return [
        svg("polyline", { ...line, stroke: "#ffffff", "stroke-width": 4 }),
        svg("polyline", core),
      ];
    });
  }

  // The edge of the ground, and the names of the axes along it.
  frame(pixel, look) {
    const { record, axes } = this.section;
    const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]];
    const edges = corners.flatMap(([x, y], k) => {
      const [u, v] = corners[(k + 1) % 4];
      const at = (t) => [x + t * (u - x), y + t * (v - y), 0];
      return Array.from({ length: SEGMENTS }, (_, n) => {
        const [a, b] = [at(n / SEGMENTS), at((n + 1) / SEGMENTS)];
        const [[x1, y1], [x2, y2]] = [pixel(a), pixel(b)];
        return svg("line", { x1, y1, x2, y2, stroke: "var(--faint)", ...look(b) });
      });
    });
    const names = [[[0, -1.13, 0], [0, 1.13, 0]], [[-1.13, 0, 0], [1.13, 0, 0]]];
    const texts = names.map((sides, k) => {
      const [x, y] = sides.map(pixel).sort((a, b) => b[1] - a[1])[0]; // the side in front
      const fitting = Math.min(Math.max(x, 60), this.size.width - 60);
      const middle = { "text-anchor": "middle", class: "halo" };
      return svgText(fitting, y + 4, record.axes[axes[k]], middle);
    });
    return [...edges, ...texts];
  }
}

function noteOf(relief) {
  if (relief.isEmpty) return "No finite loss here.";
  const how = relief.isLogarithmic ? "the logarithm of the loss above its floor" : "the loss";
  const range = `from ${short(relief.least)}, cut at ${short(relief.most)}`;
  return `Height: ${how}, ${range}. Drag or arrow keys turn, + − zoom.`;
}
