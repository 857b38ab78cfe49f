"""What a monitor keeps of a run for its analyses, in each process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lightning_morse.distributed.errors import cause
from lightning_morse.distributed.processes import Processes
from lightning_morse.distributed.sharding import flat_shards
from lightning_morse.monitoring.probe_batches import copied, is_plain, moved
from lightning_morse.monitoring.settings import Settings
from lightning_morse.monitoring.snapshots import Trajectory
from lightning_morse.monitoring.state_files import (
    SMALL_STATE_BYTES,
    MissingStateError,
    StateFiles,
    fetched,
    n_bytes,
)
from lightning_morse.monitoring.tracking import AttractorTracker
from lightning_morse.monitoring.training_time import TrainingTime
from lightning_morse.slices.parameters import flat_parameters, trainable_parameters


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
        self.forget()

    def forget(self) -> None:
        """Start over, for another run."""
        self.trajectory = self._new_trajectory()
        self.time = TrainingTime(self.trajectory)
        self.probe: list[Any] = []
        self.probe_indices: list[int] = []
        self._weights: tuple[tuple[str, tuple[int, ...]], ...] = ()
        self.probes_of_all: list[list[Any]] = []
        self.tracker = AttractorTracker()
        self._files = StateFiles()

    def _new_trajectory(self) -> Trajectory:
        return Trajectory(self._settings.max_snapshots, dtype=self._settings.dtype)

    @property
    def is_new(self) -> bool:
        """Whether :meth:`begin` will start the trajectory, not go on with one that was loaded."""
        return self.sharded or not len(self.trajectory)

    def begin(self, module: nn.Module, stride: int, device: Any) -> None:
        """Begin a run or go on with one.

        Args:
            module: The network.
            stride: Optimizer steps between two snapshots of a new trajectory.
            device: Where the network is.
        """
        if self.is_new:
            if self.sharded:  # whatever was loaded is not this process's own rows
                self.trajectory = self._new_trajectory()
            self.trajectory.stride = stride
            self.add_weights(module)
        if len(self.probes_of_all) == self.processes.size:
            self.probe = self.probes_of_all[self.processes.rank]
        self.probe = moved(self.probe[: self._settings.probe_batches], device)
        n = len(self.probe)
        self.probe_indices = [*self.probe_indices, *range(len(self.probe_indices), n)][:n]

    def _begin_anew_if_changed(self, module: nn.Module) -> None:
        """Start another trajectory where other weights are trained than before.

        Layers may be unfrozen one after the other. Weights of other names or shapes are no point of
        the same trajectory, and attractors in another space are other attractors.
        """
        weights = tuple((name, tuple(p.shape)) for name, p in trainable_parameters(module))
        changed = bool(self._weights) and weights != self._weights
        self._weights = weights
        if not changed:
            return
        stride = self.trajectory.stride
        self.trajectory = self._new_trajectory()
        self.trajectory.stride = stride
        self.time = TrainingTime(self.trajectory)
        self.tracker = AttractorTracker()
        self._warn(
            "other weights are trained from here on: the record of the trajectory and the "
            "identities of attractors begin anew"
        )

    def add_weights(self, module: nn.Module) -> None:
        """Count an optimizer step, and keep its weights if a snapshot is due."""
        self._begin_anew_if_changed(module)
        if self.sharded:
            self.trajectory.step(lambda: flat_shards(module, self.processes.rank))
        elif self.processes.leads:
            self.trajectory.step(lambda: flat_parameters(module))
        else:
            return
        self.time.step(self.trajectory)

    @property
    def wants_batches(self) -> bool:
        """Whether the probe set is not yet complete."""
        return len(self.probe) < self._settings.probe_batches

    def add_batch(self, batch: Any, index: int) -> None:
        """Add a copy of a training batch, and its index in the epoch, to the probe set."""
        self.probe.append(copied(batch))
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
        probes = [self.probe] if self.processes.size == 1 else self.probes_of_all
        trajectory = self._new_trajectory() if self.sharded else self.trajectory
        state: dict[str, Any] = {
            "trajectory": trajectory.state_dict(),
            "time": self.time.state_dict(),
            "probes": [moved(p, "cpu") for p in probes] if is_plain(probes) else [],
            "probe_indices": list(self.probe_indices),
            "weights": [[name, list(shape)] for name, shape in self._weights],
            "tracker": self.tracker.state_dict(),
        }
        snapshots = state["trajectory"]["snapshots"]
        if n_bytes(state) <= SMALL_STATE_BYTES:
            # Copies, since a view would take all the rows along.
            state["trajectory"]["snapshots"] = [row.clone() for row in snapshots]
            return state
        if folder is None:
            return {"weights": state["weights"]}
        taken = state["trajectory"]["taken"]
        rows = {id(row): (step, row) for step, row in zip(taken, snapshots, strict=True)}
        try:
            return {**self._files.put_away(state, folder, rows), "folder": str(folder.absolute())}
        except OSError as error:
            self._warn(f"the record is not in checkpoints ({cause(error)})")
            return {"weights": state["weights"]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a record written by :meth:`state_dict`; to be followed by :meth:`begin`.

        If its files are gone, the record is empty, and the user is told.
        """
        try:
            if "trajectory" not in state:
                raise MissingStateError("there was no folder to write it to")
            if "folder" in state:
                state = fetched(dict(state), Path(state["folder"]))
        except MissingStateError as error:
            self._warn(f"the record of the trajectory begins anew: {error}")
            return
        self.trajectory.load_state_dict(state["trajectory"])
        if "time" in state:  # not in the earliest checkpoints of 0.1
            self.time.load_state_dict(state["time"])
        self.probes_of_all = list(state["probes"])
        self.probe_indices = list(state.get("probe_indices", ()))  # not in checkpoints of 0.1
        self._weights = tuple((name, tuple(shape)) for name, shape in state.get("weights", ()))
        self.tracker.load_state_dict(state["tracker"])
