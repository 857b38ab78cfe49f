"""Hyper-parameters that Lightning wrote beside a run, read with limits on size and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_morse.files.regular import open_regular

# A file of this size takes about a second to read; those of real runs have some kB.
_MAX_BYTES = 2**18
_MAX_DEPTH = 32


def read_hparams(folder: Path) -> dict[str, Any]:
    """Hyper-parameters of a run; values that are not plain are left out.

    Args:
        folder: Its log directory.

    Returns:
        Values by name; none if the file is not there, is larger or deeper than any real one, or
        cannot be read.
    """
    import yaml

    try:
        with open_regular(folder / "hparams.yaml") as file:
            text = file.read(_MAX_BYTES + 1).decode()
        if len(text) > _MAX_BYTES or _depth(text) > _MAX_DEPTH:
            return {}
        raw = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    if not isinstance(raw, dict):
        return {}
    plain = (str, int, float, bool, type(None))
    return {str(k): v for k, v in raw.items() if isinstance(k, plain) and isinstance(v, plain)}


def _depth(text: str) -> int:
    """How deeply collections are nested, up to just beyond what is read."""
    import yaml

    depth = most = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        most = max(most, depth)
        if most > _MAX_DEPTH:
            break
    return most
