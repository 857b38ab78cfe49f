"""One script from ES modules: a report holds its script and loads none."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

_IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.\.?/[\w./-]+)";$', re.MULTILINE)
_DECLARATION = re.compile(r"^export ((?:async function|function|class|const) (\w+))", re.MULTILINE)
_EXPORT_LIST = re.compile(r"^export \{([^}]*)\};$", re.MULTILINE)
_LEFT_OVER = re.compile(r"^\s*(?:import|export)\b.*|^.*\bimport\s*[(.].*", re.MULTILINE)


def bundle(entry: str, read: Callable[[str], str]) -> str:
    """Join an ES module and all modules it imports into one script.

    Each module becomes the body of a function that returns its exports, so equal names in two
    modules do not collide. Understood are imports and exports by name, at the start of a line::

        import { a, b as c } from "./other.js";
        export function f() {}
        export { a, b as c };

    Args:
        entry: Path of the module to start from.
        read: Returns the text of a module, given its path in the same folder tree as ``entry``.

    Returns:
        The script; each module comes after those it imports.

    Raises:
        ValueError: If modules import each other in a cycle, a module imports a name that the other
            does not export, or a module uses another form of import or export.
    """
    exports: dict[str, dict[str, str]] = {}
    functions: list[str] = []

    def visit(path: str, importers: tuple[str, ...]) -> None:
        if path in importers:
            cycle = " -> ".join([*importers[importers.index(path) :], path])
            raise ValueError(f"modules must not import each other in a cycle: {cycle}")
        if path in exports:
            return
        text = read(path)
        for names, other in _imports(path, text):
            visit(other, (*importers, path))
            unknown = sorted(set(names) - set(exports[other]))
            if unknown:
                raise ValueError(f"{path} imports {', '.join(unknown)}, not exported by {other}")
        exports[path] = _exports(text)
        functions.append(_as_function(path, text, exports[path]))

    visit(entry, ())
    return "const modules = {};\n" + "".join(functions)


def _imports(path: str, text: str) -> list[tuple[dict[str, str], str]]:
    """Names taken from each module a module imports, with their local names."""
    folder = posixpath.dirname(path)
    return [
        (_renamed(match[1]), posixpath.normpath(posixpath.join(folder, match[2])))
        for match in _IMPORT.finditer(text)
    ]


def _exports(text: str) -> dict[str, str]:
    """Local name of each name a module exports."""
    declared = {match[2]: match[2] for match in _DECLARATION.finditer(text)}
    for match in _EXPORT_LIST.finditer(text):
        declared.update((new, old) for old, new in _renamed(match[1]).items())
    return declared


def _renamed(names: str) -> dict[str, str]:
    """Old and new name of each part of ``a, b as c``."""
    pairs = [part.split(" as ") for part in names.split(",") if part.strip()]
    return {pair[0].strip(): pair[-1].strip() for pair in pairs}


def _as_function(path: str, text: str, exports: dict[str, str]) -> str:
    taken = "".join(
        f"const {_pattern(names)} = modules[{other!r}];\n" for names, other in _imports(path, text)
    )
    body = _IMPORT.sub("", _EXPORT_LIST.sub("", _DECLARATION.sub(r"\1", text)))
    left_over = _LEFT_OVER.search(body)
    if left_over:
        raise ValueError(
            f"{path}: expected imports and exports by name, such as "
            f'import {{ a }} from "./b.js"; got {left_over[0].strip()}'
        )
    given = _pattern(exports)
    return f"modules[{path!r}] = (() => {{\n{taken}{body}\nreturn {given};\n}})();\n"


def _pattern(names: dict[str, str]) -> str:
    parts = [key if key == value else f"{key}: {value}" for key, value in names.items()]
    return f"{{ {', '.join(parts)} }}"
