"""Write ``formats.md``, the page of the file formats, from the tables that readers check.

python docs/formats_page.py
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning_morse.files import archive
from lightning_morse.files.schema import Member, as_markdown
from lightning_morse.mode_connectivity import file as barriers
from lightning_morse.result import layout as analysis
from lightning_morse.trajectories import runs
from lightning_morse.view import layout as view
from lightning_morse.view import record

PAGE = Path(__file__).with_name("formats.md")
HEAD = """\
# File formats

This page is written by `docs/formats_page.py` from the tables by which files are checked when they
are read; a test holds it against them. What breaks a table or a relation is refused with a
`lightning_morse.DamagedFile` (a `ValueError`), which names the file, the member, what was expected
and what came. Members that are not listed are not opened. Sizes in *italics* have the same value
wherever they stand.
"""


def table(members: Iterable[Member]) -> list[str]:
    """A table of members."""
    head = ["| member | values | sizes | meaning |", "|---|---|---|---|"]
    return [*head, *as_markdown(members), ""]


def sizes(names: Mapping[str, str]) -> list[str]:
    """What the names of sizes mean."""
    return ["Sizes:", "", *(f"- *{name}*: {says}" for name, says in names.items()), ""]


def relations(sentences: Iterable[str]) -> list[str]:
    """What has to hold between members."""
    return ["Also checked:", "", *(f"- {sentence}" for sentence in sentences), ""]


def page() -> str:
    """The page."""
    box = [*analysis.RELATIONS, *analysis.BOX_RELATIONS]
    lines = [
        HEAD,
        "## Analyses",
        "",
        f"Format {archive.FORMAT_VERSION}, written by `MorseAnalysis.save`: a NumPy archive",
        "(`.npz`) without pickled objects. The member `facts` holds bytes of JSON:",
        "",
        *table(analysis.FACTS),
        "The other members are arrays:",
        "",
        *table(analysis.ARRAYS),
        "A box inside, number `k` from 1, has its own, under names that begin with `box<k>_`:",
        "",
        *table(analysis.BOX_ARRAYS),
        "Facts about the surrogate of a loss:",
        "",
        *table(analysis.LOSS_FACTS),
        "And of a map that was learnt from runs; besides `betti`, null or a list of integers for",
        "each Morse set:",
        "",
        *table(analysis.MAP_FACTS),
        *sizes(analysis.SIZES),
        *relations([*(r.says for r in box), *analysis.RELATIONS_OF_BOXES]),
        "## Recorded runs",
        "",
        f"Format {runs.RUN_FORMAT}, written by `WeightRecorder` and `Run.save`: a NumPy archive,",
        "not compressed. The member `facts` holds bytes of JSON:",
        "",
        *table(runs.FACTS),
        "The other members are arrays:",
        "",
        *table(runs.ARRAYS),
        *relations(r.says for r in runs.RELATIONS),
        "## Barriers between sets of weights",
        "",
        f"Format {barriers.CONNECTIVITY_FORMAT}, written by `Connectivity.save`: a NumPy archive.",
        "The member `facts` holds bytes of JSON:",
        "",
        *table(barriers.FACTS),
        "The other members are arrays:",
        "",
        *table(barriers.ARRAYS),
        *sizes(barriers.SIZES),
        *relations(r.says for r in barriers.RELATIONS),
        "## Records of views",
        "",
        f"Version {record.VERSION}, `step-<step>{record.SUFFIX}`: JSON, one line, at most",
        f"{record.MAX_BYTES // 2**20} MiB. Numbers are finite. TensorBoard's event files",
        "hold the same text.",
        "",
        *table([view.SUMMARY, *view.BOX, view.SETS, *view.REST, view.INNER]),
        "A box inside has the members from `shape` to `reach`.",
        "",
        *sizes(view.SIZES),
        *relations(view.RELATIONS),
    ]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
