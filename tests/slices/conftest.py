import pytest

from lightning_morse.slices import columns


@pytest.fixture(params=[7, 1 << 16], ids=["many blocks", "one block"])
def block(request, monkeypatch):
    """Results may not depend on how many rows are held in float64 at a time."""
    monkeypatch.setattr(columns, "BLOCK_ROWS", request.param)
