"""Links between the pages lead somewhere, on a code host as in the built documentation."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)


def anchors(page):
    """What code hosts make of the headings: lower case, no punctuation, hyphens for spaces."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in headings}


def links(page):
    """Addresses in this repository to which the page has links."""
    found = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    return [address for address in found if not re.match(r"[a-z]+:", address)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_they_lead_somewhere(page):
    for address in links(page):
        name, _, anchor = address.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), address
        assert not anchor or anchor in anchors(target), address


def test_there_are_some():
    counts = {page.name: len(links(page)) for page in PAGES}
    assert counts["README.md"] > 20
    assert sum(counts.values()) > 100


def test_the_index_lists_every_page():
    listed = re.search(r"```\{toctree\}(.*?)```", (ROOT / "docs/index.md").read_text(), re.S)
    names = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert names <= set(listed[1].split())
