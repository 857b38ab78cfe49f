"""The package as a whole: its imports, dependencies, version, pages and public names."""

import ast
import importlib.util
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import lightning_morse as lm

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PACKAGE = Path(lm.__file__).parent
ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Where the name of a package on an index is not that of its module.
MODULE_OF = {"pyyaml": "yaml"}
# Used where it is installed already, never needed: the other name of Lightning.
OPTIONAL = {"lightning"}


@pytest.mark.slow
def test_numerics_load_and_run_without_lightning():
    code = """
import sys
for name in ("lightning", "pytorch_lightning", "tensorboard", "lightning_fabric"):
    sys.modules[name] = None  # any import of it fails
import lightning_morse as lm
result = lm.analyze(lambda x: (x**2).sum(1), [-1], [1], n_samples=32, resolution=16)
lm.plot_basins(result), lm.plot_morse_graph(result), lm.plot_merge_diagram(result)
assert result.n_attractors == 1
lm.LossSlice, lm.AffineSubspace, lm.MorseAnalysis.load
assert lm.deep_linear.widths([[[1.0]]]) == (1, 1)
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_no_public_name_is_that_of_a_module():
    """Importing a module would put it in the place of the name."""
    assert not set(lm.__all__) & {m.name for m in pkgutil.iter_modules(lm.__path__)}


def test_public_names():
    assert set(lm.__all__) <= set(dir(lm))
    for name in lm.__all__:
        assert getattr(lm, name).__module__.startswith("lightning_morse.")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lm.nonsense  # noqa: B018


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "api.rst").read_text()
    named = set(re.findall(r"lightning_morse\.(\w+)$", text, re.M))
    assert set(lm.__all__) <= named


def declared():
    """The dependencies of the package itself, by name."""
    return {r.name: r for r in map(Requirement, PROJECT["project"]["dependencies"])}


def pinned(name):
    """The versions in a file of constraints."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def modules_imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def test_dependencies_are_what_is_imported():
    found = {
        name.split(".")[0] for path in PACKAGE.rglob("*.py") for name in modules_imported(path)
    }
    third_party = found - sys.stdlib_module_names - {"lightning_morse"} - OPTIONAL
    assert third_party == {MODULE_OF.get(name, name.replace("-", "_")) for name in declared()}


def test_dependencies_have_lower_bounds_only():
    """An upper bound, or a pin, could move what a user has installed, torch above all."""
    for requirement in declared().values():
        assert [clause.operator for clause in requirement.specifier] == [">="], requirement


def test_oldest_versions_are_the_lower_bounds():
    listed = (
        PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["test"]
    )
    lowest = {r.name: next(iter(r.specifier)).version for r in map(Requirement, listed)}
    oldest = pinned("constraints-oldest.txt")
    assert {name: Version(v) for name, v in lowest.items() if name != "torch"} == {
        name: Version(v) for name, v in oldest.items() if name in lowest
    }


def test_one_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert cited == lm.__version__ == version("lightning-morse")
    assert f"## [{cited}]" in (ROOT / "CHANGELOG.md").read_text()


def contract(kind):
    (found,) = (c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == kind)
    return found


def levels():
    """The level of each room, from the top down."""
    rows = contract("layers")["layers"]
    return {room: k for k, row in enumerate(rows, 1) for room in re.split(r"\s*[|:]\s*", row)}


def rooms_of_the_page():
    """Level, whether it keeps clear of Lightning, and place of the tests, of each room."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    row = re.compile(r"^\| (\d+) \| `(\w+)` \|[^|]+\| (no)? ?\| (?:`(\S+)` )?\|$", re.M)
    return {
        room: (int(level), mark == "no", tests) for level, room, mark, tests in row.findall(text)
    }


def test_the_page_on_architecture_follows_the_contract():
    page = rooms_of_the_page()
    assert {room: level for room, (level, _, _) in page.items()} == levels()
    without = {
        name.removeprefix("lightning_morse.") for name in contract("forbidden")["source_modules"]
    }
    assert {room for room, (_, is_without, _) in page.items() if is_without} == without
    for _, _, tests in page.values():
        assert not tests or (ROOT / tests).exists(), tests


def test_the_picture_names_rooms_of_the_contract():
    path = ROOT / "docs" / "architecture_picture.py"
    spec = importlib.util.spec_from_file_location("architecture_picture", path)
    picture = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = picture
    spec.loader.exec_module(picture)
    assert {*picture.ROOMS, *picture.foundation(), "analysis"} == set(levels())
    picture.draw()


def test_the_map_of_contributing_leads_somewhere():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = re.findall(r"^\|[^|]+\|([^|]+)\|([^|]+)\|$", text, re.M)[2:]
    assert len(table) > 20
    for where, against in table:
        for name in re.findall(r"`([\w/.-]+(?:/|\.\w+))`", where):
            assert (PACKAGE / name).exists() or (ROOT / name).exists(), name
        for name in re.findall(r"`((?:tests|benchmarks)/[\w/.]+)`", against):
            assert (ROOT / name).exists(), name
