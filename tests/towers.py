"""Boxes put inside made-up analyses, so that what shows or stores them can be tested by itself."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np

from lightning_morse.conley.reach import UNDECIDED, Reach
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.result import Box

DIVERGED = -3  # what ``label`` may return where the loss is not finite


def with_boxes(result, boxes, label, loss):
    """An analysis with boxes inside.

    Args:
        result: The analysis, whose grid, Morse sets and samples are kept.
        boxes: For each box ``(lower, upper, parent, cells_per_axis)``.
        label: Labels of points, of the finest cells: a function of ``(n, d)``.
        loss: Mean loss in the boxes inside, a function of points.
    """
    nested = NestedGrid.of(result.grid)
    for box in boxes:
        nested = nested.around(*box)
    finest = np.concatenate(
        [result.labels[nested.uncovered[0]], label(nested.cell_centers()[nested.part(0).stop :])]
    ).astype(np.int32)
    inner = tuple(_box(result, nested, k, finest, loss) for k in range(1, len(nested.grids)))
    labels = _labels(nested, 0, finest)
    return dataclasses.replace(
        result, labels=labels, reach=_reach(labels, result.n_morse_sets), inner=inner
    )


def _labels(nested, k, finest):
    labels = np.where(finest == DIVERGED, UNDECIDED, finest)
    return nested.on_grid(k, labels, lambda a, b: np.where(a == b, a, UNDECIDED).astype(np.int32))


def _box(result, nested, k, finest, loss):
    grid, x = nested.grids[k], nested.grids[k].cell_centers()
    labels = _labels(nested, k, finest)
    sets = np.full(grid.size, -1, dtype=np.int32)
    for i, m in enumerate(result.morse_sets):
        sets[np.all(np.abs(x - m.center) <= 1.01 * grid.cell_widths, axis=1)] = i
    mean = loss(np.stack(np.meshgrid(*grid.edges, indexing="ij"), axis=-1))
    return Box(
        grid=grid,
        parent=nested.parents[k],
        labels=labels,
        diverged=nested.on_grid(k, finest == DIVERGED, np.logical_or),
        mean_loss=mean,
        calibration=1.0 + k,
        surrogate=result.surrogate,
        loss_deviation=0.01 * np.abs(mean),
        reach=_reach(labels, result.n_morse_sets),
        sets=sets,
        n_samples=k,
    )


def _reach(labels, n_sets):
    """What labels say; an undecided cell may reach everything."""
    kinds = np.vstack([np.eye(n_sets + 1, dtype=bool), np.ones(n_sets + 1, dtype=bool)])
    row = np.where(labels == UNDECIDED, n_sets + 1, labels % (n_sets + 2))
    return Reach(kinds, np.where(labels == -2, n_sets, row).astype(np.int32))


def known_portrait(loss_at, grid, y=(1.0,)):
    """A portrait of one box whose surrogate knows the loss, of samples with the losses ``y``."""
    surrogate = SimpleNamespace(
        warp=SimpleNamespace(inverse=np.asarray),
        y=np.array(y),
        posterior=lambda x: SimpleNamespace(mean=loss_at(x)),
    )
    chart = SimpleNamespace(surrogate=surrogate, grid=grid)
    chart.at = lambda point: chart
    return SimpleNamespace(charts=(chart,), nested=SimpleNamespace(grids=(grid,)))
