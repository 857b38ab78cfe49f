r"""Is a claim of probability mu false at most as often as it says?

    python benchmarks/reliability.py [--population a b d c] [--n 60] [--slices 12]
        [--samples 128] [--resolution 128] [--jobs 1] [--rows FILE] [--diagram FILE]

Functions of four populations (:mod:`populations`) are analysed, and everything claimed is held
against the function itself. One row a function and number of samples goes to ``--rows`` as a line
of JSON; rows that are there already are not made again, and ``--table`` makes none.

*The truth* is a dense look (:mod:`dense_look`): all local minima inside the box. As the project
says it (``docs/mu.md``), a claim of "exactly n attractors" is false if there are not n of them, "at
least n" if there are fewer; both are false if a set that is called an attractor has no minimum
within one cell. For slices of networks, minima within two cells count as one, as in
``real_slices.py``: at the bottom of a ReLU network there are many, and closer together than anyone
asks. For formulas each minimum counts; how many verdicts hang on this is said below the table.

*Labels*: from points drawn at random among those with a certain label, the flow of the exact
gradient is followed (:mod:`true_flow`, with steps shorter than the narrowest feature). A label is
false if the flow ends elsewhere, or leaves where it should stay, or stays where it should leave.
What contradicts a label is followed again, by ``scipy.integrate.solve_ivp`` where the function is
smooth, from circle to circle where it has kinks, and only this verdict counts.

*The table*: of the claims with mu >= m, how many are false, with the exact (Clopper-Pearson) 95 %
interval, and whether 1 - m reaches its lower end. "No well narrower than finest" has only the
functions all of whose wells are wider than ``result.finest``; "attractors wider than finest" has
all, but an attractor that is narrower and was not told apart does not make a claim false. The well
of a minimum is what lies below the lowest pass to another one (:mod:`dense_look`), its width the
diameter of the largest disc in it as a share of the box. Of several minima in one set that is
called an attractor, it stands for the one with the widest well. Analyses without ``finest`` are in
neither. ``mu_model`` is the bound given the model, the same as ``mu`` where there is none.

*The diagram*: claims by what they say about their own failure, against the share of false ones. On
and below the line, claims are as good as their word.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.integrate import solve_ivp
from scipy.stats import beta

sys.path.insert(0, str(Path(__file__).parent))
from dense_look import Minima, all_minima, groups_within, rest_points
from populations import POPULATIONS, Landscape, landscape
from real_runs import finest_cells, in_set, wrong_labels
from true_flow import LEFT, SETTLED, UNFINISHED, follow

import lightning_morse as lm
from lightning_morse.conley.reach import UNDECIDED
from lightning_morse.gp.process import SurrogateError

THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
CONFIDENCE = 0.95
EXACTLY, AT_LEAST, NONE = "exactly", "at least", "none"
# Points drawn to find labelled ones among them.
_CANDIDATES = 4096
# Unit of length for the true flow, and radius of circles, in widths of the narrowest feature.
_UNIT, _CIRCLE = 0.2, 0.1
_MOST_STEPS = 1000
# For the integrator of scipy: tolerance, longest time, gradients before it is given up; it is at
# rest where the gradient is this small, relative to that at the start or to the median of all.
_RTOL, _LONGEST, _MOST_GRADIENTS, _STILL = 1e-8, 1e5, 20_000, 1e-6
# Minima this many cells apart are one, where they are told apart by cells.
_CELLS_APART = 2.0


@dataclass(frozen=True)
class Task:
    """What to analyse, and how."""

    population: str
    number: int
    samples: int
    resolution: int
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """What was claimed of a function, and what is true.

    Attributes:
        task: What was analysed, and how.
        facts: About the function.
        claim: "exactly", "at least", or "none".
        claimed: Number of attractors claimed.
        mu: Probability of the claim as reported, 0 where nothing is claimed.
        mu_model: The same given the model.
        finest: Width of the narrowest well that would have been seen, share of the box, or NaN.
        evaluations: Number of losses that the analysis evaluated.
        refused: Why there is no analysis, or "".
        minima: Number of minima in the box, as they count.
        each: The same if each counts.
        unfounded: Attractors claimed that have no minimum within one cell.
        widths: Widths of the true wells, share of the box; the lowest minimum first, where each
            counts. Of minima that count as one, the widest.
        missed: Those of minima that no attractor claimed stands for.
        followed: Labels that were held against the true flow.
        false_labels: How many of them are false.
        unfinished: How many flows did not end.
        seconds: Of the analysis, and of finding the truth.
    """

    task: Task
    facts: dict[str, float | str]
    claim: str = NONE
    claimed: int = 0
    mu: float = 0.0
    mu_model: float = 0.0
    finest: float = math.nan
    evaluations: int = 0
    refused: str = ""
    minima: int = 0
    each: int = 0
    unfounded: int = 0
    widths: list[float] = field(default_factory=list)
    missed: list[float] = field(default_factory=list)
    followed: int = 0
    false_labels: int = 0
    unfinished: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def is_false(self) -> bool:
        """Whether the claim is false."""
        return self._false(self.minima)

    @property
    def is_false_of_each(self) -> bool:
        """The same if each minimum counts."""
        return self._false(self.each)

    @property
    def is_false_of_wide(self) -> bool:
        """Whether it is false of the attractors wider than ``finest``, and of those found."""
        unseen = sum(width <= self.finest for width in self.missed)
        return self._false(max(self.minima - unseen, 0))

    @property
    def has_wide_wells_only(self) -> bool:
        """Whether all wells are wider than ``finest``; not where that is unknown."""
        return all(width > self.finest for width in self.widths) and not math.isnan(self.finest)

    def _false(self, minima: int) -> bool:
        if self.claim == NONE:
            return False
        wrong = self.claimed > minima or self.unfounded > 0
        return wrong or (self.claim == EXACTLY and self.claimed != minima)


# ------------------------------------------------------------------ one function


@lru_cache(maxsize=1)
def truth_about(population: str, number: int, seed: int) -> tuple[Landscape, Minima]:
    """A function and its minima; kept, as it may be analysed with several numbers of samples."""
    function = landscape(population, number, seed)
    return function, all_minima(function.values, function.half, function.dense)


def judge(task: Task, n_labels: int) -> Row:
    """Analyse a function and hold all claims, and some labels, against the truth."""
    begun = time.perf_counter()
    truth, minima = truth_about(task.population, task.number, task.seed)
    start, half = time.perf_counter(), truth.half
    settings = {"confidence": CONFIDENCE, "seed": task.number}
    try:
        result = lm.analyze(truth.loss, -half, half, task.samples, task.resolution, **settings)
    except SurrogateError as refusal:
        return Row(task, truth.facts, refused=str(refusal))
    analysed = time.perf_counter()
    rng = np.random.default_rng([task.seed, ord(task.population), task.number, task.samples])
    labels = label_verdicts(truth, result, n_labels, rng)
    seconds = [analysed - start, start - begun + time.perf_counter() - analysed]
    merged = task.population == "c"
    verdicts = {**claim_of(result), **held(result, minima, merged), **labels}
    return Row(task, truth.facts, **verdicts, seconds=[round(s, 2) for s in seconds])


def claim_of(result: lm.MorseAnalysis) -> dict[str, float | int | str]:
    """What an analysis claims; today's have neither ``mu_model`` nor ``finest``."""
    # Nothing found while something is unresolved claims nothing, and mu is 0 then.
    claim = NONE if result.mu == 0 else (AT_LEAST if result.n_unresolved else EXACTLY)
    given_model, finest = getattr(result, "mu_model", None), getattr(result, "finest", None)
    return {
        "claim": claim,
        "claimed": result.n_attractors,
        "mu": float(result.mu),
        "mu_model": float(result.mu if given_model is None else given_model),
        "finest": math.nan if finest is None else float(finest),
        "evaluations": len(result.samples),
    }


