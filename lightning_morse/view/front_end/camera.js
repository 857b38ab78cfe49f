// The eye that looks at a surface: it turns about the vertical and up and down, and comes closer.
//
// The surface stands over the square from -1 to 1 in x and y, from 0 to TALL in z.

export const TALL = 0.9;
// Of the eye to the middle of the surface, and what it sees in front and behind.
const DISTANCE = 4.4, NEAR = 1.5, FAR = 8;
const START = { yaw: -0.6, rise: 0.62, zoom: 2.7 };
const LOWEST = 0.05, HIGHEST = Math.PI / 2, LEAST_ZOOM = 1.2, LARGEST_ZOOM = 8;

const between = (v, low, high) => Math.min(Math.max(v, low), high);

export class Camera {
  constructor() {
    this.reset();
  }

  reset() {
    Object.assign(this, START);
  }

  turn(yaw, rise) {
    this.yaw += yaw;
    this.rise = between(this.rise + rise, LOWEST, HIGHEST);
  }

  closer(factor) {
    this.zoom = between(this.zoom * factor, LEAST_ZOOM, LARGEST_ZOOM);
  }

  // Rows of the matrix, column by column, that takes points to what WebGL clips.
  matrix(aspect) {
    const [c, s] = [Math.cos(this.yaw), Math.sin(this.yaw)];
    const [u, v] = [Math.cos(this.rise), Math.sin(this.rise)];
    const rows = [
      [c, -s, 0, 0],
      [s * v, c * v, u, -u * (TALL / 2)],
      [s * u, c * u, -v, v * (TALL / 2) + DISTANCE], // the distance from the eye
    ];
    const [right, up, away] = rows, wide = this.zoom / Math.max(aspect, 1);
    const high = this.zoom * Math.min(aspect, 1);
    const a = (FAR + NEAR) / (FAR - NEAR), b = (-2 * FAR * NEAR) / (FAR - NEAR);
    const clip = [
      right.map((x) => x * wide),
      up.map((x) => x * high),
      away.map((x, k) => a * x + (k === 3 ? b : 0)),
      away,
    ];
    return Float32Array.from([0, 1, 2, 3].flatMap((k) => clip.map((row) => row[k])));
  }

  // Where the eye is, in coordinates of the surface.
  place() {
    const [c, s] = [Math.cos(this.yaw), Math.sin(this.yaw)];
    const back = -DISTANCE * Math.cos(this.rise);
    return [s * back, c * back, DISTANCE * Math.sin(this.rise) + TALL / 2];
  }
}

// Pixels of a point.
export function projected(m, [x, y, z], { width, height }) {
  const row = (k) => m[k] * x + m[4 + k] * y + m[8 + k] * z + m[12 + k];
  const w = row(3);
  return [(row(0) / w + 1) * 0.5 * width, (1 - row(1) / w) * 0.5 * height];
}
