// The canvas under a slice: cells, hatching, borders of areas and Morse sets, contours of the loss.

import { mix, rgb } from "./colors.js";
import { drawContours } from "./contours.js";
import { DIVERGED, ESCAPES, UNDECIDED } from "./data.js";
import { html } from "./elements.js";

const HATCH_SPACING = 7;
const VEIL_OPACITY = 205; // of 255: what is not selected stays recognisable

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
  const { cells, hatched, veil, labels, owners } = rasters(section, selected, color);
  const draw = (context, image) => {
    context.drawImage(image, box.left, box.top, box.width, box.height);
  };
  draw(c, cells);
  paintHatching(c, screen, (context) => draw(context, hatched), color("--hatch"));

  c.save();
  c.beginPath();
  c.rect(box.left, box.top, box.width, box.height);
  c.clip();
  const outline = (values, paint, width) => strokeBorders(c, section, box, values, paint, width);
  outline(labels, color("--separator"), 0.8);
  if (section.rows > 1) drawContours(c, section, box, levels, color("--contour"));
  const attractor = section.record.sets.map((m) => m.attractor);
  outline(owners.map((o) => (o >= 0 && attractor[o] ? -1 : o)), color("--ink"), 1.1);
  draw(c, veil);
  if (selected !== null) {
    outline(owners.map((o) => (o === selected ? 1 : 0)), color("--accent"), 3);
  }
  c.restore();
  const isInside = section.record !== section.record.boxes[0];
  c.strokeStyle = color(isInside ? "--ink" : "--faint");
  c.lineWidth = 1;
  c.strokeRect(box.left, box.top, box.width, box.height);
}

// The context of a canvas as large as the screen, in units of the page.
function scaled(canvas, { width, height, ratio }) {
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
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
  for (const value of Object.keys(fills)) fills[value] = [...fills[value], 255];
  return fills;
}

// One pixel per cell: colours, where to hatch, and a veil over what is not selected. Labels and
// owners of the cells come along, column by column.
function rasters(section, selected, color) {
  const { record, columns, rows } = section, fills = fillsOf(record, color);
  const [cells, hatched, veil] = [0, 1, 2].map(() => new ImageData(columns, rows));
  const veiled = [...rgb(color("--card")), VEIL_OPACITY];
  const labels = new Int16Array(columns * rows), owners = new Int16Array(columns * rows);
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < rows; j++) {
      const at = section.cell(i, j), label = record.field[at], owner = record.owner[at];
      const pixel = 4 * ((rows - 1 - j) * columns + i);
      labels[i * rows + j] = label;
      owners[i * rows + j] = owner;
      cells.data.set(fills[label], pixel);
      if (label === UNDECIDED) hatched.data[pixel + 3] = 255;
      const outside = selected !== null && label !== selected && owner !== selected;
      if (outside) veil.data.set(veiled, pixel);
    }
  }
  const images = [cells, hatched, veil].map(asCanvas);
  return { cells: images[0], hatched: images[1], veil: images[2], labels, owners };
}

function asCanvas(image) {
  const canvas = html("canvas", { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// Oblique lines where drawMask paints.
function paintHatching(context, screen, drawMask, color) {
  const { width, height } = screen;
  const hatch = html("canvas"), inHatch = scaled(hatch, screen);
  drawMask(inHatch);
  inHatch.globalCompositeOperation = "source-in";
  const lines = html("canvas"), inLines = scaled(lines, screen);
  inLines.strokeStyle = color;
  inLines.lineWidth = 0.9;
  for (let s = -height; s < width; s += HATCH_SPACING) {
    inLines.moveTo(s, height);
    inLines.lineTo(s + height, 0);
  }
  inLines.stroke();
  inHatch.drawImage(lines, 0, 0, width, height);
  context.drawImage(hatch, 0, 0, width, height);
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
