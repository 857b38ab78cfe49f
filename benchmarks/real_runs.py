"""How often does an analysis of an ordinary training say what becomes of the weights, and truly?

    python benchmarks/real_runs.py [--runs mlp_sgd ...] [--seeds 0 1 2] [--epochs 20] [--every 2]
        [--others] [--truth 50] [--out rows.jsonl] [--dim 2] [--samples N] [--resolution 32]
    python benchmarks/real_runs.py --table rows.jsonl

Ten trainings (`ordinary_runs.py`; with ``--others`` the twenty of `other_runs.py`) with
``MorseMonitor``, default arguments apart from the period and ``max_overhead=1``. An analysis is
*answered* if the weights are certainly in the basin of an attractor ("basin"), or certainly leave
the box ("descends").

*Labels.* Up to ``--truth`` points with a certain label are followed along the exact gradient flow
of the same loss on the same slice (`true_flow.py`): the current weights, then half of the others
within 1/64 to 1 times the reach of the trajectory about them, half anywhere in the box. A label of
attractor ``a`` is wrong if the flow leaves the box, or comes to rest more than one cell (of the
innermost grid there) away from the cells of ``a``; an escape is wrong if the flow comes to rest
inside. A disagreement counts once it stands with a tenth of the tolerance. Flows that did not end
within the steps allowed are "unfinished", neither right nor wrong.

*Leaving.* Where the weights are said to leave the box, the loss is evaluated on 61 x 61 points over
16 times the reach of the trajectory in each direction. It "shows an attractor" if steepest descent
on this lattice from the current weights ends in its interior.

Each analysis is one row of ``--out``, a file of JSON lines that is appended to, so that runs can be
made in parts; of equal run, seed and epoch the last row counts. Evaluations are those of the whole
analysis; seconds are those of `morse/seconds`, figures included.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy.stats import beta

import lightning_morse as lm
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.monitoring.extent import half_widths
from lightning_morse.monitoring.findings import Explored, Findings, Look
from lightning_morse.monitoring.one_analysis import OneAnalysis
from lightning_morse.slices.directions import VALLEY
from lightning_morse.slices.loss_slice import LossSlice

sys.path.insert(0, str(Path(__file__).parent))
from ordinary_runs import LONG, RUNS, train
from other_runs import OTHER
from slice_slope import Slope
from true_flow import LEFT, SETTLED, TOLERANCE, UNFINISHED, follow, lattice_minimum

# Points drawn to find labelled ones among them.
_CANDIDATES = 4096
# Distances from the weights of the points near them: powers of two, times the reach.
_NEAR = (-6.0, 0.0)
# The dense look: points per axis, and its half-width over the reach of the trajectory.
DENSE, DENSE_REACH = 61, 16.0
_CARRIED = (
    "basin_current",
    "identity_current",
    "basin_switches",
    "attractors",
    "unresolved",
    "mu",
    "undecided",
    "escape",
    "explained",
    "flow_angle",
    "flow_length",
    "calibration",
    "seconds",
    "failed",
)

Row = dict[str, Any]


# ------------------------------------------------------------------- analyses


@dataclass(frozen=True, eq=False)
class Seen:
    """An analysis, and what is needed to check it.

    Attributes:
        title: When it was.
        found: Its findings.
        look: Its slice.
        loss: The loss on that slice, of a copy of the network as it was.
        evaluations: Points at which the loss was evaluated.
    """

    title: str
    found: Findings
    look: Look
    loss: LossSlice
    evaluations: int


@contextmanager
def watched() -> Iterator[list[Seen]]:
    """Keep every analysis that succeeds meanwhile."""
    seen: list[Seen] = []
    count, run, evaluate = 0, OneAnalysis.run, LossSlice.__call__
    read_off, looks = OneAnalysis._findings, []

    def counted(self: LossSlice, x: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += len(x)
        return evaluate(self, x)

    def looked(self: OneAnalysis, explored: Explored, *rest: Any) -> Findings:
        looks.append(explored.look)
        return read_off(self, explored, *rest)

    def kept(self: OneAnalysis) -> Findings | None:
        before = count
        found = run(self)
        if found is not None:
            look = looks.pop()  # as it was turned
            loss = self.loss.on(look.subspace)
            seen.append(Seen(self.title, found, look, loss, count - before))
        return found

    with (
        mock.patch.object(OneAnalysis, "run", kept),
        mock.patch.object(OneAnalysis, "_findings", looked),
        mock.patch.object(LossSlice, "__call__", counted),
    ):
        yield seen


def analyses(name: str, seed: int, given: argparse.Namespace) -> Iterator[Row]:
    """Train once, then check every analysis of the run."""
    chosen: dict[str, Any] = {} if given.samples is None else {"n_samples": given.samples}
    if given.dim != 2:
        chosen.update(dim=given.dim, resolution=given.resolution)
    monitor = lm.MorseMonitor(every_n_epochs=given.every, max_overhead=1.0, **chosen)
    epochs, truth = given.epochs, given.truth
    with tempfile.TemporaryDirectory() as folder, watched() as seen:
        train(OTHER.get(name, name), seed, epochs, monitor, folder)
    of_title = {one.title: one for one in seen}
    for scalars in monitor.history:
        epoch = scalars["epoch"] + 1
        row = {"run": name, "seed": seed, "epoch": epoch, "epochs": epochs}
        row.update({key: scalars[f"morse/{key}"] for key in _CARRIED})
        one = of_title.pop(f"epoch {epoch}", None)
        if one is None or row["failed"]:
            yield {**row, "verdict": "undecided"}
            continue
        label = int(row["basin_current"])
        row["verdict"] = {UNDECIDED: "undecided", ESCAPES: "descends"}.get(label, "basin")
        row["evaluations"] = one.evaluations
        row.update(shape_of(one), turned=one.look.chosen.kind == VALLEY)
        yield {**row, **(checked(one, truth, seed) if truth else {})}


def shape_of(one: Seen) -> Row:
    """How large the box has become, how many there are, and where the time went."""
    result = one.found.result
    assert result is not None, "the first process holds the result"
    return {
        "faces": (np.stack([result.grid.lower, result.grid.upper]) / reach_of(one.look)).tolist(),
        "boxes": len(result.boxes),
        "stages": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
    }


# ---------------------------------------------------------------------- truth


def checked(one: Seen, most: int, seed: int) -> Row:
    """Hold the labels of an analysis against the flow of the true loss."""
    assert one.found.result is not None, "the first process holds the result"
    result, current = one.found.result, one.look.current.numpy()
    start, slope = time.perf_counter(), Slope(one.loss)
    rng = np.random.default_rng(seed)
    points, labels = labelled_points(result, current, reach_of(one.look), most, rng)
    ends, fates = followed(slope, result, points, labels)
    wrong = wrong_labels(result, labels, ends, fates)
    row: Row = {
        "followed": len(points),
        "wrong": int(wrong.sum()),
        "unfinished": int((fates == UNFINISHED).sum()),
        "current_wrong": bool(len(wrong) and (points[0] == current).all() and wrong[0]),
        "wrong_points": [
            {"label": int(a), "fate": str(fate), "start": x.tolist(), "end": end.tolist()}
            for a, fate, x, end in zip(
                labels[wrong], fates[wrong], points[wrong], ends[wrong], strict=True
            )
        ],
        "gradients": slope.count,
    }
    if result.basin_of(current[None])[0] == ESCAPES:
        row["shows_attractor"] = shows_attractor(slope, one.look)
    return {**row, "truth_seconds": time.perf_counter() - start}


def labelled_points(
    result: lm.MorseAnalysis,
    current: np.ndarray,
    reach: np.ndarray,
    most: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the box with certain labels, the current weights first if they have one."""
    lower, upper = result.grid.lower, result.grid.upper
    anywhere = rng.uniform(lower, upper, (_CANDIDATES, len(reach)))
    size = 2.0 ** rng.uniform(*_NEAR, (_CANDIDATES, 1))
    near = current + size * reach * rng.uniform(-1, 1, anywhere.shape)
    first, near, anywhere = (
        points[_certain(result, points)] for points in (current[None], near, anywhere)
    )
    n_near = (most - len(first)) // 2
    points = np.vstack([first, near[:n_near]])
    points = np.vstack([points, anywhere[: most - len(points)]])[:most]
    return points, result.basin_of(points)


