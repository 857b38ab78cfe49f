"""The package as users install it: a wheel lacks what the checkout has only by accident."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lightning_morse"
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


def run(*command, cwd):
    """Standard output of a command that sees nothing of the checkout."""
    hidden = {"PYTHONPATH", "PYTHONHOME"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(folder):
    """A wheel built from a copy of the sources, without what earlier builds left behind."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / PACKAGE, source / PACKAGE, ignore=ignored)
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source]
    if importlib.util.find_spec("setuptools"):
        pip.append("--no-build-isolation")
    run(*pip, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Python of an environment with the installed wheel, and with the packages of this one.

    Only the package's own dependencies are shared: the path of an editable install is in a file
    that Python reads in its own ``site-packages`` alone.
    """
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build(folder)
    home = folder / "env"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run(*pip, wheel, cwd=folder)
    shown = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(run(python, "-I", "-c", shown, cwd=folder).strip())
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "shared.pth").write_text("\n".join(sorted(shared)) + "\n")
    return python


def installed_folder(python):
    code = f"import {PACKAGE}; print({PACKAGE}.__path__[0])"
    return Path(run(python, "-I", "-c", code, cwd=python.parent).splitlines()[-1])


def files_of(package):
    found = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def test_it_has_every_file_of_the_checkout(python):
    installed = installed_folder(python)
    assert python.parents[1] in installed.parents
    assert files_of(installed) == files_of(ROOT / PACKAGE)


def test_every_module_is_imported_from_it(python):
    code = f"""
import importlib, pkgutil, sys
import {PACKAGE} as package
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
assert all(sys.modules[name].__file__.startswith(package.__path__[0]) for name in names)
print(len(names))
"""
    count = int(run(python, "-I", "-c", code, cwd=python.parent).splitlines()[-1])
    assert count > 80


def test_its_command_analyses(python, tmp_path):
    (tmp_path / "losses.py").write_text("def wells(x):\n    return ((x**2 - 1) ** 2).sum(1)\n")
    command = [python.parent / "lightning-morse", "analyze", "--callable", "losses:wells"]
    box = ["--lower", "-2", "--upper", "2", "--samples", "32", "--resolution", "32"]
    told = run(*command, *box, "-o", "found.npz", cwd=tmp_path)
    assert re.search(r"exactly 2", told), told
    assert (tmp_path / "found.npz").is_file()


def test_its_tab_serves_the_front_end(python, tmp_path):
    """TensorBoard finds the plugin by its entry point; the browser then follows the imports."""
    code = """
import json, posixpath, re
from importlib.metadata import entry_points
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client

(entry,) = {e for e in entry_points(group="tensorboard_plugins") if e.name == "morse"}
plugin = entry.load()().load(TBContext())
serve = plugin.get_plugin_apps()["/static/*"]
wanted, served = [plugin.frontend_metadata().es_module_path], {}
while wanted:
    path = wanted.pop()
    if path not in served:
        answer = Client(serve).get(path)
        served[path] = answer.status_code
        folder = posixpath.dirname(path)
        for name in re.findall(r'["\\'](\\.\\.?/[^"\\']+\\.(?:js|css))["\\']', answer.text):
            wanted.append(posixpath.normpath(posixpath.join(folder, name)))
        wanted.extend("/" + name for name in re.findall(r'"(static/[^"]+)"', answer.text))
print(json.dumps(served))
"""
    served = json.loads(run(python, "-I", "-c", code, cwd=tmp_path).splitlines()[-1])
    assert set(served.values()) == {200}, served
    assert len(served) >= 2
