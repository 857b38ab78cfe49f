"""What a monitor keeps of a run for its analyses, in each process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_morse.distributed.processes import Processes, is_another_process
from lightning_morse.distributed.sharding import flat_shards
from lightning_morse.monitoring.memory import (
    SHARE_OF_FREE_WHEN_RESUMED,
    Plan,
    free_memory,
    memory_limit,
)
from lightning_morse.monitoring.packing import unpacked
from lightning_morse.monitoring.probe_batches import copied, is_plain, moved
from lightning_morse.monitoring.settings import Settings
from lightning_morse.monitoring.snapshots import Trajectory
from lightning_morse.monitoring.state_files import MissingStateError, fetched
from lightning_morse.monitoring.stored_record import StoredRecord
from lightning_morse.monitoring.tracking import MAX_PICTURES, AttractorTracker
from lightning_morse.monitoring.training_time import TrainingTime
from lightning_morse.slices.columns import working_dtype
from lightning_morse.slices.parameters import (
    as_real,
    count_of_weights,
    parts_of_weights,
    trainable_parameters,
)


class RunRecord:
    """The trajectory of a run, its probe batches, and the attractors found so far.

    Only the first process records the trajectory, unless weights are sharded: then each process
    records its own rows, which stay out of checkpoints.

    Args:
        settings: What the user asked for.
        warn: Takes messages for the user.

    Attributes:
        processes: The processes of the run.
        sharded: Whether the weights are spread over them.
        free: Memory that was free in the first process at the start, bytes; None if unknown.
        plan: What is kept of the weights.
        trajectory: Snapshots of the weights.
        time: When each was taken, in time of the gradient flow.
        probe: The batches of this process that the loss is evaluated on.
        probe_indices: The index of each in its epoch.
        probes_of_all: Those of every process, on the CPU; empty until :meth:`gather_probes`.
        tracker: Recognises the attractors of earlier analyses.
    """

    def __init__(
        self, settings: Settings, warn: Callable[[str], None] = lambda message: None
    ) -> None:
        self._settings = settings
        self._warn = warn
        self.processes = Processes()
        self.sharded = False
        self.free = free_memory()
        self._store = StoredRecord(warn)
        self.forget()

    def forget(self) -> None:
        """Start over, for another run."""
        self.plan = self._asked
        self._limit: int | None = None
        self._weight_dtype = torch.float32
        self._begun = self._lost = False
        self._store = StoredRecord(self._warn)
        self._begin_anew()
        self.probe: list[Any] = []
        self.probe_indices: list[int] = []
        self._refused = 0
        self._weights: tuple[tuple[str, tuple[int, ...]], ...] = ()
        self.probes_of_all: list[list[Any]] = []

    def meet(self, processes: Processes) -> None:
        """Learn which processes there are, and how much memory the first has; all call it.

        Where one did not find what was to be loaded, none goes on with it: they would not agree on
        the probe set.
        """
        self.processes = processes
        self.free = processes.share(free_memory())
        if any(processes.gather(self._lost)):
            self._begin_anew()
            self.probes_of_all, self.probe_indices = [], []
        self._lost = False

    def _new_trajectory(self) -> Trajectory:
        return Trajectory(self.plan.max_snapshots, dtype=self.plan.dtype)

    @property
    def _asked(self) -> Plan:
        """What is kept where memory is no matter."""
        tracks = not self.sharded and self._settings.dynamics != "trajectory"
        slices = MAX_PICTURES if tracks else 0
        return Plan(self._settings.max_snapshots, self._settings.dtype, slices)

    def _make_plan(self, n_weights: int) -> str:
        """Decide what fits into memory; the same in all processes, without an exchange.

        Args:
            n_weights: Length of a snapshot.

        Returns:
            What to tell the user.
        """
        asked, free = self._settings.max_memory, self.free
        if free is not None and self.sharded:
            free //= self.processes.size  # as if all were on this machine
        again = memory_limit(asked, free, SHARE_OF_FREE_WHEN_RESUMED)
        if asked is not None or self._limit is None or self._limit > again:
            self._limit = memory_limit(asked, free)
        dim, most = self._settings.dim, self._limit / max(1, n_weights)
        wished = self._asked
        if self._settings.max_overhead < 1:
            wished = wished.in_time(n_weights)
        self.plan = wished.within(most, dim, self._weight_dtype)
        self.tracker.max_pictures = self.plan.slices
        return self.plan.told(wished, self._limit, n_weights)

    @property
    def is_new(self) -> bool:
        """Whether :meth:`begin` will start the record; the same in all processes."""
        return not self._begun

    def begin(self, module: nn.Module, stride: int, device: Any) -> None:
        """Begin a run or go on with one.

        Args:
            module: The network.
            stride: Optimizer steps between two snapshots of a new trajectory.
            device: Where the network is.
        """
        self._begun = True
        # Whatever was loaded is not this process's own rows, if weights are sharded.
        if self.sharded or not len(self.trajectory):
            self._begin_trajectory(module, stride)
            self.add_weights(module)
        if len(self.probes_of_all) == self.processes.size:
            self.probe = self.probes_of_all[self.processes.rank]
        self.probe = moved(self.probe[: self._settings.probe_batches], device)
        n = len(self.probe)
        self.probe_indices = [*self.probe_indices, *range(len(self.probe_indices), n)][:n]

    def _begin_trajectory(self, module: nn.Module, stride: int) -> None:
        parameters = [p for _, p in trainable_parameters(module)]
        self._weight_dtype = working_dtype(as_real(parameters[0].detach()).dtype)
        n = count_of_weights(parameters)
        if said := self._make_plan(-(-n // self.processes.size) if self.sharded else n):
            self._warn(said)
        rate = self.time.rate
        self._begin_anew(stride)
        self.time.rate = rate

    def _begin_anew(self, stride: int = 1) -> None:
        """Forget the trajectory and the attractors."""
        self.trajectory = self._new_trajectory()
        self.trajectory.stride = stride
        self.time = TrainingTime(self.trajectory)
        self.tracker = AttractorTracker(self.plan.slices)
        self._store.forget()

    def begin_anew_if_changed(self, module: nn.Module) -> None:
        """Start another trajectory where other weights are trained than before.

        Layers may be unfrozen one after the other. Weights of other names or shapes are no point of
        the same trajectory, and attractors in another space are other attractors.

        Args:
            module: The network.
        """
        weights = tuple((name, tuple(p.shape)) for name, p in trainable_parameters(module))
        changed = bool(self._weights) and weights != self._weights
        self._weights = weights
        if not changed:
            return
        self._begin_trajectory(module, self.trajectory.stride)
        self._warn(
            "other weights are trained from here on: the record of the trajectory and the "
            "identities of attractors begin anew"
        )

    def only_counts(self) -> bool:
        """Whether the weights after an optimizer step are not to be kept; then it is counted."""
        if not (self.sharded or self.processes.leads):
            return True
        if self.trajectory.is_due:
            return False
        self.trajectory.count()
        self.time.step(self.trajectory)
        return True

    def add_weights(self, module: nn.Module) -> None:
        """Count an optimizer step, and keep its weights if a snapshot is due."""
        if self.only_counts():
            return
        self.begin_anew_if_changed(module)
        if self.sharded:
            self.trajectory.step(lambda: flat_shards(module, self.processes.rank))
        else:
            self.trajectory.step(lambda: parts_of_weights(module))
        self.time.step(self.trajectory)

    @property
    def wants_batches(self) -> bool:
        """Whether the probe set is not yet complete."""
        return len(self.probe) + self._refused < self._settings.probe_batches

    def add_batch(self, batch: Any, index: int) -> None:
        """Add a copy of a training batch, and its index in the epoch, to the probe set.

        One that cannot be copied takes its place: it is not tried all through the run.
        """
        self._refused += 1
        self.probe.append(copied(batch))
        self._refused -= 1
        self.probe_indices.append(index)

    def gather_probes(self) -> None:
        """Let every process know the probe batches of all, once; all processes call it."""
        if self.processes.size > 1 and not self.probes_of_all:
            self.probes_of_all = self.processes.gather(moved(self.probe, "cpu"))

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """The record in tensors and plain containers, as far as it belongs in a checkpoint.

        Probe batches that ``torch.load(..., weights_only=True)`` would not read back are left out.

        Args:
            folder: Where a large record goes, of which the state then holds the names of files.
                Without one, or if it cannot be written to, the record is left out.
        """
        made = self._store.put(self._version, self._whole, folder)
        if "trajectory" not in made:
            return dict(made)
        # All else stays as it is between two snapshots and between two analyses.
        steps = 0 if self.sharded else self.trajectory.steps
        return {
            **made,
            "trajectory": {**made["trajectory"], "steps": steps},
            "time": self.time.state_dict(),
        }

    @property
    def _version(self) -> tuple[Any, ...]:
        """What tells whether a stored record is still the present one."""
        path = self.trajectory
        snapshots = *path.taken, path.stride, path.n_parameters
        return *snapshots, self.tracker.n_updates, len(self.probe), len(self.probes_of_all)

    def _whole(self) -> dict[str, Any]:
        probes = [self.probe] if self.processes.size == 1 else self.probes_of_all
        trajectory = self._new_trajectory() if self.sharded else self.trajectory
        return {
            "trajectory": trajectory.state_dict(),
            "memory": [self._limit, str(self._weight_dtype)],
            "time": self.time.state_dict(),
            "probes": [moved(p, "cpu") for p in probes] if is_plain(probes) else [],
            "probe_indices": list(self.probe_indices),
            "weights": [[name, list(shape)] for name, shape in self._weights],
            "tracker": self.tracker.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a record written by :meth:`state_dict`; to be followed by :meth:`begin`.

        If its files are gone, the record is empty, and the user is told.
        """
        state = unpacked(state)
        self._begun, folder = True, Path(state.get("folder", ""))
        if "memory" in state:
            self._limit, dtype = state["memory"]
            self._weight_dtype = getattr(torch, dtype.removeprefix("torch."))
        # Snapshots are read one by one, and by the process that goes on with them.
        rows = state.get("trajectory", {})
        here = not is_another_process()
        wanted = {k: state[k] for k in ("time", "probes") if k in state}
        try:
            if not rows:
                raise MissingStateError("there was no folder to write it to")
            found = fetched(wanted, folder)
            if here and len(rows["snapshots"]):
                if said := self._make_plan(len(fetched(rows["snapshots"][0], folder))):
                    self._warn(said)
                self.trajectory = self._new_trajectory()
                self.time = TrainingTime(self.trajectory)
                self.trajectory.load_state_dict(rows, partial(fetched, folder=folder))
            if here and self.plan.slices:
                self.tracker.load_state_dict(fetched(state["tracker"], folder))
        except MissingStateError as error:
            self._lost = True
            self._begin_anew()
            self._warn(f"the record of the trajectory begins anew: {error}")
            return
        self._store.take_over(state)
        if "time" in found:  # not in the earliest checkpoints of 0.1
            self.time.load_state_dict(found["time"])
        self.probes_of_all = list(found["probes"])
        self.probe_indices = list(state.get("probe_indices", ()))  # not in checkpoints of 0.1
        self._weights = tuple((name, tuple(shape)) for name, shape in state.get("weights", ()))
