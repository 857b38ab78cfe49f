"""The figures of a monitor.

Imports neither torch nor Lightning, so that a process that only draws starts quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from lightning_morse.plotting.basins import plot_basins
from lightning_morse.plotting.merge_diagram import plot_merge_diagram
from lightning_morse.plotting.morse_graph import plot_morse_graph
from lightning_morse.plotting.timeline import plot_timeline
from lightning_morse.result import MorseAnalysis
from lightning_morse.words import short_of_one

if TYPE_CHECKING:
    from lightning_morse.monitoring.findings import View

KINDS = ("basins", "graph", "merge", "timeline")


def kinds_of(history: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the figures of an analysis, that which says most first."""
    return KINDS if len(history) > 1 else KINDS[:-1]


def drawn(
    result: MorseAnalysis, view: View, history: Sequence[Mapping[str, Any]], *, after: int = 0
) -> Iterator[tuple[str, Figure]]:
    """Draw an analysis and the run up to it, one figure after the other.

    Args:
        result: The analysis.
        view: Training in its slice.
        history: Rows of all analyses, and of those that were left out.
        after: How many of the figures are there already.

    Yields:
        Name and figure, in the order of :func:`kinds_of`.
    """
    plots = {
        "basins": lambda: plot_basins(
            result,
            trajectory=view.trajectory,
            current=view.current,
            axis_labels=view.axis_labels,
            title=view.title,
            identities=view.identities,
            verdict=view.verdict,
        ),
        "graph": lambda: plot_morse_graph(result, view.identities),
        "merge": lambda: plot_merge_diagram(result, view.identities),
        "timeline": lambda: plot_timeline(history),
    }
    for kind in kinds_of(history)[after:]:
        yield kind, plots[kind]()


def painted(
    result: MorseAnalysis, view: View, history: Sequence[Mapping[str, Any]], *, after: int = 0
) -> Iterator[tuple[str, bytes]]:
    """The figures of :func:`drawn`, each as a PNG file; arguments as there."""
    for kind, figure in drawn(result, view, history, after=after):
        png = BytesIO()
        figure.savefig(png, format="png")
        yield kind, png.getvalue()


def succeeded(name: str, history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of a monitor's history whose analysis did not fail."""
    return [row for row in history if not row[f"{name}/failed"]]


def summary_of(result: MorseAnalysis, verdict: str, seconds: float) -> str:
    """An analysis in one line; bounds are rounded down."""
    bound = f", mu {short_of_one(result.mu)}" if result.mu else ""
    return f"{verdict} ({result.claim_in_full}{bound}; {seconds:.1f} s)"
