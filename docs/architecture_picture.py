"""Draw how data flows through the rooms: ``make figures``.

The picture names rooms of the package; a test holds the names against the import contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

TARGET = Path(__file__).parent / "images" / "architecture.png"

INK, QUIET = "#1f2a37", "#667085"
# Fill colours by what a room is about.
LIGHTNING, WEIGHTS, NUMERICS, SHOWING, BASE = "#dbeafe", "#e0f2e9", "#fff4d6", "#f3e8ff", "#eef0f3"
WIDTH, HEIGHT = 14.0, 8.6


@dataclass(frozen=True)
class Room:
    """A box: its centre, its size, and one line on what happens there."""

    x: float
    y: float
    text: str
    colour: str
    width: float = 1.9
    height: float = 0.95


# Coordinates are inches from the lower left corner.
ROOMS = {
    "callbacks": Room(4.9, 7.45, "Lightning hooks:\nwhen to look", LIGHTNING, 2.0),
    "monitoring": Room(1.45, 7.45, "directions, box,\nprobe batches, budget", LIGHTNING, 2.1),
    "slices": Room(1.45, 5.1, "loss on the slice\n$\\theta_c + D\\,x$", WEIGHTS, 2.1),
    "distributed": Room(1.3, 3.3, "the same with\nsharded weights", WEIGHTS, 1.8),
    "gp": Room(4.9, 5.1, "surrogate: a fitted\nGaussian process", NUMERICS, 2.0),
    "bands": Room(8.3, 5.1, "simultaneous band\naround its mean", NUMERICS, 2.0),
    "enclosure": Room(8.3, 3.45, "every gradient flow\nwithin the band", NUMERICS, 2.0),
    "conley": Room(4.9, 3.45, "combinatorial map,\nMorse sets, basins", NUMERICS, 2.0),
    "trajectories": Room(1.45, 1.5, "pairs of states of\nrecorded runs", WEIGHTS, 2.1),
    "deep_linear": Room(7.0, 1.3, "landscapes known in\nclosed form", WEIGHTS, 2.1),
    "result": Room(11.9, 3.45, "MorseAnalysis:\nthe record and its file", SHOWING, 2.3),
    "plotting": Room(11.1, 5.1, "figures", SHOWING, 1.35, 0.8),
    "view": Room(12.75, 5.1, "view record,\nfront end", SHOWING, 1.4),
    "tensorboard_plugin": Room(12.45, 6.6, "the tab Morse", SHOWING, 2.1, 0.8),
    "cli": Room(11.9, 1.3, "report, show,\ncompare, analyze", SHOWING, 2.3),
}


@dataclass(frozen=True)
class Flow:
    """An arrow from a point to a point, and the data that goes along it."""

    start: tuple[float, float]
    end: tuple[float, float]
    label: str = ""
    at: tuple[float, float] = (0.0, 0.0)
    path: str = "arc3"
    dashed: bool = False


# Arrows that go round corners, in the words of matplotlib's connection styles.
INTO_GP = "arc,angleA=0,angleB=180,armA=135,armB=14,rad=10"
BELOW = "arc,angleA=-90,angleB=-90,armA=38,armB=38,rad=15"
CORNER = "angle,angleA=90,angleB=0,rad=15"

FLOWS = (
    Flow((3.9, 7.45), (2.52, 7.45), "weights,\nbatches", (3.21, 7.78)),
    Flow((1.45, 6.97), (1.45, 5.6), "subspace,\nprobe set", (2.0, 6.3)),
    Flow((1.3, 3.8), (1.3, 4.6)),
    Flow((2.52, 5.1), (3.88, 5.1), "samples\n$(x_i, \\ell_i)$", (3.1, 5.42)),
    Flow((5.92, 5.1), (7.28, 5.1), "posterior of\nthe gradient", (6.6, 5.42)),
    Flow((8.3, 4.6), (8.3, 3.95), "$|\\partial_i \\ell - m_i| \\leq B_i$", (9.1, 4.28)),
    Flow((7.28, 3.45), (5.92, 3.45), "an image box\nper cell", (6.6, 3.12)),
    Flow((3.88, 3.75), (2.52, 4.75), "more samples\nwhere undecided", (2.98, 3.72)),
    Flow((2.52, 1.5), (3.88, 4.8), "displacements", (3.15, 1.68), INTO_GP, True),
    Flow((7.4, 4.6), (5.6, 3.95), "boxes of the map", (6.0, 4.4), "arc3", True),
    Flow((4.9, 2.95), (11.9, 2.95), "Morse graph, basins, $\\mu$", (7.3, 2.72), BELOW),
    Flow((11.5, 3.95), (11.2, 4.68)),
    Flow((12.35, 3.95), (12.65, 4.6)),
    Flow((12.6, 5.6), (12.5, 6.18)),
    Flow((12.4, 2.95), (12.4, 1.8)),
    Flow((11.1, 5.52), (5.92, 7.45), "scalars, figures, records for loggers", (8.5, 7.62), CORNER),
    Flow((7.0, 1.8), (7.0, 2.18), "the truth in tests", (7.85, 1.98), "arc3", True),
)


def foundation() -> list[str]:
    """The rooms without a box: those at the foot of the import contract."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c["type"] == "layers")
    rooms = [room for row in layers for room in row.split(" | ")]
    return [room for room in rooms if room not in ROOMS and room != "analysis"]


