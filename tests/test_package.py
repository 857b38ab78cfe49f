"""The package as a whole: what it imports, in which order, and its public names."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_morse as lm

PACKAGE = Path(lm.__file__).parent

# From the ground up; a module may import only what stands before it.
LAYERS = [
    "subspace",
    "shadow",
    "loss_slice",
    "curvature",
    "grid",
    "adaptive_grid",
    "box_maps",
    "kernel",
    "surrogate",
    "critical_points",
    "calibration",
    "lattice",
    "simulation",
    "confidence",
    "trajectory_pairs",
    "value_band",
    "trajectory_map",
    "flow_bounds",
    "flight",
    "gradient_flow",
    "combinatorial_map",
    "adaptive_map",
    "condensation",
    "morse_sets",
    "recurrence",
    "retraction",
    "cubical_homology",
    "conley",
    "reach",
    "record",
    "basins",
    "refinement",
    "settling",
    "stopwatch",
    "phase_portrait",
    "description",
    "ladder",
    "map_ladder",
    "sampling",
    "analysis",
    "trajectory_analysis",
    "flow_check",
    "plotting",
    "merge_diagram",
    "timeline",
    "readings",
    "tracking",
    "trajectory_reading",
    "linear_network",
    "linear_conservation",
    "linear_spectrum",
    "linear_critical_points",
    "linear_dynamics",
    "linear_decay",
    "deep_linear",
    "network_measures",
    "linear_moments",
    "linear_stack",
    "linear_reading",
    "linear_plot",
    "view_record",
    "run_records",
    "view",
    "report",
    "trajectory",
    "training_time",
    "tensorboard_plugin",
    "run_files",
    "directions",
    "pilot",
    "box",
    "probe",
    "budget",
    "failures",
    "processes",
    "sharded",
    "log_sinks",
    "callback",
    "deep_linear_monitor",
    "weight_recorder",
    "cli",
]
FRAMEWORKS = {"lightning", "pytorch_lightning", "tensorboard"}


def source(name):
    path = PACKAGE / f"{name}.py"
    return path if path.exists() else PACKAGE / name / "__init__.py"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_its_layer():
    modules = {p.stem for p in PACKAGE.glob("*.py")}
    packages = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert modules | packages == {*LAYERS, "__init__"}


@pytest.mark.parametrize("name", LAYERS)
def test_modules_import_only_downwards(name):
    inner = {
        module.split(".")[1]
        for module in imported(source(name))
        if module.startswith("lightning_morse.")
    }
    below = set(LAYERS[: LAYERS.index(name)])
    assert inner <= below, f"{name} imports {sorted(inner - below)}"


@pytest.mark.parametrize("name", LAYERS[: LAYERS.index("trajectory")])
def test_numerics_do_not_import_lightning(name):
    assert not {m.split(".")[0] for m in imported(source(name))} & FRAMEWORKS


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
    assert not set(lm.__all__) & set(LAYERS)


def test_public_names():
    assert set(lm.__all__) <= set(dir(lm))
    for name in lm.__all__:
        assert getattr(lm, name).__module__.startswith("lightning_morse.")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lm.nonsense  # noqa: B018


def test_the_reference_has_every_public_name():
    text = (PACKAGE.parent / "docs" / "api.rst").read_text()
    named = set(re.findall(r"lightning_morse\.(\w+)$", text, re.M))
    assert set(lm.__all__) <= named
