"""The view of analyses in a browser, the same in reports and in the TensorBoard tab.

``front_end/`` holds its ES modules and its style sheet, ``front_end/vendor/`` the code of others.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def asset_names() -> tuple[str, ...]:
    """Return the paths of the scripts and style sheets in ``front_end/``."""
    root = files(__name__).joinpath("front_end")
    found = [("", root), ("vendor/", root.joinpath("vendor"))]
    names = [f"{folder}{file.name}" for folder, where in found for file in where.iterdir()]
    return tuple(sorted(name for name in names if name.endswith((".js", ".css"))))


def asset(name: str) -> str:
    """Return the text of a file of the front end.

    Args:
        name: One of :func:`asset_names`; no other path is followed.

    Raises:
        ValueError: If there is no such file.
    """
    if name not in asset_names():
        raise ValueError(f"expected a file of the front end, such as main.js, got {name!r}")
    return files(__name__).joinpath("front_end", name).read_text(encoding="utf-8")
