"""Each term of the view is explained where it stands, in the words of the glossary."""

import re
from pathlib import Path

import pytest

from lightning_morse.view import asset
from lightning_morse.words import UNRESOLVED, kind_of_set

ROOT = Path(__file__).parent.parent.parent
PAIR = re.compile(r'^  "([^"]+)": ("[^"]*"(?:\s*\+ "[^"]*")*),$', re.M)


def tips():
    found = PAIR.findall(asset("terms.js"))
    return {name: "".join(re.findall(r'"([^"]*)"', text)) for name, text in found}


def plain_part_of_glossary():
    text = (ROOT / "docs/glossary.md").read_text()
    entries = re.findall(r"^\*\*(.+?)\.\*\*\s+(.*?)\s+\*", text, re.M | re.S)
    return {name.lower(): " ".join(said.split()) for name, said in entries}


def test_tips_are_the_first_lines_of_the_glossary():
    glossary = plain_part_of_glossary()
    for name, said in tips().items():
        assert glossary.get(name) == said, name


@pytest.mark.parametrize(
    "name",
    ["headroom", "explained", "calibration", "flow_length", "barrier", "mu", UNRESOLVED]
    + [kind_of_set(False, True, index, 2) for index in (1, 2)],
)
def test_what_users_asked_about_is_there(name):
    assert name in tips()


def test_kinds_have_the_same_names_in_both_languages():
    assert f'return "{UNRESOLVED}"' in asset("words.js")