def _certain(result: lm.MorseAnalysis, points: np.ndarray) -> np.ndarray:
    """Whether points lie in the box and have a label."""
    inside = ((points >= result.grid.lower) & (points <= result.grid.upper)).all(axis=1)
    return inside & (result.basin_of(points) != UNDECIDED)


def followed(
    slope: Slope, result: lm.MorseAnalysis, points: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ends and fates of the true flow; those that contradict their label are followed twice."""
    go = partial(
        follow,
        slope,
        lower=result.grid.lower,
        upper=result.grid.upper,
        unit=partial(finest_cells, result),
    )
    orbits = go(points)
    ends, fates = orbits.ends, orbits.fates
    disputed = wrong_labels(result, labels, ends, fates)
    if disputed.any():
        again = go(points[disputed], tolerance=TOLERANCE / 10, most_steps=1000, funnels=False)
        ends[disputed], fates[disputed] = again.ends, again.fates
    return ends, fates


def finest_cells(result: lm.MorseAnalysis, points: np.ndarray) -> np.ndarray:
    """Widths of the cells of the innermost box around each point, shape ``(n, d)``."""
    widths = np.tile(result.grid.cell_widths, (len(points), 1))
    for box in result.boxes:
        widths[box.grid.cell_of(points) >= 0] = box.grid.cell_widths
    return widths


def wrong_labels(
    result: lm.MorseAnalysis, labels: np.ndarray, ends: np.ndarray, fates: np.ndarray
) -> np.ndarray:
    """Which labels the flow contradicts, shape ``(n,)``."""
    escapes = labels == ESCAPES
    wrong = np.where(escapes, fates == SETTLED, fates == LEFT)
    for i in np.flatnonzero(~escapes & (fates == SETTLED)):
        wrong[i] = not in_set(result, int(labels[i]), ends[i])
    return wrong


def in_set(result: lm.MorseAnalysis, number: int, point: np.ndarray) -> bool:
    """Whether a point is within one cell of a Morse set, on the innermost grid around it."""
    box = [box for box in result.boxes if box.grid.cell_of(point[None])[0] >= 0][-1]
    own = np.array(np.unravel_index(box.grid.cell_of(point[None]), box.grid.shape))
    cells = (
        result.morse_sets[number].cells if box.parent < 0 else np.flatnonzero(box.sets == number)
    )
    away = np.abs(np.array(np.unravel_index(cells, box.grid.shape)) - own).max(axis=0)
    return bool((away <= 1).any())


def reach_of(look: Look) -> np.ndarray:
    """The reach of the trajectory on each axis, as the box of an analysis is measured by it."""
    chosen = look.chosen
    natural = None if chosen.natural is None else chosen.natural.numpy()
    at_least = chosen.kind == "random"
    return half_widths(chosen.inside.numpy(), natural, at_least=at_least, margin=1.0)


def shows_attractor(slope: Slope, look: Look) -> bool:
    """Whether a dense look far around finds the attractor of the current weights."""
    half = DENSE_REACH * reach_of(look)
    axes = [np.linspace(-h, h, DENSE) for h in half]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    losses = slope.losses(points.reshape(-1, len(half))).reshape(points.shape[:-1])
    start = [int(np.abs(a - x).argmin()) for a, x in zip(axes, look.current.numpy(), strict=True)]
    return lattice_minimum(losses, start, 2 * half / (DENSE - 1)) is not None


# ---------------------------------------------------------------------- table


def interval(hits: int, trials: int) -> str:
    """A share with its exact (Clopper-Pearson) 95 % interval."""
    if not trials:
        return "none"
    low = float(beta.ppf(0.025, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, trials - hits)) if hits < trials else 1.0
    return f"{hits} of {trials}: {hits / trials:.1%} ({low:.1%} to {high:.1%})"


def is_late(row: Row) -> bool:
    return row["epoch"] > row["epochs"] / 2


def answered(rows: Sequence[Row]) -> int:
    return sum(row["verdict"] != "undecided" for row in rows)


def total(rows: Sequence[Row], key: str) -> int:
    return sum(row.get(key, 0) for row in rows)


def typical(rows: Sequence[Row], key: str, how: Callable[..., float] = statistics.median) -> str:
    """A statistic of the values there are; an angle or length of -1 is unknown."""
    values = [row[key] for row in rows if row.get(key, -1) != -1]
    return f"{how(values):.3g}" if values else ""


HEADS = (
    ("run", "first half: answered", "second half: answered", "in a basin", "descends"),
    ("wrong / followed", "unfinished", "leaving", "with an attractor"),
    ("evaluations: median", "most", "seconds", "angle", "length"),
)


def table(rows: Sequence[Row]) -> str:
    """One line a run, and the totals, in Markdown."""
    heads = [name for names in HEADS for name in names]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    names = list(dict.fromkeys(row["run"] for row in rows))
    for name in [*names, "all"]:
        own = [row for row in rows if name in (row["run"], "all")]
        early, late = [r for r in own if not is_late(r)], [r for r in own if is_late(r)]
        cells = [
            name,
            f"{answered(early)} of {len(early)}",
            f"{answered(late)} of {len(late)}",
            f"{sum(r['verdict'] == 'basin' for r in late)}",
            f"{sum(r['verdict'] == 'descends' for r in late)}",
            f"{total(own, 'wrong')} / {total(own, 'followed')}",
            f"{total(own, 'unfinished')}",
            f"{sum('shows_attractor' in r for r in own)}",
            f"{total(own, 'shows_attractor')}",
            typical(own, "evaluations"),
            typical(own, "evaluations", max),
            typical(own, "seconds"),
            typical(late, "flow_angle"),
            typical(late, "flow_length"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *shares(rows)])


def shares(rows: Sequence[Row]) -> list[str]:
    """What the goals are about, with exact intervals."""
    late = [row for row in rows if is_late(row)]
    early = [row for row in rows if not is_late(row)]
    looked = [row for row in rows if "shows_attractor" in row]
    ended = total(rows, "followed") - total(rows, "unfinished")
    return [
        f"- answered in the second half: {interval(answered(late), len(late))}",
        f"- answered in the first half: {interval(answered(early), len(early))}",
        f"- wrong labels among flows that ended: {interval(total(rows, 'wrong'), ended)}",
        f"- said to leave, with an attractor in the dense look: "
        f"{interval(total(looked, 'shows_attractor'), len(looked))}",
        f"- failed analyses: {sum(bool(row['failed']) for row in rows)}",
    ]


def read(path: str) -> list[Row]:
    """The rows of a file; of equal run, seed and epoch the last."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines() if line]
    return list({(row["run"], row["seed"], row["epoch"]): row for row in rows}.values())


# ----------------------------------------------------------------------- main


def told(row: Row) -> str:
    shown = (
        "verdict",
        "turned",
        "attractors",
        "undecided",
        "evaluations",
        "seconds",
        "followed",
        "wrong",
    )
    shown += ("unfinished", "gradients", "truth_seconds", "shows_attractor", "failed")
    facts = [f"{k} {row[k]:.3g}" if k != "verdict" else row[k] for k in shown if k in row]
    return f"{row['run']} seed {row['seed']} epoch {row['epoch']:3d}  {'  '.join(facts)}"


def main(arguments: list[str] | None = None) -> list[Row]:
    """Make the runs asked for, or print the table of runs made before; return the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=[*RUNS, *LONG, *OTHER])
    parser.add_argument("--others", action="store_true", help="instead: the runs of other_runs.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--every", type=int, default=2, help="epochs between two analyses")
    parser.add_argument("--dim", type=int, default=2, choices=[1, 2, 3], help="axes of the slice")
    parser.add_argument("--samples", type=int, help="n_samples, instead of the default")
    parser.add_argument("--resolution", type=int, default=32, help="cells on each of 1 or 3 axes")
    parser.add_argument("--truth", type=int, default=50, help="labels to check; 0: none")
    parser.add_argument("--out", help="file of JSON lines to append to")
    parser.add_argument("--table", metavar="FILE", help="print the table of these rows")
    given = parser.parse_args(arguments)
    if given.table:
        rows = read(given.table)
        print(table(rows))
        return rows
    for name in ("pytorch_lightning", "lightning_morse"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for name in OTHER if given.others else given.runs:
        for seed in given.seeds:
            for row in analyses(name, seed, given):
                print(told(row), flush=True)
                rows.append(row)
                if given.out:
                    with Path(given.out).open("a") as file:
                        file.write(json.dumps(row) + "\n")
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
