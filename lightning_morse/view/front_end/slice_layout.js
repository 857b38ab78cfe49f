// Where the parts of a slice lie, in pixels, and which cell is where.

// Pixels around the plot for ticks and labels of the axes.
const MARGIN = { left: 52, right: 16, top: 16, bottom: 42 };
// Pixels of the window left for header and headings, and the least height of a slice.
const HEIGHT_OF_THE_REST = 215, LEAST_HEIGHT = 360;
const HEIGHT_OF_A_LINE = 0.7; // of the width, where the slice has one dimension

export function holds({ left, top, width, height }, x, y) {
  return x >= left && x < left + width && y > top && y <= top + height;
}

export function middleOf({ left, top, width, height }) {
  return [left + width / 2, top + height / 2];
}

export function cellOf(layer, x, y) {
  const { section: { columns, rows }, box } = layer;
  const i = Math.floor(((x - box.left) / box.width) * columns);
  const j = Math.floor((1 - (y - box.top) / box.height) * rows);
  return { layer, i: Math.min(i, columns - 1), j: Math.min(j, rows - 1) };
}

export function boundsOf({ layer: { section, box }, i, j }) {
  const width = box.width / section.columns, height = box.height / section.rows;
  return { x: box.left + i * width, y: box.top + box.height - (j + 1) * height, width, height };
}

// Where the box of one section lies, in pixels, if another one fills a given place.
export function placeOf({ record: inner, axes, planar }, { record: outer }, place) {
  const share = (k, v) => (v - outer.lower[k]) / (outer.upper[k] - outer.lower[k]);
  const span = (k) => [share(k, inner.lower[k]), share(k, inner.upper[k])];
  const [left, right] = span(axes[0]), [bottom, top] = planar ? span(axes[1]) : [0, 1];
  return {
    left: place.left + left * place.width,
    top: place.top + (1 - top) * place.height,
    width: (right - left) * place.width,
    height: (top - bottom) * place.height,
  };
}

// Where things are, in pixels: size of the drawing, plot within its margins, and box, the part of
// the plot that the box of the record takes up in the frame.
export function layoutOf(section, frame, width) {
  const { planar } = section;
  const tall = Math.min(width, Math.max(LEAST_HEIGHT, window.innerHeight - HEIGHT_OF_THE_REST));
  const height = planar ? tall : Math.min(tall, HEIGHT_OF_A_LINE * width);
  const plot = {
    left: MARGIN.left,
    top: MARGIN.top,
    width: width - MARGIN.left - MARGIN.right,
    height: height - MARGIN.top - MARGIN.bottom,
  };
  const box = placeOf(section, { record: frame }, plot);
  return { size: { width, height }, plot, box, frame };
}