def held(result: lm.MorseAnalysis, minima: Minima, merged: bool) -> dict[str, int | list[float]]:
    """The attractors claimed, held against the minima there are.

    Args:
        result: The analysis.
        minima: All minima inside its box.
        merged: Whether minima within two cells count as one.
    """
    places = minima.places
    inside = np.array(
        [[in_set(result, a, place) for place in places] for a in result.attractors], dtype=bool
    ).reshape(result.n_attractors, len(places))
    apart = _CELLS_APART * result.grid.cell_widths
    group = groups_within(places, apart) if merged else np.arange(len(places))
    widths = [float(minima.widths[group == g].max()) for g in np.unique(group)]
    missed = not_told(inside, group, widths)
    return {
        "minima": len(widths),
        "each": len(places),
        "unfounded": int((~inside.any(axis=1)).sum()),
        "widths": [round(w, 4) for w in widths],
        "missed": [round(widths[g], 4) for g in missed],
    }


def not_told(inside: np.ndarray, group: np.ndarray, widths: Sequence[float]) -> list[int]:
    """Groups of minima that no attractor stands for.

    Each stands for one group, that with the widest well in it that no other one stands for; those
    with the fewest to choose from choose first.

    Args:
        inside: Whether each minimum lies in each attractor, shape ``(n_attractors, n_minima)``.
        group: Group of each minimum, shape ``(n_minima,)``.
        widths: Width of each group.
    """
    told: set[int] = set()
    for row in sorted(inside, key=lambda row: len(set(group[row]))):
        choices = set(group[row].tolist()) - told
        if choices:
            told.add(max(choices, key=lambda g: widths[g]))
    return [g for g in range(len(widths)) if g not in told]


