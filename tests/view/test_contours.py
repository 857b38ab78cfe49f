"""Contours of the front end are those of matplotlib, square by square."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.figure import Figure

from lightning_morse.view import asset

SIZE = 40.0
PROGRAM = """
const { values, columns, rows, levels, size } = JSON.parse(process.argv[1]);
const found = [];
let at = null;
const context = {
  beginPath() {}, stroke() {},
  moveTo(x, y) { at = [x, y]; },
  lineTo(x, y) { found.push([at, (at = [x, y])]); },
};
const loss = { values: values.map((v) => (v === null ? NaN : v)), columns, rows };
const box = { left: 0, top: 0, width: size, height: size };
drawContours(context, { loss: () => loss }, box, levels, "");
console.log(JSON.stringify(found));
"""


def contours(loss, levels):
    """Pieces of the contours of a loss over the square from 0 to SIZE, shape ``(n, 2, 2)``."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    values = [float(v) if np.isfinite(v) else None for v in loss.ravel()]
    given = {"columns": loss.shape[0], "rows": loss.shape[1], "levels": levels, "size": SIZE}
    script = asset("contours.js").replace("export ", "") + PROGRAM
    command = [node, "-e", script, json.dumps({"values": values, **given})]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    found = np.array(json.loads(done.stdout)).reshape(-1, 2, 2)
    found[..., 1] = SIZE - found[..., 1]  # pixels count downwards
    return found


def reference(loss, level):
    """Length of one contour by matplotlib, which leaves out squares with a masked corner."""
    x, y = (np.linspace(0, SIZE, n) for n in loss.shape)
    axes = Figure().add_subplot()
    drawn = axes.contour(x, y, np.ma.masked_invalid(loss.T), [level], corner_mask=False)
    return sum(np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in drawn.allsegs[0])


def bowl_with_ridges(columns=17, rows=23):
    u, v = np.meshgrid(np.linspace(-2, 2, columns), np.linspace(-2, 2, rows), indexing="ij")
    return u**2 + 0.7 * v**2 + 0.8 * np.sin(2.1 * u + 0.3) * np.cos(1.7 * v)


def length(pieces):
    return np.linalg.norm(pieces[:, 1] - pieces[:, 0], axis=1).sum()


@pytest.mark.parametrize("hole", [False, True])
def test_each_level_is_as_long_as_that_of_matplotlib(hole):
    loss = bowl_with_ridges()
    if hole:
        loss[8:10, 5] = np.nan
    for level in (0.1, 0.9, 2.05, 4.4):
        expected = reference(loss, level)
        assert expected > 0
        assert length(contours(loss, [level])) == pytest.approx(expected, rel=1e-9)


def test_all_levels_at_once_are_those_one_by_one():
    loss, levels = bowl_with_ridges(), [-3.0, 0.1, 0.9, 2.05, 4.4, 99.0]
    apart = sum(length(contours(loss, [level])) for level in levels)
    assert length(contours(loss, levels)) == pytest.approx(apart, rel=1e-12)


def test_opposite_corners_are_kept_apart():
    pieces = contours(np.array([[1.0, 0.0], [0.0, 1.0]]), [0.75])
    middles = sorted(piece.mean(axis=0).tolist() for piece in pieces)
    assert middles == [[SIZE / 8, SIZE / 8], [7 * SIZE / 8, 7 * SIZE / 8]]


def test_a_flat_loss_has_none():
    assert len(contours(np.ones((4, 4)), [0.5, 1.0, 2.0])) == 0
