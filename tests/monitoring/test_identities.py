"""How attractors are recognised: what their lines may cost."""

import math

import pytest
import torch

from lightning_morse.barriers.segment import MOST_EVALUATIONS, Segment
from lightning_morse.distributed.processes import Processes
from lightning_morse.monitoring.costs import Portion
from lightning_morse.monitoring.identities import Identification
from lightning_morse.monitoring.meter import Meter, OutOfTimeError


def lines_after(made, most):
    """How many lines are evaluated after so many evaluations; the loss is not at hand."""
    meter, lines = Meter(lambda: 0.0, Portion(16, 16, 1, 24)), []
    meter.n_evaluations = made

    def on_line(line):
        lines.append(line)
        raise OutOfTimeError

    def questions():
        answer = yield Segment(torch.zeros(2), torch.ones(2), 0.1, 0.95)
        assert answer is None
        return "tracked"

    identification = Identification(Processes(), on_line, meter, print, most)
    assert identification.run(questions) == "tracked"
    return len(lines)


@pytest.mark.parametrize("most", [MOST_EVALUATIONS, 320])
def test_no_line_takes_an_analysis_beyond_its_limit(most):
    assert lines_after(most - MOST_EVALUATIONS, most) == 1
    assert lines_after(most - MOST_EVALUATIONS + 1, most) == 0
    assert lines_after(most, math.inf) == 1