def label_verdicts(
    truth: Landscape, result: lm.MorseAnalysis, most: int, rng: np.random.Generator
) -> dict[str, int]:
    """Follow the true flow from points with certain labels."""
    points = rng.uniform(-truth.half, truth.half, (_CANDIDATES, 2))
    points = points[result.basin_of(points) != UNDECIDED][:most]
    labels = result.basin_of(points)
    go = partial(follow, truth.gradient, lower=-truth.half, upper=truth.half)
    go = partial(go, unit=partial(_units, truth, result))
    orbits = go(points, most_steps=_MOST_STEPS)
    ends, fates = orbits.ends, orbits.fates
    disputed = np.flatnonzero(wrong_labels(result, labels, ends, fates))
    if truth.kinked and len(disputed):
        step = _CIRCLE * truth.finest * float(truth.half.min())
        ends[disputed] = rest_points(truth.values, points[disputed], step, truth.half)
        out = (np.abs(ends[disputed]) > truth.half).any(axis=1)
        fates[disputed] = np.where(out, LEFT, SETTLED)
    for i in () if truth.kinked else disputed:
        ends[i], fates[i] = end_of_flow(truth.gradient, points[i], truth.half)
    return {
        "followed": len(points),
        "false_labels": int(wrong_labels(result, labels, ends, fates).sum()),
        "unfinished": int((fates == UNFINISHED).sum()),
    }


def _units(truth: Landscape, result: lm.MorseAnalysis, points: np.ndarray) -> np.ndarray:
    return np.minimum(finest_cells(result, points), _UNIT * truth.finest * truth.half)


