// Contour lines of the loss.

import { contours } from "./vendor/d3.js";

const LINE_WIDTH = 0.7;

// box: where the box of the record lies on the canvas.
export function drawContours(context, section, box, levels, color) {
  const { values, columns, rows } = section.loss();
  const x = (i) => box.left + (i / (columns - 1)) * box.width;
  const y = (j) => box.top + box.height - (j / (rows - 1)) * box.height;
  // Rings close outside of the lattice and around values that are not finite; there is no contour.
  const inside = (i, j) => { // the square of the lattice above and to the right of (i, j)
    if (i < 0 || j < 0 || i + 1 >= columns || j + 1 >= rows) return false;
    const k = i * rows + j;
    return Number.isFinite(values[k] + values[k + 1] + values[k + rows] + values[k + rows + 1]);
  };
  // Of a segment with its middle at (i, j); one that runs along a side belongs to two squares.
  const drawn = (i, j) => {
    return inside(Math.floor(i), Math.floor(j)) && inside(Math.ceil(i) - 1, Math.ceil(j) - 1);
  };
  const lines = contours().size([rows, columns]);
  context.beginPath();
  for (const level of levels) {
    for (const ring of lines.contour(values, level).coordinates.flat()) {
      // The library puts the value of index k at k + 1/2.
      const points = ring.map(([v, u]) => [u - 0.5, v - 0.5]);
      points.forEach(([i, j], k) => {
        const [i0, j0] = points[Math.max(k - 1, 0)];
        if (k > 0 && drawn((i + i0) / 2, (j + j0) / 2)) context.lineTo(x(i), y(j));
        else context.moveTo(x(i), y(j));
      });
    }
  }
  context.strokeStyle = color;
  context.lineWidth = LINE_WIDTH;
  context.stroke();
}
