"""What is kept of a run: trajectory, probe batches, and what of it goes into checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lightning_morse import MorseMonitor
from lightning_morse.distributed.processes import Processes
from lightning_morse.monitoring.packing import unpacked
from lightning_morse.monitoring.run_record import RunRecord
from lightning_morse.slices.parameters import trainable_parameters
from tests.callback_models import Net


def record(**options) -> RunRecord:
    return RunRecord(MorseMonitor(**{"probe_batches": 2, **options}).settings)


def test_it_begins_with_the_first_weights():
    kept, module = record(), Net()
    assert kept.is_new
    kept.begin(module, 3, "cpu")
    assert not kept.is_new
    for _ in range(6):
        kept.add_weights(module)
    assert len(kept.trajectory) == 3  # steps 0, 3 and 6
    kept.begin(module, 5, "cpu")  # resumed: the stride stays
    assert kept.trajectory.stride == 3


def test_a_module_is_asked_for_its_weights_only_when_they_are_kept(monkeypatch):
    """That takes longer than all else of a step."""
    kept, module, asked = record(), Net(), []
    monkeypatch.setattr(
        "lightning_morse.monitoring.run_record.trainable_parameters",
        lambda module: asked.append(1) or trainable_parameters(module),
    )
    kept.begin(module, 100, "cpu")
    before = len(asked)
    for _ in range(99):
        kept.add_weights(module)
    assert len(asked) == before
    kept.add_weights(module)
    assert len(asked) == before + 1
    module.net[0].requires_grad_(False)  # noticed when the next snapshot is due
    n = kept.trajectory.n_parameters
    for _ in range(100):
        kept.add_weights(module)
    assert kept.trajectory.n_parameters < n
    assert kept.trajectory.steps == 1


def test_a_process_that_keeps_no_weights_does_not_ask_for_them():
    kept = record()
    kept.processes = Processes(rank=1, size=2)
    assert all(kept.only_counts() for _ in range(3))
    kept.add_weights(None)
    assert kept.trajectory.steps == 0


def test_the_probe_set_is_copies_of_the_first_batches():
    kept = record()
    for number in range(2):
        batch = [torch.full((2,), float(number))]
        assert kept.wants_batches
        kept.add_batch(batch, number)
        batch[0].zero_()
    assert not kept.wants_batches
    assert [b[0].tolist() for b in kept.probe] == [[0.0, 0.0], [1.0, 1.0]]


def test_a_record_survives_a_checkpoint():
    kept, module = record(), Net()
    kept.begin(module, 1, "cpu")
    kept.time.rate = 0.5
    kept.add_weights(module)
    kept.add_batch([torch.ones(2)], 7)
    after = record()
    after.load_state_dict(kept.state_dict())
    assert not after.is_new
    after.begin(module, 1, "cpu")
    assert after.trajectory.snapshots().equal(kept.trajectory.snapshots())
    assert after.time.of(after.trajectory).tolist() == [0.0, 0.5]
    assert after.probe[0][0].tolist() == [1.0, 1.0]
    assert after.probe_indices == [7]


def test_fewer_batches_may_be_asked_for_later():
    kept = record()
    kept.add_batch(1, 0)
    kept.add_batch(2, 1)
    after = record(probe_batches=1)
    after.load_state_dict(kept.state_dict())
    after.begin(Net(), 1, "cpu")
    assert after.probe == [1]


def test_batches_that_could_not_be_read_back_stay_out_of_checkpoints():
    for extra, is_kept in ((["a"], True), (Path("here"), False)):
        kept = record()
        kept.probe = [{"x": torch.ones(2), "ids": extra}]
        (probes,) = unpacked(kept.state_dict())["probes"] or [None]
        if is_kept:
            assert torch.equal(probes[0].pop("x"), torch.ones(2))
            assert probes == [{"ids": extra}]
        else:
            assert probes is None


def test_what_is_stored_is_made_anew_only_when_it_has_changed(tmp_path, monkeypatch):
    """A checkpoint an epoch asks often, mostly between two snapshots."""
    monkeypatch.setattr("lightning_morse.monitoring.stored_record.SMALL_STATE_BYTES", 100)
    made = []
    whole = RunRecord._whole

    def counted(self):
        made.append(self.trajectory.steps)
        return whole(self)

    monkeypatch.setattr(RunRecord, "_whole", counted)
    kept, module = record(), nn.Linear(90, 90)
    kept.begin(module, 4, "cpu")
    states = []
    for _ in range(6):
        kept.add_weights(module)
        states.append(kept.state_dict(tmp_path))
    assert made == [2, 5]  # the first is of step 0
    assert [state["trajectory"]["steps"] for state in states] == [2, 3, 4, 5, 6, 7]
    after = record()
    after.load_state_dict(states[-1])
    after.begin(module, 4, "cpu")
    assert after.trajectory.steps == 7
    assert after.trajectory.snapshots().equal(kept.trajectory.snapshots())
    kept.add_batch(torch.ones(2), 0)
    kept.state_dict(tmp_path)
    assert len(made) == 3
    for path in tmp_path.glob("*.pt"):
        path.unlink()
    kept.state_dict(tmp_path)  # writes them again
    assert len(made) == 4
    assert list(tmp_path.glob("*.pt"))


def test_files_go_once_two_later_checkpoints_do_without(tmp_path, monkeypatch):
    """Also where these are one state."""
    monkeypatch.setattr("lightning_morse.monitoring.stored_record.SMALL_STATE_BYTES", 100)
    kept, module = record(max_snapshots=3), nn.Linear(90, 90)
    kept.begin(module, 1, "cpu")
    for _ in range(3):
        kept.state_dict(tmp_path)
        kept.add_weights(module)
        with torch.no_grad():
            module.weight += 1
    before = set(tmp_path.glob("*.pt"))
    for _ in range(2):
        kept.state_dict(tmp_path)
        assert set(tmp_path.glob("*.pt")) >= before
        kept.state_dict(tmp_path)
    assert len(list(tmp_path.glob("*.pt"))) == len(kept.trajectory)


def test_it_can_start_over():
    kept = record()
    kept.begin(Net(), 1, "cpu")
    kept.add_batch(1, 0)
    kept.forget()
    assert kept.is_new
    assert kept.probe == []


class Two:
    """Two processes, of which the other has not found its files."""

    rank, size, leads = 0, 2, True

    def share(self, value):
        return value

    def gather(self, value):
        return [value, True]


def loaded(**options):
    kept, module, after = record(**options), Net(), record(**options)
    kept.begin(module, 1, "cpu")
    kept.add_weights(module)
    kept.add_batch([torch.ones(2)], 0)
    after.load_state_dict(kept.state_dict())
    return after


def test_what_one_process_has_lost_none_goes_on_with():
    after = loaded()
    assert len(after.trajectory) == 2
    after.meet(Two())
    assert not len(after.trajectory)
    assert after.probes_of_all == []
    assert not after.is_new  # the schedule goes on


def test_only_the_first_process_reads_the_snapshots(monkeypatch):
    home = "lightning_morse.monitoring.run_record.is_another_process"
    monkeypatch.setattr(home, lambda: True)
    after = loaded()
    assert not len(after.trajectory)
    assert len(after.probes_of_all[0]) == 1
    assert not after.is_new


def test_the_limit_is_part_of_the_state(monkeypatch):
    n = sum(p.numel() for p in Net().parameters())
    home = "lightning_morse.monitoring.run_record.free_memory"
    monkeypatch.setattr(home, lambda: 500 * n)
    assert loaded().plan.max_snapshots == 8
    assert loaded(max_memory=20 * n).plan.max_snapshots == 4
