"""The front end: ``view.js`` and ``view.css``, the same in reports and in TensorBoard."""

from __future__ import annotations

from importlib.resources import files


def asset(name: str) -> str:
    """Return the text of ``view.js`` or ``view.css``.

    Raises:
        ValueError: If there is no such asset.
    """
    if name not in ("view.js", "view.css"):
        raise ValueError(f"the assets are view.js and view.css, got {name!r}")
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
