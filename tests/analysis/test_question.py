"""Questions that are asked again: what a last picture leaves open is sampled."""

from types import SimpleNamespace

import numpy as np
import pytest

from lightning_morse.analysis import question
from lightning_morse.analysis.exploration import Explorer


@pytest.mark.parametrize("point", [None, np.zeros(2)])
def test_what_sketches_decide_and_the_last_picture_does_not_is_sampled_there(monkeypatch, point):
    """As otherwise the same picture would come out each time, with samples left."""
    pictures = [SimpleNamespace(portrait=n) for n in range(3)]
    looked, left = [], iter(pictures * 2)
    monkeypatch.setattr(question, "final_portrait", lambda *args: next(left))
    monkeypatch.setattr(Explorer, "look_again", lambda self, *given: looked.append(given))
    sampler = SimpleNamespace(
        judge=lambda: None,
        left=lambda most: 10,
        tower=None,
        clock=None,
        plan=SimpleNamespace(most=64),
    )
    found = question.judged(sampler, lambda: None, lambda portrait: portrait == 1, point)
    assert found is pictures[1]
    assert looked == ([] if point is None else [(0, point)])
    # The last of three judges all samples there are: none is placed that no picture has seen.
    looked.clear()
    left = iter(pictures)
    assert question.judged(sampler, lambda: None, lambda portrait: False, point) is pictures[2]
    assert looked == ([] if point is None else [(0, point), (1, point)])