def end_of_flow(
    gradient: Callable[[np.ndarray], np.ndarray], start: np.ndarray, half: np.ndarray
) -> tuple[np.ndarray, str]:
    """Where the flow from a point ends and its fate, by an integrator with variable order."""
    first = float(np.linalg.norm(gradient(start[None])[0])) or 1.0
    calls = 0

    def velocity(_: float, x: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > _MOST_GRADIENTS:
            raise TimeoutError
        return -gradient(x[None])[0]

    def leaves(_: float, x: np.ndarray) -> float:
        return float((half - np.abs(x)).min())

    def rests(_: float, x: np.ndarray) -> float:
        return float(np.linalg.norm(gradient(x[None])[0])) / first - _STILL

    leaves.terminal = rests.terminal = True  # type: ignore[attr-defined]
    tolerances = {"rtol": _RTOL, "atol": _RTOL * half}
    try:
        path = solve_ivp(
            velocity, (0, _LONGEST), start, method="LSODA", events=[leaves, rests], **tolerances
        )
    except TimeoutError:
        return start, UNFINISHED
    fate = UNFINISHED
    if path.t_events is not None and path.status == 1:
        fate = LEFT if len(path.t_events[0]) else SETTLED
    return path.y[:, -1], fate


# ------------------------------------------------------------------------ rows


def read(path: Path) -> list[Row]:
    """The rows of a file, none if there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        found = json.loads(line)
        rows.append(Row(**{**found, "task": Task(**found["task"])}))
    return rows


def append(path: Path, row: Row) -> None:
    """Add a row to a file."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def made(tasks: Sequence[Task], n_labels: int, jobs: int) -> Iterator[Row]:
    """A row for each task, in the order in which they are done."""
    if jobs == 1:
        yield from (judge(task, n_labels) for task in tasks)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # What is known of a function is kept in the process that found it.
        together = len({task.samples for task in tasks})
        yield from pool.map(partial(judge, n_labels=n_labels), tasks, chunksize=max(together, 1))


# ----------------------------------------------------------------------- table


def interval(hits: int, trials: int) -> tuple[float, float]:
    """Exact (Clopper-Pearson) 95 % interval for the probability behind a number of hits."""
    low = float(beta.ppf(0.025, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def share(hits: int, trials: int) -> str:
    """A share with its interval, in words."""
    if not trials:
        return "none"
    low, high = interval(hits, trials)
    return f"{hits} of {trials}: {hits / trials:.2%} ({low:.2%} to {high:.2%})"


Part = tuple[str, list[tuple[Row, bool]]]


def parts(rows: Sequence[Row]) -> Iterator[Part]:
    """Named parts of the rows; each row with whether its claim is false as the part has it."""
    for population, name in POPULATIONS.items():
        own = [row for row in rows if row.task.population == population]
        if not own:
            continue
        title = f"({population}) {name}"
        yield title, [(row, row.is_false) for row in own]
        wide = [(row, row.is_false) for row in own if row.has_wide_wells_only]
        yield f"{title}, no well narrower than finest", wide
        seen = [(row, row.is_false_of_wide) for row in own if not math.isnan(row.finest)]
        yield f"{title}, attractors wider than finest", seen


def table(rows: Sequence[Row], bound: str = "mu") -> str:
    """For each part and threshold, claims and false ones, in Markdown.

    Args:
        rows: The rows.
        bound: What the claims are chosen by, ``"mu"`` or ``"mu_model"``.
    """
    lines = [
        f"| claims | {bound} at least | false (exact 95 %) | at most 1 - m |",
        "|---" * 4 + "|",
    ]
    for name, judged in parts(rows):
        told = [(row, false) for row, false in judged if row.claim != NONE]
        if not told:
            lines.append(f"| {name} | | none | |")
        for m in THRESHOLDS if told else ():
            verdicts = [false for row, false in told if getattr(row, bound) >= m]
            hits, trials = sum(verdicts), len(verdicts)
            keeps = not trials or interval(hits, trials)[0] <= 1 - m
            lines.append(
                f"| {name} | {m} | {share(hits, trials)} | {'yes' if keeps else '**no**'} |"
            )
    return "\n".join(lines)


HEADS = (
    *("functions", "exactly", "at least", "none", "refused", "exactly, mu >= 0.95"),
    *("false claims", "their 1 - mu_model: median", "their 1 - mu: median", "evaluations: median"),
    *("false labels / followed", "unfinished", "functions with one"),
)


def summary(rows: Sequence[Row]) -> str:
    """One line for each population and number of samples, in Markdown."""
    heads = ("population", "samples", *HEADS)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for population, samples in sorted({(r.task.population, r.task.samples) for r in rows}):
        own = [r for r in rows if (r.task.population, r.task.samples) == (population, samples)]
        exact = [row for row in own if row.claim == EXACTLY]
        false = [row for row in own if row.is_false]
        cells = [
            f"({population}) {POPULATIONS[population]}",
            samples,
            len(own),
            len(exact),
            sum(row.claim == AT_LEAST for row in own),
            sum(row.claim == NONE for row in own),
            sum(bool(row.refused) for row in own),
            share(sum(row.mu >= CONFIDENCE for row in exact), len(own)),
            len(false),
            _median([1 - row.mu_model for row in false]),
            _median([1 - row.mu for row in false]),
            _median([row.evaluations for row in own if row.evaluations]),
            f"{sum(r.false_labels for r in own)} / {sum(r.followed for r in own)}",
            sum(row.unfinished for row in own),
            share(sum(row.false_labels > 0 for row in own), len(own)),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g}" if values else ""


def report(rows: Sequence[Row]) -> str:
    """All tables."""
    text = [summary(rows), table(rows)]
    if any(row.mu != row.mu_model for row in rows):
        text.append(table(rows, "mu_model"))
    differ = sum(row.is_false != row.is_false_of_each for row in rows)
    ended = sum(row.followed - row.unfinished for row in rows)
    text.append(
        f"False labels: {share(sum(row.false_labels for row in rows), ended)}. "
        f"Verdicts that hang on whether minima within two cells are one: {differ} of {len(rows)}."
    )
    return "\n\n".join(text)


# --------------------------------------------------------------------- diagram

# Ends of the classes by claimed failure; the first also holds what is below.
_CLASSES = (1e-7, 1e-5, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LEAST = 1e-8


def classes(judged: Sequence[tuple[Row, bool]], bound: str) -> list[tuple[float, int, int]]:
    """Mean claimed failure, false claims and claims of each class that has any."""
    told = [(1 - getattr(row, bound), false) for row, false in judged if row.claim != NONE]
    found = []
    for low, high in zip((-1.0, *_CLASSES), _CLASSES, strict=False):
        own = [(failure, false) for failure, false in told if low < failure <= high]
        if own:
            mean = statistics.fmean(failure for failure, _ in own)
            found.append((mean, sum(false for _, false in own), len(own)))
    return found


def diagram(rows: Sequence[Row], path: Path) -> None:
    """Draw the share of false claims against what they claim, one panel a population."""
    from matplotlib.figure import Figure

    everything = dict(parts(rows))
    shown = [(name, judged) for name, judged in everything.items() if "finest" not in name]
    figure = Figure(figsize=(4.2 * len(shown), 4.0), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for panel, (name, judged) in zip(panels, shown, strict=True):
        line = np.geomspace(_LEAST, 1, 50)
        panel.plot(line, line, color="0.6", linewidth=1, label="as claimed")
        wide = everything[f"{name}, attractors wider than finest"]
        _add_classes(panel, judged, "mu_model", "mu_model, all minima", "tab:orange", "s")
        _add_classes(panel, judged, "mu", "mu, all minima", "tab:blue", "o")
        _add_classes(panel, wide, "mu", "mu, wider than finest, as claimed", "tab:green", "D", 1.25)
        panel.set(title=name, xlabel="claimed probability of failure", xscale="log")
        panel.set_yscale("symlog", linthresh=0.01)
        panel.set_ylim(-0.001, 1.1)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    panels[0].set_ylabel("share of false claims, exact 95 % intervals")
    figure.savefig(path, dpi=110)


def _add_classes(
    panel: Axes,
    judged: Sequence[tuple[Row, bool]],
    bound: str,
    name: str,
    color: str,
    shape: str,
    aside: float = 1.0,
) -> None:
    """Add the classes of some claims, moved aside by a factor."""
    for number, (failure, hits, trials) in enumerate(classes(judged, bound)):
        low, high = interval(hits, trials)
        rate = hits / trials
        panel.errorbar(
            aside * max(failure, _LEAST),
            rate,
            [[rate - low], [high - rate]],
            fmt=shape,
            color=color,
            capsize=3,
            alpha=0.8,
            label=None if number else name,
        )


# ------------------------------------------------------------------------ main


def tasks_of(args: argparse.Namespace) -> list[Task]:
    """What is asked for."""
    return [
        Task(population, number, samples, args.resolution, args.seed)
        for population in args.population
        for number in range(args.slices if population == "c" else args.n)
        for samples in args.samples
    ]


def told(row: Row) -> str:
    """One line about a row."""
    task, how = row.task, row.refused or f"{row.claim} {row.claimed}, mu {row.mu:.6f}"
    verdict = "FALSE" if row.is_false else ""
    labels = f"labels {row.false_labels}/{row.followed} false, {row.unfinished} unfinished"
    return (
        f"{task.population} {task.number:3d} {task.samples}: {how}; {row.minima} minima; {labels}; "
        f"{row.evaluations} evaluations; seconds {row.seconds} {verdict}"
    )


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Make the rows asked for that are not there yet, and print the tables of all asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--population", nargs="+", choices=POPULATIONS, default=["a", "b", "d"])
    parser.add_argument("--n", type=int, default=60, help="functions of (a), (b) and (d) each")
    parser.add_argument("--slices", type=int, default=12, help="slices of networks (expensive)")
    parser.add_argument("--samples", type=int, nargs="+", default=[128], help="most evaluations")
    parser.add_argument("--resolution", type=int, default=128, help="cells on each axis")
    parser.add_argument("--labels", type=int, default=64, help="labels to follow, a function")
    parser.add_argument("--seed", type=int, default=0, help="of the populations")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--rows", type=Path, help="file of JSON lines to go on with")
    parser.add_argument("--table", action="store_true", help="make no rows, only tables")
    parser.add_argument("--diagram", type=Path, help="picture to draw")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = {row.task: row for row in (read(args.rows) if args.rows else [])}
    wanted = tasks_of(args)
    if args.table:
        wanted = list(rows)
    for row in made([task for task in wanted if task not in rows], args.labels, args.jobs):
        rows[row.task] = row
        print(told(row), flush=True)
        if args.rows:
            append(args.rows, row)
    asked = [rows[task] for task in wanted]
    print(report(asked))
    if args.diagram:
        diagram(asked, args.diagram)
    return asked


if __name__ == "__main__":
    main()
