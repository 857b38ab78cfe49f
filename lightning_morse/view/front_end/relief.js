// The loss over a section as heights on a lattice, and triangles of them.

import { TALL } from "./camera.js";

export const CELLS = 128; // along each side
const POINTS = CELLS + 1;
// Heights end at this quantile of the loss: what is steep at the rim would flatten all the rest.
const ROOF = 0.97;
// How far below the least loss the logarithm begins at the most, as a share of the usual range.
const LEAST_ABOVE_FLOOR = 1e-3;
const STEPS_OF_SIGHT = 48, SIGHT_MARGIN = 0.012;

export class Relief {
  // layers: sections with their places in a square of the given size, the outermost first. floor:
  // loss that the surrogate supposes is never reached, or null where the loss is not warped.
  constructor(layers, size, floor) {
    this.losses = lossesOf(layers, size);
    const finite = finiteOf(this.losses).sort();
    this.isEmpty = !finite.length;
    this.isLogarithmic = floor !== null && floor !== undefined;
    const [least, most] = [finite[0], finite[Math.floor(ROOF * (finite.length - 1))]];
    Object.assign(this, { least, most });
    const bottom = Math.min(floor ?? 0, least - LEAST_ABOVE_FLOOR * (most - least || 1));
    this.scale = this.isLogarithmic ? (loss) => Math.log(loss - bottom) : (loss) => loss;
    [this.low, this.high] = [this.scale(least), this.scale(most)];
    this.heights = new Float32Array(this.losses.length);
    for (let k = 0; k < this.losses.length; k++) this.heights[k] = this.heightOf(this.losses[k]);
  }

  heightOf(loss) {
    const share = (this.scale(loss) - this.low) / (this.high - this.low || 1);
    return TALL * Math.min(Math.max(share, 0), 1);
  }

  // Height at x and y from -1 to 1, between points of the lattice.
  at(x, y) {
    return bilinear(this.heights, POINTS, POINTS, (x + 1) / 2, (y + 1) / 2);
  }

  // Whether the surface lies between a point and the eye.
  hides([x, y, z], eye) {
    const way = [eye[0] - x, eye[1] - y, eye[2] - z];
    const length = Math.hypot(...way), reach = 2 / length;
    for (let k = 1; k <= STEPS_OF_SIGHT; k++) {
      const t = (reach * k) / STEPS_OF_SIGHT;
      const [px, py, pz] = [x + t * way[0], y + t * way[1], z + t * way[2]];
      if (Math.abs(px) > 1 || Math.abs(py) > 1 || pz > TALL) return false;
      if (this.at(px, py) > pz + SIGHT_MARGIN) return true;
    }
    return false;
  }

  // Points and their normals, six numbers each, and the triangles whose corners are all finite.
  mesh() {
    const { heights } = this, points = new Float32Array(6 * POINTS * POINTS);
    const triangles = new Uint16Array(6 * CELLS * CELLS), step = 2 / CELLS;
    let count = 0;
    for (let i = 0; i < POINTS; i++) {
      for (let j = 0; j < POINTS; j++) {
        const a = i * POINTS + j, b = a + POINTS, k = 6 * a;
        const right = i < CELLS ? b : a, left = i ? a - POINTS : a;
        const dx = (heights[right] - heights[left]) / (2 * step);
        const dy = (heights[j < CELLS ? a + 1 : a] - heights[j ? a - 1 : a]) / (2 * step);
        const long = Math.sqrt(dx * dx + dy * dy + 1) || 1;
        points[k] = i * step - 1;
        points[k + 1] = j * step - 1;
        points[k + 2] = heights[a];
        points[k + 3] = -dx / long;
        points[k + 4] = -dy / long;
        points[k + 5] = 1 / long;
        if (i === CELLS || j === CELLS) continue;
        if (!Number.isFinite(heights[a] + heights[b] + heights[b + 1] + heights[a + 1])) continue;
        triangles[count++] = a;
        triangles[count++] = b;
        triangles[count++] = b + 1;
        triangles[count++] = a;
        triangles[count++] = b + 1;
        triangles[count++] = a + 1;
      }
    }
    return { points, triangles: triangles.subarray(0, count) };
  }
}

// The loss at the points of the lattice, of the innermost layer there.
function lossesOf(layers, size) {
  const losses = new Float64Array(POINTS * POINTS).fill(NaN);
  for (const { section, box } of layers) {
    const { values, columns, rows } = section.loss();
    for (let i = 0; i < POINTS; i++) {
      const u = ((i / CELLS) * size - box.left) / box.width;
      if (u < 0 || u > 1) continue;
      for (let j = 0; j < POINTS; j++) {
        const v = (box.top + box.height - (1 - j / CELLS) * size) / box.height;
        if (v < 0 || v > 1) continue;
        losses[i * POINTS + j] = bilinear(values, columns, rows, u, v);
      }
    }
  }
  return losses;
}

function finiteOf(losses) {
  const found = new Float64Array(losses.length);
  let count = 0;
  for (const loss of losses) if (Number.isFinite(loss)) found[count++] = loss;
  return found.subarray(0, count);
}

// Between the values of a lattice, rows running fastest, at shares u across and v upwards.
function bilinear(values, columns, rows, u, v) {
  const x = Math.min(Math.max(u, 0), 1) * (columns - 1);
  const y = Math.min(Math.max(v, 0), 1) * (rows - 1);
  const i = Math.min(Math.floor(x), columns - 2), j = Math.min(Math.floor(y), rows - 2);
  const s = x - i, t = y - j, k = i * rows + j;
  const left = (1 - t) * values[k] + t * values[k + 1];
  const right = (1 - t) * values[k + rows] + t * values[k + rows + 1];
  return (1 - s) * left + s * right;
}
