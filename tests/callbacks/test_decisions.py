"""What is said of an analysis that is smaller than usual, or of none."""

from __future__ import annotations

from lightning_morse.callbacks._decisions import Told
from lightning_morse.monitoring.budget import Budget
from lightning_morse.monitoring.costs import Portion
from lightning_morse.monitoring.pace import Decision, Pace
from tests.monitoring.test_pace import settings


class Heard:
    """Takes messages, and keeps them."""

    def __init__(self):
        self.lines = []

    def inform(self, message, where, about=""):
        self.lines.append(f"{where}: {message}")


def said(decision, **given):
    """What is said of a decision."""
    asked, heard = settings(**given), Heard()
    pace = Pace(asked, Budget(asked.max_overhead), automatic=True)
    Told(asked, pace, True, heard, "epoch 3").tell(decision, ended=False)
    return "\n".join(heard.lines)


def test_fewer_samples_are_told_only_where_there_are_fewer():
    assert "48 samples instead of 112" in said(Decision(Portion(48, 48, 4, 128, 1.0)))
    # The picture may have less than usual as long as the question may have as much.
    assert said(Decision(Portion(67, 112, 4, 128, 1.0))) == ""
    assert said(Decision(Portion(96, 160, 4, 128, 1.0))) == ""


def test_other_reductions_are_told_together():
    told = said(Decision(Portion(48, 48, 1, 64, 1.0)))
    for part in ("48 samples", "1 of 4 probe batches", "64 cells per axis instead of 128"):
        assert part in told
    assert told.count("epoch 3:") == 1


def test_a_long_analysis_is_announced_and_one_that_is_not_due_is_not_told():
    assert "an analysis begins that takes about" in said(Decision(Portion(112, 112, 4, 128, 9.0)))
    assert said(Decision(due_in=3.0)) == ""
    assert "about 4 minutes from now" in said(Decision(wait=240.0))
