// The planar section of a record that is drawn: the whole slice in one and two dimensions, a plane
// of cells in three.

import { lossAt } from "./data.js";

export class Section {
  // axes: the axis across and, unless the slice is a line, the axis upwards. depth: the layer of
  // cells along the remaining axis of a slice of three dimensions.
  constructor(record, axes, depth = 0) {
    this.record = record;
    this.axes = axes;
    this.depth = depth;
    this.planar = axes.length > 1;
    this.normal = record.shape.length === 3 ? 3 - axes[0] - axes[1] : null;
    this.columns = record.shape[axes[0]];
    this.rows = this.planar ? record.shape[axes[1]] : 1;
  }

  // The same section of a box inside; null if it does not meet it.
  of(inner) {
    const k = this.normal;
    if (k === null) return new Section(inner, this.axes);
    const share = (this.point(0, 0)[k] - inner.lower[k]) / (inner.upper[k] - inner.lower[k]);
    if (share < 0 || share >= 1) return null;
    return new Section(inner, this.axes, Math.floor(share * inner.shape[k]));
  }

  // Index of the cell in column i and row j; rows count upwards.
  cell(i, j) {
    const { strides } = this.record;
    let at = i * strides[this.axes[0]];
    if (this.planar) at += j * strides[this.axes[1]];
    if (this.normal !== null) at += this.depth * strides[this.normal];
    return at;
  }

  // The point at shares u across and v upwards, in coordinates of the slice.
  point(u, v) {
    const { lower, upper, shape } = this.record, p = [];
    const place = (k, t) => lower[k] + t * (upper[k] - lower[k]);
    p[this.axes[0]] = place(this.axes[0], u);
    if (this.planar) p[this.axes[1]] = place(this.axes[1], v);
    const k = this.normal;
    if (k !== null) p[k] = place(k, (this.depth + 0.5) / shape[k]);
    return p;
  }

  // The loss on the lattice of the section, rows running fastest.
  loss() {
    const { record } = this, [columns, rows] = this.axes.map((k) => record.loss.shape[k]);
    if (this.normal === null) return { values: record.lossValues, columns, rows };
    const values = new Float64Array(columns * rows);
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < rows; j++) {
        const point = this.point(i / (columns - 1), j / (rows - 1));
        values[i * rows + j] = lossAt(record, point);
      }
    }
    return { values, columns, rows };
  }
}
