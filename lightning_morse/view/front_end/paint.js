// The canvas under a slice: cells, hatching, borders of areas and Morse sets, contours of the loss.

import { mix, rgb } from "./colors.js";
import { drawContours } from "./contours.js";
import { DIVERGED, ESCAPES, UNDECIDED } from "./data.js";
import { html } from "./elements.js";

const HATCH_SPACING = 7;
const VEIL_OPACITY = 205; // of 255: what is not selected stays recognisable

// Pictures here are drawn once, from pixels: in memory that takes less time than to start a context
// of the graphics card.
const contextOf = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

// layers: sections with the place on the canvas of their box, the outermost first; each covers
// those before. size: {width, height} of the canvas. color: value of a custom property of the style
// sheet. ratio: pixels of the canvas for each unit of size.
export function paintSlice(canvas, layers, { size, selected, color, ratio }) {
  const screen = { ...size, ratio: ratio ?? (window.devicePixelRatio || 1) };
  canvas.style.width = `${size.width}px`;
  canvas.style.height = `${size.height}px`;
  const c = scaled(canvas, screen), { levels } = layers[0].section.record;
  for (const layer of layers) paintBox(c, layer, { screen, selected, color, levels });
}

function paintBox(c, { section, box }, { screen, selected, color, levels }) {
  const { cells, veil, labels, owners } = rasters(section, selected, color);
  const draw = (image) => c.drawImage(image, box.left, box.top, box.width, box.height);
  draw(cells);
  paintHatching(c, section, box, labels, color("--hatch"), screen.ratio);

  c.save();
  c.beginPath();
  c.rect(box.left, box.top, box.width, box.height);
  c.clip();
  const outline = (values, paint, width) => strokeBorders(c, section, box, values, paint, width);
  outline(labels, color("--separator"), 0.8);
  if (section.rows > 1) drawContours(c, section, box, levels, color("--contour"));
  const attractor = section.record.sets.map((m) => m.attractor);
  outline(owners.map((o) => (o >= 0 && attractor[o] ? -1 : o)), color("--ink"), 1.1);
  if (selected !== null) {
    draw(veil);
    outline(owners.map((o) => (o === selected ? 1 : 0)), color("--accent"), 3);
  }
  c.restore();
  const isInside = section.record !== section.record.boxes[0];
  c.strokeStyle = color(isInside ? "--ink" : "--faint");
  c.lineWidth = 1;
  c.strokeRect(box.left, box.top, box.width, box.height);
}

// The context of a canvas as large as the screen, in units of the page. One that has its size
// already is wiped: the browser would make a new one of it.
function scaled(canvas, { width, height, ratio }) {
  const [across, upwards] = [Math.round(width * ratio), Math.round(height * ratio)];
  const isSized = canvas.width === across && canvas.height === upwards;
  if (!isSized) Object.assign(canvas, { width: across, height: upwards });
  const context = contextOf(canvas);
  context.setTransform(1, 0, 0, 1, 0, 0);
  if (isSized) context.clearRect(0, 0, across, upwards);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.imageSmoothingEnabled = false;
  return context;
}

function fillsOf(record, color) {
  const ground = rgb(color("--void")), tint = Number(color("--tint"));
  const fills = {
    [UNDECIDED]: ground,
    [ESCAPES]: rgb(color("--escape")),
    [DIVERGED]: rgb(color("--diverged")),
  };
  record.sets.forEach((m, i) => m.attractor && (fills[i] = mix(rgb(m.color), ground, tint)));
  for (const value of Object.keys(fills)) fills[value] = pixelOf(fills[value], 255);
  return fills;
}

// A pixel of an image as one number, whichever way round this machine has its bytes.
function pixelOf(color, opacity) {
  return new Uint32Array(Uint8Array.from([...color, opacity]).buffer)[0];
}

// One pixel per cell: colours, and a veil over what is not selected. Labels and
// owners of the cells come along, column by column.
function rasters(section, selected, color) {
  const { record, columns, rows } = section, fills = fillsOf(record, color);
  const [cells, veil] = [0, 1].map(() => new Uint32Array(columns * rows));
  const veiled = pixelOf(rgb(color("--card")), VEIL_OPACITY);
  const labels = new Int16Array(columns * rows), owners = new Int16Array(columns * rows);
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < rows; j++) {
      const at = section.cell(i, j), label = record.field[at], owner = record.owner[at];
      const pixel = (rows - 1 - j) * columns + i;
      labels[i * rows + j] = label;
      owners[i * rows + j] = owner;
      cells[pixel] = fills[label];
      const outside = selected !== null && label !== selected && owner !== selected;
      if (outside) veil[pixel] = veiled;
    }
  }
  const image = (pixels) => asCanvas(pixels, columns, rows);
  return { cells: image(cells), veil: selected === null ? null : image(veil), labels, owners };
}

function asCanvas(pixels, width, height) {
  const canvas = html("canvas", { width, height });
  const image = new ImageData(new Uint8ClampedArray(pixels.buffer), width, height);
  contextOf(canvas).putImageData(image, 0, 0);
  return canvas;
}

// Oblique lines over the cells that are undecided.
function paintHatching(context, { columns, rows }, box, labels, color, ratio) {
  const wide = box.width / columns, tall = box.height / rows;
  context.beginPath();
  for (let j = 0; j < rows; j++) {
    for (let i = 0; i < columns; i++) {
      const start = i;
      while (i < columns && labels[i * rows + j] === UNDECIDED) i++;
      const y = box.top + box.height - (j + 1) * tall;
      if (i > start) context.rect(box.left + start * wide, y, (i - start) * wide, tall);
    }
  }
  context.fillStyle = hatchPattern(context, color, ratio);
  context.fill();
}

function hatchPattern(context, color, ratio) {
  const side = Math.max(1, Math.round(HATCH_SPACING * ratio)), tile = html("canvas");
  Object.assign(tile, { width: side, height: side });
  const lines = contextOf(tile);
  lines.scale(side / HATCH_SPACING, side / HATCH_SPACING);
  lines.strokeStyle = color;
  lines.lineWidth = 0.9;
  for (const s of [-HATCH_SPACING, 0, HATCH_SPACING]) {
    lines.moveTo(s, HATCH_SPACING);
    lines.lineTo(s + HATCH_SPACING, 0);
  }
  lines.stroke();
  const pattern = context.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scale(HATCH_SPACING / side));
  return pattern;
}

// Lines between neighbouring cells of different value.
function strokeBorders(context, { columns, rows }, box, values, color, width) {
  const x = (i) => box.left + (i / columns) * box.width;
  const y = (j) => box.top + box.height - (j / rows) * box.height;
  context.beginPath();
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < rows; j++) {
      const here = values[i * rows + j];
      if (i + 1 < columns && values[(i + 1) * rows + j] !== here) {
        context.moveTo(x(i + 1), y(j));
        context.lineTo(x(i + 1), y(j + 1));
      }
      if (j + 1 < rows && values[i * rows + j + 1] !== here) {
        context.moveTo(x(i), y(j + 1));
        context.lineTo(x(i + 1), y(j + 1));
      }
    }
  }
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}
