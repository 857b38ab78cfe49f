"""Small matrices are worked on by one thread, and the setting is what it was afterwards."""

import pytest
import torch

from lightning_morse.slices.columns import as_few_threads_as_help


@pytest.mark.parametrize(("n_entries", "within"), [(10**6, 1), (10**8, 1), (10**9, 1), (10**10, 2)])
def test_the_number_of_threads_is_restored(n_entries, within):
    seen = []

    def look():
        with as_few_threads_as_help(n_entries):
            seen.append(torch.get_num_threads())
            raise KeyError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError):
            look()
        seen.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert seen == [within, 2]