def _draw_room(ax, name: str, room: Room) -> None:
    left, bottom = room.x - room.width / 2, room.y - room.height / 2
    ax.add_patch(
        FancyBboxPatch(
            (left, bottom),
            room.width,
            room.height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=room.colour,
            edgecolor=INK,
            linewidth=1.0,
        )
    )
    lines = room.text.count("\n") + 1
    ax.text(
        room.x,
        room.y + 0.1 * lines + 0.02,
        name,
        ha="center",
        va="center",
        weight="bold",
        color=INK,
        size=10.5,
    )
    ax.text(
        room.x,
        room.y - 0.15,
        room.text,
        ha="center",
        va="center",
        color=INK,
        size=8.5,
        linespacing=1.15,
    )


def _draw_flow(ax, flow: Flow) -> None:
    ax.add_patch(
        FancyArrowPatch(
            flow.start,
            flow.end,
            arrowstyle="-|>",
            mutation_scale=13,
            color=QUIET if flow.dashed else INK,
            linewidth=1.3,
            linestyle=(0, (4, 2.5)) if flow.dashed else "solid",
            connectionstyle=flow.path,
            shrinkA=0,
            shrinkB=0,
        )
    )
    if flow.label:
        ax.text(*flow.at, flow.label, ha="center", va="center", color=QUIET, size=8.5)


def _frame(ax, left: float, bottom: float, width: float, height: float, title: str) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.2",
            facecolor="#fffdf7",
            edgecolor="#c9a227",
            linewidth=1.2,
            linestyle=(0, (6, 3)),
            zorder=0,
        )
    )
    ax.text(left + 0.2, bottom + height - 0.22, title, color="#8a6d00", size=10, va="center")


def draw() -> Figure:
    """Return the picture."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    ax.axis("off")
    _frame(ax, 3.6, 2.2, 6.4, 4.0, "analysis: the loop, then what is certain")
    for flow in FLOWS:
        _draw_flow(ax, flow)
    for name, room in ROOMS.items():
        _draw_room(ax, name, room)
    base = Room(7.0, 0.4, "", BASE, 13.0, 0.46)
    _draw_room(ax, "", base)
    ax.text(
        7.0,
        0.4,
        f"not drawn:  {'   '.join(foundation())}",
        ha="center",
        va="center",
        color=INK,
        size=10,
    )
    ax.text(0.5, 8.25, "How data flows through lightning_morse", size=15, weight="bold", color=INK)
    ax.text(
        13.5,
        8.25,
        "solid: the loss around a run    dashed: a map learned from runs, and a known truth",
        size=9,
        color=QUIET,
        ha="right",
    )
    return figure


def main() -> None:
    """Write the picture; the bytes depend on the version of matplotlib only."""
    draw().savefig(TARGET, metadata={"Software": None})


if __name__ == "__main__":
    main()
