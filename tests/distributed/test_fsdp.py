"""Networks sharded by ``fully_shard``: same slices as unsharded, and training left untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_morse.distributed.normal_stream import NormalStream
from lightning_morse.distributed.processes import Lockstep, Processes
from lightning_morse.distributed.sharding import check_sharding, is_sharded
from tests.callback_models import Net
from tests.process_groups import reports_of

SCRIPT = "tests.sharded_processes"
TIME_LIMIT = 240
RUN = ("weights", "gradients", "buffers", "optimizer", "modes", "seen", "meter", "logged")
FAILING = {
    "first_fails": ([0, 1, 0], "(ValueError: lost)"),
    "second_fails": ([0, 1, 0], "(ProcessError: in process 1: MemoryError: lost)"),
    "second_fails_at_once": ([0, 1, 0], "(ProcessError: in process 1: ValueError: lost)"),
    "branches": ([0, 1, 1], "(RuntimeError: all processes must evaluate the same modules"),
    "caught": ([0, 1, 0], "(ProcessError: in process 1: ValueError: lost)"),
}
WATCHED = ("watched", "resumed", "random", "root", *FAILING)
WAYS = ("rows", "half", "columns", "copies", "hybrid")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of a run with two processes."""
    return reports_of(SCRIPT, tmp_path_factory.mktemp("runs"), 2, TIME_LIMIT, "2")


def assert_no_trace(bare, watched):
    for without, with_it in zip(bare, watched, strict=True):
        for what in (*RUN, "generators"):
            assert without[what] == with_it[what], what


@pytest.mark.slow
def test_fsdp_leaves_no_trace(reports):
    assert_no_trace(reports["bare"], reports["watched"])
    assert [row["morse/failed"] for row in reports["watched"][0]["history"]] == [0, 0, 0]


@pytest.mark.slow
def test_no_trace_on_a_root_unit_in_mixed_precision(reports):
    assert_no_trace(reports["root_bare"], reports["root"])
    assert [row["morse/failed"] for row in reports["root"][0]["history"]] == [0, 0, 0]


@pytest.mark.slow
def test_one_process(tmp_path):
    found = reports_of(SCRIPT, tmp_path, 1, TIME_LIMIT, "1")
    assert_no_trace(found["bare"], found["watched"])
    (watched,) = found["watched"]
    assert [row["morse/failed"] for row in watched["history"]] == [0, 0, 0]
    assert watched["centre_loss"] == pytest.approx(watched["own_loss"], rel=1e-5)


@pytest.mark.slow
def test_all_publish_the_same(reports):
    for name in WATCHED:
        first, second = reports[name]
        assert first["metrics"] == second["metrics"], name
        assert first["history"] == second["history"], name
        assert first["found"], name
        assert not second["found"], name
        assert first["ended"] == second["ended"] == "", name


@pytest.mark.slow
def test_the_loss_is_that_of_fsdp_over_all_probe_batches(reports):
    first, second = reports["watched"]
    mean = (first["own_loss"] + second["own_loss"]) / 2
    assert first["centre_loss"] == pytest.approx(mean, rel=1e-5)
    assert abs(first["own_loss"] - mean) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILING)
def test_a_failure_in_one_process_is_one_in_all(name, reports):
    failed, said = FAILING[name]
    assert_no_trace(reports["bare"], reports[name])
    for report in reports[name]:
        assert [row["morse/failed"] for row in report["history"]] == failed
    assert f"epoch 2: no analysis, training goes on {said}" in reports["said"][0]
    assert "no analysis" not in reports["said"][1]


@pytest.mark.slow
def test_no_process_holds_the_whole_trajectory(reports):
    first, second = reports["watched"]
    assert first["n_snapshots"] == second["n_snapshots"] > 3
    # Layers 3-7 and 7-1 and the normalisation, cut after rows 4 and 1; not the frozen layer.
    assert first["snapshots"] == [33, 4 * 3 + 4 + 4 + 4 + 7 + 1]
    assert second["snapshots"] == [33, 3 * 3 + 3 + 3 + 3]


