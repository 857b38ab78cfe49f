// Contour lines of the loss.

const LINE_WIDTH = 0.7;
// The sides of a square of the lattice that a contour joins, by which of its corners lie above: 1
// (left, below), 2 (right, below), 4 (right, above), 8 (left, above). Sides count from below,
// against the clock. Opposite corners alone are kept apart.
const JOINED = [
  [], [3, 0], [0, 1], [3, 1], [1, 2], [3, 0, 1, 2], [0, 2], [3, 2],
  [2, 3], [2, 0], [0, 1, 2, 3], [2, 1], [1, 3], [1, 0], [0, 3], [],
];

// box: where the box of the record lies on the canvas. levels: ascending.
export function drawContours(context, section, box, levels, color) {
  const { values, columns, rows } = section.loss();
  const across = box.width / (columns - 1), upwards = box.height / (rows - 1);
  const left = box.left, floor = box.top + box.height;
  context.beginPath();
  for (let i = 0; i + 1 < columns; i++) {
    for (let j = 0; j + 1 < rows; j++) {
      const k = i * rows + j;
      const corners = [values[k], values[k + rows], values[k + rows + 1], values[k + 1]];
      drawSquare(corners, levels, (side, t) => {
        const [u, v] = onSide(side, t);
        return [left + (i + u) * across, floor - (j + v) * upwards];
      }, context);
    }
  }
  context.strokeStyle = color;
  context.lineWidth = LINE_WIDTH;
  context.stroke();
}

// The pieces of all contours in one square; none where a corner is not finite. place: pixels at a
// share of a side.
function drawSquare(corners, levels, place, context) {
  const low = Math.min(...corners), high = Math.max(...corners);
  if (!Number.isFinite(low + high)) return;
  for (let n = firstAbove(levels, low); n < levels.length && levels[n] <= high; n++) {
    const level = levels[n];
    const above = corners.reduce((bits, v, k) => (v >= level ? bits | (1 << k) : bits), 0);
    const sides = JOINED[above];
    for (let k = 0; k < sides.length; k++) {
      const a = corners[sides[k]], b = corners[(sides[k] + 1) % 4];
      const [x, y] = place(sides[k], (level - a) / (b - a));
      if (k % 2) context.lineTo(x, y);
      else context.moveTo(x, y);
    }
  }
}

// The first level that is no corner's: below it all of the square lies above.
function firstAbove(levels, low) {
  let n = 0;
  while (n < levels.length && levels[n] <= low) n++;
  return n;
}

function onSide(side, t) {
  return [[t, 0], [1, t], [1 - t, 1], [0, 1 - t]][side];
}
