"""The package as a whole: what it imports, in which order, and its public names."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_morse as lm

PACKAGE = Path(lm.__file__).parent


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
    text = (PACKAGE.parent / "docs" / "api.rst").read_text()
    named = set(re.findall(r"lightning_morse\.(\w+)$", text, re.M))
    assert set(lm.__all__) <= named