@pytest.mark.slow
def test_a_resumed_run_starts_its_record_anew(reports):
    for before, after in zip(reports["watched"], reports["resumed"], strict=True):
        assert before["saved"] == after["saved"] == 0
        assert after["history"][:3] == before["history"]
        assert [row["morse/failed"] for row in after["history"]] == [0, 0, 0, 0]
        assert 1 < after["n_snapshots"] < before["n_snapshots"]


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
def test_shards_are_the_whole(how, reports):
    found = reports[f"whole_{how}"]
    for report in found:
        assert report["left_over"]
        assert report["weights"] == 0
        for what in ("pca", "random", "loss"):
            assert report[what] < 1e-5, what
        for what in ("norms", "project", "residual", "dot"):
            assert report[what] < 1e-12, what
        assert "directions[1] must not lie in the span" in report["collinear"]
        assert report["again"]
        assert all(report["left"])
    # Every trainable weight appears once, the unsharded one in the first process.
    expected = {"columns": [31, 30], "copies": [61, 0]}.get(how, [34, 27])
    assert [report["numel"] for report in found] == expected


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
def test_weights_are_whole_in_one_unit_at_a_time(how, reports):
    # Two layers of 30 and 24 weights inside a unit with 8; a missing parameter keeps a single NaN.
    for report in reports[f"whole_{how}"]:
        assert report["held"] == [30 + 8 + 1, 24 + 8 + 2, 6]


@pytest.mark.slow
def test_what_is_not_supported_is_refused(reports):
    for report in reports["refusals"]:
        assert "split along one axis, got (Shard(dim=0), Shard(dim=1))" in report["crossed"]
        assert "which fully_shard does not hold" in report["free"]
        assert "spread over all 4 processes" in report["few"]
        assert "got FullyShardedDataParallel (FSDP1)" in report["first"]


@pytest.mark.slow
def test_directions_that_no_process_can_hold_end_no_run(reports):
    assert_no_trace(reports["bare"], reports["tensors"])
    for report in reports["tensors"]:
        assert report["ended"] == ""
        assert {row["morse/failed"] for row in report["history"]} == {1}
    assert "directions must be 'pca' or 'random' where weights are sharded" in reports["said"][0]


@pytest.mark.slow
def test_exchanges_end_everywhere(reports):
    first, second = reports["exchanges"]
    assert first["first"] == "ValueError: lost 0"
    assert second["first"] == "ProcessError: in process 0: ValueError: lost 0"
    assert first["second"] == first["swallowed"] == "ProcessError: in process 1: ValueError: lost 1"
    assert second["second"] == second["swallowed"] == "ValueError: lost 1"
    assert (first["both"], second["both"]) == ("ValueError: lost 0", "ValueError: lost 1")
    assert first["leaves"] == second["leaves"]
    assert first["leaves"].startswith("RuntimeError: all processes must evaluate the same")
    assert first["well"] == second["well"] == [[0], [1]]
    for report in (first, second):
        assert all(value == [0, 1] for name, value in report.items() if name.endswith("then"))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 61, (1 << 16) + 5, (1 << 17) + 3, 3 << 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_drawn_piecemeal_are_those_drawn_at_once(n, dtype):
    at_once, piecemeal = (torch.Generator().manual_seed(4) for _ in range(2))
    expected = [torch.empty(n, dtype=dtype).normal_(generator=at_once) for _ in range(2)]
    for numbers in expected:
        stream = NormalStream(n, piecemeal, dtype)
        sizes = [n // 3, 0, n - n // 3]
        assert torch.cat([stream.next(size) for size in sizes]).equal(numbers)


def test_ordinary_networks_are_not_sharded():
    assert not is_sharded(Net())
    check_sharding(nn.Linear(2, 2), 4)


def test_one_process_keeps_step_with_itself():
    step = Lockstep(Processes())

    def swallowed():
        with pytest.raises(ZeroDivisionError):
            step.run(lambda: 1 / 0)
        return step.gather("a")

    assert step.run(swallowed) == ["a"]
    assert [t.item() for t in step.all_gather(torch.tensor(3))] == [3]
