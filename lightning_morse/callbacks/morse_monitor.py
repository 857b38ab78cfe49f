"""The Lightning callback: when to analyse, and what to tell the trainer."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from matplotlib.figure import Figure
from torch import Tensor

from lightning_morse._typing import Array
from lightning_morse.analysis.design import FEWEST_SAMPLES, first_samples
from lightning_morse.analysis.pipeline import analyze_further
from lightning_morse.arguments import integer_of_at_least, level_of_confidence
from lightning_morse.callbacks.loggers import log_pictures, log_scalars
from lightning_morse.distributed.errors import cause, must_end_run, origin
from lightning_morse.distributed.fsdp import (
    ShardedSlice,
    Shards,
    check_sharding,
    compute_device,
    flat_shards,
    is_sharded,
)
from lightning_morse.distributed.processes import Lockstep, Processes, SharedLoss
from lightning_morse.monitoring.budget import Budget, Work
from lightning_morse.monitoring.extent import given_extent, half_widths, sample_box
from lightning_morse.monitoring.flow_check import flow_check
from lightning_morse.monitoring.probe_batches import copied, is_plain, moved
from lightning_morse.monitoring.scalars import BEFORE_FIRST, readings
from lightning_morse.monitoring.snapshot_map import (
    DYNAMICS,
    analyze_snapshots,
    before_first,
    flow_readings,
    trajectory_readings,
)
from lightning_morse.monitoring.snapshots import Trajectory
from lightning_morse.monitoring.tracking import AttractorTracker, untracked
from lightning_morse.monitoring.training_time import TrainingTime, learning_rate
from lightning_morse.plotting.basins import plot_basins
from lightning_morse.plotting.merge_diagram import plot_merge_diagram
from lightning_morse.plotting.morse_graph import plot_morse_graph
from lightning_morse.plotting.timeline import plot_timeline
from lightning_morse.result import ESCAPES, MorseAnalysis
from lightning_morse.slices.bases import WHOLE, Whole
from lightning_morse.slices.directions import (
    Coverage,
    Directions,
    DirectionSource,
    Slice,
    Weights,
    axis_labels,
)
from lightning_morse.slices.isolation import preserved_random_state
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters, trainable_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.subspace import AffineSubspace

try:  # the same Lightning under its other name: a Trainer from there wants its own Callback
    from lightning.pytorch import Callback as _UnifiedCallback
except ImportError:

    class _UnifiedCallback:  # type: ignore[no-redef]
        """Stands in for it."""


SNAPSHOTS_PER_PERIOD = 8
# An analysis is planned as this many times the longest so far: its box may grow this time. One
# alone says little: it may have been resolved by its first samples (0.63 s were followed by 4.3 s).
LONGER, LONGER_THAN_ONE = 1.5, 7.0
# Basins kept of each analysis for the timeline.
MOST_BASINS = 32
# An analysis that takes longer, in seconds, says so in a line.
SILENT = 1.0

SNAPSHOT_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class _Console(logging.StreamHandler):
    """Shows messages where nobody has set up logging, as Lightning does with its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().hasHandlers():
            super().emit(record)


_log = logging.getLogger("lightning_morse")
if not _log.handlers:
    _log.addHandler(_Console())
if _log.level == logging.NOTSET:
    _log.setLevel(logging.INFO)


class MorseMonitor(_UnifiedCallback, pl.Callback):
    """Watch the attractors and basins of the loss around the weights while a run trains.

    Every period the loss is evaluated on a low-dimensional slice through the current weights and
    :func:`lightning_morse.analyze` finds its Morse graph. The findings are in
    ``trainer.callback_metrics`` (for EarlyStopping, ModelCheckpoint, Optuna) and in every logger,
    under ``morse/``:

    ======================= =====================================================================
    ``attractors``          attractors in the box: a lower bound while ``unresolved`` is not 0
    ``unresolved``          Morse sets that may hide a further attractor
    ``morse_sets``          Morse sets, attractors included
    ``mu``                  lower bound on the probability that the number of attractors is right
    ``mu_smallest``         the same for the least certain single attractor; 0 if there is none
    ``mu_current``          the same for the attractor of the current basin; 0 if unknown
    ``basin_current``       number of the attractor in whose basin the weights certainly lie, in
                            this analysis alone; -1 undecided, -2 they leave the box
    ``basin_switches``      how often, at the least, the weights have certainly changed basins
    ``identity_current``    as ``basin_current``, but the attractor's identity, the same number from
                            one analysis to the next; -1 undecided, -2 they leave the box
    ``basin_max``           share of the box of the largest certain basin
    ``escape``              share of the box that certainly leaves it
    ``undecided``           share of the box of which nothing is certain
    ``barrier``             loss from the current attractor to its lowest saddle; 0 if unknown
    ``headroom``            loss now minus loss at the current attractor; 0 if unknown
    ``explained``           share of the squared trajectory displacement inside the slice
    ``residual``            rms distance of the trajectory from the slice, weight-space units
    ``flow_angle``          mean angle between where training goes in the slice and its gradient
                            flow, radians (:mod:`lightning_morse.monitoring.flow_check`); -1 if
                            unknown
    ``flow_length``         how far it goes, over how far the flow does; -1 if unknown
    ``calibration``         inflation of the surrogate that its residuals ask for; 1 is none
    ``seconds``             wall time of the last analysis, its figures included
    ``overhead``            share of the wall time since the start that the callback has taken
    ``failed``              1 if the last analysis failed; the other values are then the last good
                            ones
    ======================= =====================================================================

    All of them are finite from the start of training on. TensorBoard also gets the figures
    ``morse/basins``, ``morse/graph`` and ``morse/merge`` (up to which confidence the attractors
    stand), from the second analysis on ``morse/timeline`` (the basins over training), and the table
    ``morse/sets``; without it the same is written to ``morse/`` under the log directory as PNG,
    JSON and NumPy archive.

    An attractor keeps its identity and its colour from one analysis to the next where it can be
    recognised, and a change of basins counts where one slice certainly shows it:
    :mod:`lightning_morse.monitoring.tracking` has the rule and its premise. The first process
    keeps one to three slices on the CPU for it, up to ``3 (dim + 1)`` weight vectors: with
    ``dim=2`` and 4 bytes a number 12 to 36 bytes a weight, in memory and in checkpoints, on top of
    the 132 bytes of the snapshots.

    The loss is the module's own in eval mode, on the first training batches that passed by. Nothing
    of the run is changed but its wall time: not weights, buffers, gradients, optimizers, random
    number generators, data order or the values the module logs. An analysis that fails is logged
    with its cause, and training goes on; what is meant to end a run (an interrupt, Optuna's
    ``TrialPruned``) passes through. In checkpoints the callback keeps up to ``max_snapshots``
    copies of the trainable weights and the probe batches, so that a resumed run looks at the same.

    On top of the snapshots an analysis takes memory for ``3 dim + 3`` copies of the trainable
    weights while it makes principal directions and ``dim + 3`` while it evaluates the loss (the
    shadow copy, the weights, the point and the directions), plus one forward pass without
    gradients, whatever ``n_samples``. ``"gradient"`` needs the graph of one probe batch, in more
    than one dimension that of its gradient too; ``"hessian"`` as well, and ``2 dim + 6`` vectors in
    double precision.

    With several processes (DDP) each keeps its own first batches as probe set. The loss is the mean
    over the examples of all of them, as the gradient of the run is a mean over processes; the first
    process chooses the points and makes the Morse graph, and all publish the same values. Batch
    statistics are those each process has.

    Networks sharded by ``fully_shard`` (FSDP2, with Lightning's ``ModelParallelStrategy``) stay
    sharded: each process keeps its own rows of the snapshots and directions, and during an
    evaluation gets the weights of one unit at a time. They are evaluated in float32 or better
    whatever the ``MixedPrecisionPolicy``. ``directions`` is then ``"pca"`` or ``"random"``, and the
    snapshots are not in the checkpoint: a resumed run starts its record of the trajectory anew. The
    identities of attractors are their numbers in each analysis then. Tensor parallel networks and
    FSDP1 (``FSDPStrategy``) are refused.

    Args:
        directions: Directions of the slice. ``"pca"``: principal directions of the trajectory,
            ``"random"`` before it has three distinct snapshots. ``"random"``: filter-normalised,
            the same all through the run. ``"gradient"``: steepest descent, and where the Hessian
            turns it. ``"hessian"``: the eigenvectors with the largest eigenvalues in absolute
            value. (Both of the loss on the probe set; ``"random"`` where that has no such
            derivatives.) ``"checkpoints"``: the plane through ``checkpoints``. Or a tensor of shape
            ``(p, dim)`` for ``p`` trainable weights in the order of ``module.parameters()``, or a
            sequence of ``dim`` flat tensors or mappings from parameter names to tensors (names left
            out do not move). Or a function that returns one of these, called at each analysis as
            ``directions(module, batches)`` with a copy of the module, in eval mode, and the probe
            batches.
        dim: Dimension of the slice: 1, 2 or 3.
        every_n_epochs: Analyse at the end of every so many epochs; 1 if neither period is given.
        every_n_steps: Analyse when the optimizer has made so many steps since the last analysis.
        n_samples: Loss evaluations an analysis, each over all probe batches; at least 16. A box
            that has to grow costs up to half as many again.
        resolution: Grid cells an axis.
        confidence: The level at which the picture has to be true, in (0, 1).
        extent: Half-widths of the box in weight-space units, one number or one an axis. Or a share
            of the reach of the trajectory (of the given weights with ``"checkpoints"``) on each
            axis, such as ``"200%"``; at least a quarter of the longest axis, and with ``"random"``
            the norm of the raw directions. ``"auto"``: begins with ``"150%"`` and doubles the box,
            at most twice, while the attractor of the current weights seems to lie outside; at most
            once where only a saddle around it does.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch; it must use the module
            it is given. Default: what ``training_step`` returns, or ``validation_step`` where only
            that is defined.
        probe_batches: How many of the first training batches to keep as the probe set.
        max_snapshots: How many weights along the trajectory to keep, on the CPU; at least 3.
        seed: Of the design, the random directions and whatever the loss draws.
        checkpoints: With ``directions="checkpoints"``: ``dim + 1`` weights, each a flat tensor of
            the trainable weights, a state dict, or the path of a checkpoint.
        max_overhead: Share of the wall time since the start that the callback may take, in (0, 1];
            1 for no limit. It measures itself: an analysis that is due is left out where one half
            as long again as the longest so far (seven times as long as the only one so far) would
            exceed the share. The first one is always made; one that takes longer than that exceeds
            the share until the run has made up for it.
        snapshot_dtype: ``"float64"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``, of the
            weights kept along the trajectory: 4 bytes a weight and snapshot by default. Half
            precision blurs the principal directions once the steps get smaller than its rounding.
        on_error: ``"warn"``: an analysis that fails is logged, once for each cause, and training
            goes on. ``"raise"``: it ends the run.
        name: What the names of the metrics start with; the monitors of one Trainer need different
            ones.
        dynamics: ``"gradient"``: of the loss on the slice. ``"trajectory"``: of the map from one
            snapshot of this run to the next, in the same plane; the loss is not looked at. What a
            single run tells is little (:mod:`lightning_morse.monitoring.snapshot_map`); what it
            says nothing of counts as exterior. ``"both"``: the first, and beside it
            ``trajectory_attractors``, ``trajectory_mu``, ``trajectory_basin_current``,
            ``trajectory_undecided`` and ``trajectory_unknown`` of the second.

    Attributes:
        result: The last analysis, None before the first; in the first process of several.
        history: One row an analysis: ``step``, ``epoch``, the scalars, and ``basins``, the share of
            the box of each certain basin by its attractor's identity (of the 32 largest).

    Raises:
        ValueError: If an argument is out of range; what can only be seen with the network
            (lengths, collinear directions, identical checkpoints, weights sharded in a way that is
            not supported) when training starts.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[MorseMonitor(every_n_epochs=5)], logger=False,
        ...                   enable_checkpointing=False)
    """

    def __init__(
        self,
        directions: Directions = "pca",
        dim: int = 2,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        n_samples: int = 128,
        resolution: int = 128,
        confidence: float = 0.95,
        extent: str | float | Sequence[float] = "auto",
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        probe_batches: int = 4,
        max_snapshots: int = 32,
        seed: int = 0,
        checkpoints: Sequence[Weights] | None = None,
        max_overhead: float = 0.05,
        snapshot_dtype: str = "float32",
        on_error: str = "warn",
        name: str = "morse",
        dynamics: str = "gradient",
    ) -> None:
        super().__init__()
        if every_n_epochs is not None and every_n_steps is not None:
            raise ValueError(
                f"every_n_epochs and every_n_steps exclude each other, got {every_n_epochs!r} and "
                f"{every_n_steps!r}. Leave one of them out"
            )
        if every_n_steps is None and every_n_epochs is None:
            every_n_epochs = 1
        for argument, value, least in (
            ("dim", dim, 1),
            ("every_n_epochs", every_n_epochs, 1),
            ("every_n_steps", every_n_steps, 1),
            ("n_samples", n_samples, FEWEST_SAMPLES),
            ("resolution", resolution, 4),
            ("probe_batches", probe_batches, 1),
            ("max_snapshots", max_snapshots, 3),
            ("seed", seed, 0),
        ):
            if value is not None:
                integer_of_at_least(argument, value, least)
        if dim > 3:
            raise ValueError(
                f"dim must be 1, 2 or 3, got {dim}: the cells of a grid grow with its power"
            )
        level_of_confidence(confidence)
        if type(max_overhead) not in (int, float) or not 0 < max_overhead <= 1:
            raise ValueError(
                "max_overhead must be a share of the wall time in (0, 1], 1 for no limit, got "
                f"{max_overhead!r}"
            )
        if snapshot_dtype not in SNAPSHOT_DTYPES:
            raise ValueError(
                f"snapshot_dtype must be one of {', '.join(map(repr, SNAPSHOT_DTYPES))}, got "
                f"{snapshot_dtype!r}"
            )
        if on_error not in ("warn", "raise"):
            raise ValueError(f"on_error must be 'warn' or 'raise', got {on_error!r}")
        if dynamics not in DYNAMICS:
            raise ValueError(
                f"dynamics must be one of {', '.join(map(repr, DYNAMICS))}, got {dynamics!r}"
            )
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"name must be letters, digits, '_', '-' or '.', got {name!r}. It goes before the "
                "slash in the names of the metrics"
            )
        if loss_fn is not None and not callable(loss_fn):
            raise ValueError(f"loss_fn must be callable as loss_fn(module, batch), got {loss_fn!r}")
        self.dim = dim
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.n_samples = n_samples
        self.resolution = resolution
        self.confidence = confidence
        self.extent = extent
        self._extent = given_extent(extent, dim)
        self.loss_fn = loss_fn
        self.probe_batches = probe_batches
        self.max_snapshots = max_snapshots
        self.seed = seed
        self.max_overhead = max_overhead
        self.snapshot_dtype = snapshot_dtype
        self.on_error = on_error
        self.name = name
        self.dynamics = dynamics
        self.result: MorseAnalysis | None = None
        self.history: list[dict[str, Any]] = []
        self._source = DirectionSource(directions, dim, checkpoints, seed)
        self._view: dict[str, Any] = {}
        self._processes = Processes()
        self._sharded = False
        self._folder = Path()
        self._forget()

    def _forget(self) -> None:
        """Begin a run."""
        self.result = None
        self.history = []
        self._scalars = {**BEFORE_FIRST, **before_first(self.dynamics)}
        self._basins: dict[int, float] = {}
        self._tracker = AttractorTracker()
        self._trajectory = self._new_trajectory()
        self._time = TrainingTime(self._trajectory)
        self._probe: list[Any] = []
        self._probes_before: list[list[Any]] = []
        self._last_step = 0
        self._seen_step = 0
        self._longest: float | None = None
        self._budget = Budget(self.max_overhead)
        self._said: set[str] = set()

    # ------------------------------------------------------------------ hooks

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check what can only be seen with the network and the trainer."""
        for other in trainer.callbacks:
            if isinstance(other, MorseMonitor) and other is not self and other.name == self.name:
                raise ValueError(
                    f"name must differ between the monitors of one Trainer, got {self.name!r} "
                    "twice. Give one of them another name; its metrics then start with that"
                )
        if self.loss_fn is None and not pl_module.automatic_optimization:
            raise ValueError(
                f"loss_fn must be given for a module with manual optimization such as "
                f"{type(pl_module).__name__}, got None. Pass loss_fn(module, batch) that returns "
                "the loss to look at"
            )
        # The strategy's model too, in which the module may be wrapped.
        check_sharding(trainer.model or pl_module, trainer.world_size)
        self._sharded = is_sharded(pl_module)
        if self._sharded and self._source.kind not in ("pca", "random"):
            raise ValueError(
                "directions must be 'pca' or 'random' where weights are sharded, got "
                f"{self._source.kind!r}: no process holds directions as long as all the weights"
            )
        self._source.bind(dict(trainable_parameters(pl_module)))
        self._processes = Processes.of(trainer.world_size)
        # Asking for it is an exchange between all processes, which only happens here.
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Publish first values, so that other callbacks find their keys, and start the record."""
        if trainer.global_step == 0:
            self._forget()
        self._budget.start()
        with self._guarded("starting"):
            self._publish(trainer)
            self._seen_step = trainer.global_step
            if self._sharded:  # of a run that was not: each process has its own from here on
                self._trajectory = self._new_trajectory()
            if not len(self._trajectory):
                self._last_step = trainer.global_step
                self._trajectory.stride = self._stride(trainer)
                self._record(pl_module)
            if len(self._probes_before) == self._processes.size:
                self._probe = self._probes_before[self._processes.rank]
            self._probe = moved(self._probe[: self.probe_batches], pl_module.device)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the first batches as the probe set, and the learning rate of the step to come."""
        with self._guarded("reading the learning rate"):
            self._time.rate = learning_rate(trainer.optimizers)
        if len(self._probe) >= self.probe_batches or batch is None or _is_silent(trainer):
            return
        with self._guarded("keeping a probe batch"):
            # Fetching a batch of our own from the loader would change what training sees.
            self._probe.append(copied(batch))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the weights; analyse when a period is over."""
        if _is_silent(trainer):
            return
        with self._budget.work():
            if trainer.global_step != self._seen_step:  # else gradients were only accumulated
                self._seen_step = trainer.global_step
                with self._guarded("recording the trajectory"):
                    self._record(pl_module)
            if self._is_due(trainer):
                self._last_step = trainer.global_step
                if self._may_analyze(trainer):
                    self._analyze_and_tell(trainer, pl_module)

    # ------------------------------------------------------------------ state

    @cached_property  # the trainer asks for it before every hook
    def state_key(self) -> str:
        """Tells the states of several monitors in one checkpoint apart."""
        return self._generate_state_key(
            name=self.name,
            directions=self._source.kind,
            dim=self.dim,
            every_n_epochs=self.every_n_epochs,
            every_n_steps=self.every_n_steps,
            seed=self.seed,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors and plain containers."""
        # Of one process its own batches; those of all of them once an analysis has gathered them.
        probes = [self._probe] if self._processes.size == 1 else self._probes_before
        # The first process writes, and has no more than its own piece of sharded snapshots.
        trajectory = self._new_trajectory() if self._sharded else self._trajectory
        return {
            "trajectory": trajectory.state_dict(),
            "time": self._time.state_dict(),
            "probes": [moved(p, "cpu") for p in probes] if is_plain(probes) else [],
            "last_step": self._last_step,
            "longest": self._longest,
            "budget": self._budget.state_dict(),
            "scalars": dict(self._scalars),
            "basins": dict(self._basins),
            "tracker": self._tracker.state_dict(),
            "history": [dict(row) for row in self.history],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._forget()
        self._trajectory.load_state_dict(state_dict["trajectory"])
        if "time" in state_dict:  # checkpoints of before did not have it
            self._time.load_state_dict(state_dict["time"])
        self._probes_before = list(state_dict["probes"])
        self._last_step = state_dict["last_step"]
        self._longest = state_dict["longest"]
        self._budget.load_state_dict(state_dict["budget"])
        self._scalars = {**self._scalars, **state_dict["scalars"]}
        self._basins = dict(state_dict["basins"])
        self._tracker.load_state_dict(state_dict["tracker"])
        self.history = [dict(row) for row in state_dict["history"]]

    # --------------------------------------------------------------- pictures

    def figures(self) -> dict[str, Figure]:
        """Draw the last analysis: ``"basins"``, ``"graph"`` and ``"merge"``, matplotlib figures.

        From the second analysis on also ``"timeline"``, the run so far.

        Raises:
            RuntimeError: If there has been no analysis in this process.
        """
        if self.result is None:
            raise RuntimeError("there has been no analysis yet, so there is nothing to draw")
        return self._figures(self.history)

    def _figures(self, history: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
        assert self.result is not None
        known = self._view["identities"]
        drawn = {
            "basins": plot_basins(self.result, **self._view),
            "graph": plot_morse_graph(self.result, known),
            "merge": plot_merge_diagram(self.result, known),
        }
        made = [row for row in history if not row[f"{self.name}/failed"]]
        return drawn if len(made) < 2 else {**drawn, "timeline": plot_timeline(made)}

    # --------------------------------------------------------------- analysis

    def _new_trajectory(self) -> Trajectory:
        return Trajectory(self.max_snapshots, dtype=SNAPSHOT_DTYPES[self.snapshot_dtype])

    def _stride(self, trainer: Any) -> int:
        """Optimizer steps between two snapshots, so that a period has a handful of them."""
        period: float = self.every_n_steps or 0
        if self.every_n_epochs is not None:
            batches = trainer.num_training_batches
            period = self.every_n_epochs * batches / trainer.accumulate_grad_batches
        # Epochs of unknown length start with every step; the record thins itself.
        return max(1, int(period / SNAPSHOTS_PER_PERIOD)) if math.isfinite(period) else 1

    def _record(self, module: Any) -> None:
        if self._sharded:
            self._trajectory.step(lambda: flat_shards(module, self._processes.rank))
        elif self._processes.leads:
            self._trajectory.step(lambda: flat_parameters(module))
        else:
            return
        self._time.step(self._trajectory)

    def _is_due(self, trainer: Any) -> bool:
        if self.every_n_steps is not None:
            # Not modulo: with several optimizers the counter goes up by more than one.
            return bool(trainer.global_step >= self._last_step + self.every_n_steps)
        ends = trainer.is_last_batch and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        return bool(ends and trainer.global_step != self._last_step)

    def _may_analyze(self, trainer: Any) -> bool:
        """Whether there is time for an analysis; the same answer in every process."""
        cost = self._longest
        times = LONGER if len(self.history) > 1 else LONGER_THAN_ONE
        wait, overhead = self._processes.share(
            (0.0 if cost is None else self._budget.wait(times * cost), self._budget.overhead())
        )
        if cost is None or wait <= 0:
            return True
        if "budget" not in self._said:
            self._said.add("budget")
            _tell(
                logging.INFO,
                f"{self._where(trainer)}: no analysis, the longest so far took {cost:.2g} s and "
                f"max_overhead={self.max_overhead:g} has room for another in {wait:.2g} s; what is "
                "due until then is left out",
            )
        self._scalars["morse/overhead"] = overhead
        self._publish(trainer)
        return False

    def _where(self, trainer: Any) -> str:
        if self.every_n_steps is not None:
            return f"step {trainer.global_step}"
        return f"epoch {trainer.current_epoch + 1}"

    def _analyze_and_tell(self, trainer: Any, pl_module: Any) -> None:
        where = self._where(trainer)
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        problem: Exception | None = None
        start = self._budget.now()
        with self._guarded("publishing"), preserved_random_state():
            try:
                found = self._analyze(pl_module, f"epoch {trainer.current_epoch + 1}")
            except Exception as error:
                if must_end_run(error):
                    raise
                problem = error
                self._scalars["morse/failed"] = 1.0
                goes_on = "" if self.on_error == "raise" else ", training goes on"
                message = f"no analysis{goes_on} ({cause(error)})"
                self._say_once(message, where, about=origin(error))
                _log.debug("the analysis that failed", exc_info=True)
            else:
                scalars, self._basins = found
                self._scalars.update(scalars)
                if self._processes.leads:
                    self._draw(trainer, step)
            took = self._budget.now() - start
            self._longest = max(took, self._longest or 0.0)
            # The times are those of the first process, so that all of them publish the same.
            seconds, overhead = self._processes.share((took, self._budget.overhead()))
            self._scalars["morse/overhead"] = overhead
            if problem is None:
                self._scalars["morse/seconds"] = seconds
                if seconds > SILENT and self._processes.leads:
                    _tell(logging.INFO, f"{where}: {self._summary()}")
            self._publish(trainer)
            named = self._named()
            row = {"step": step, "epoch": trainer.current_epoch, **named}
            self.history.append({**row, "basins": dict(self._basins)})
            if self._processes.leads:
                log_scalars(trainer, named, step, self._say_once)
        if problem is not None and self.on_error == "raise":
            raise problem

    def _analyze(self, module: Any, title: str) -> tuple[dict[str, float], dict[int, float]]:
        """Readings and certain basins, in every process; the analysis stays in the first."""
        processes = self._processes
        look: _Look | None = None

        def choose() -> AffineSubspace:
            nonlocal look
            look = self._look(module, flat_parameters(module), WHOLE)
            # Tensors on an accelerator would arrive on that of the sender.
            return look.subspace if processes.size == 1 else look.subspace.to("cpu")

        def choose_together() -> AffineSubspace:
            nonlocal look
            weights = flat_shards(module, processes.rank)
            look = self._look(module, weights, Shards(module, lockstep))
            return look.subspace

        if self._sharded:
            lockstep = Lockstep(processes, compute_device(module))
            subspace = lockstep.run(choose_together)
        else:
            subspace = processes.first(choose)
        loss = processes.each(lambda: self._loss_slice(module, subspace))
        if processes.size > 1 and not self._probes_before:
            self._probes_before = processes.gather(moved(self._probe, "cpu"))
        shared = SharedLoss(loss, loss.n_examples, processes)
        # Only the first process runs this, in which it is known.
        return shared.explore(lambda: self._explored(shared, look, title))  # type: ignore[arg-type]

    def _look(self, module: Any, weights: Tensor, rows: Whole) -> _Look:
        path = self._trajectory.up_to(weights)
        parameters = dict(trainable_parameters(module))
        chosen = self._source.slice_at(
            weights, path, parameters, lambda: self._shadow_loss(module), rows
        )
        if chosen.fallback:
            wanted = self._source.kind
            self._say_once(f"random directions instead of {wanted}: {chosen.fallback}")
        snapshots = self._trajectory.snapshots()
        return _Look(
            chosen,
            chosen.subspace.project(weights),
            chosen.subspace.project(snapshots),
            chosen.coverage(weights, snapshots),
        )

    def _shadow_loss(self, module: Any) -> ShadowLoss:
        return ShadowLoss(module, self._probe_set(), self.loss_fn, self.seed)

    def _loss_slice(self, module: Any, subspace: AffineSubspace) -> LossSlice:
        if self._sharded:
            return ShardedSlice(module, subspace, self._probe_set(), self.loss_fn, self.seed)
        subspace = subspace.to(trainable_parameters(module)[0][1].device)
        return LossSlice(
            module, subspace, self._probe_set(), self.loss_fn, self.seed, failing="nan"
        )

    def _probe_set(self) -> list[Any]:
        if not self._probe:
            raise RuntimeError("no training batch has passed by that could be the probe set")
        return self._probe

    def _explored(
        self, loss: Callable[[Tensor], Tensor], look: _Look, title: str
    ) -> tuple[dict[str, float], dict[int, float]]:
        """Make the analysis, and read off where training is in it.

        Returns:
            The readings, and the share of the box of each certain basin, by identity.
        """
        current, states = look.current.numpy(), look.trajectory.numpy()
        if self.dynamics == "trajectory":  # the loss is not looked at
            result = analyze_snapshots(
                states, self._half_widths(look.chosen), self.resolution, self.confidence, self.seed
            )
            now, of_training = math.nan, {}
        else:
            result, now = self._explored_loss(loss, look)
            of_training = self._of_training(result, states, current)
        # Maps of several snapshots are not one function, and of shards no process has the weights
        # that slices are compared by.
        if self.dynamics == "trajectory" or self._sharded:
            tracked = untracked(result, current)
        else:
            tracked = self._tracker.update(look.subspace, result, current)
        found = {
            **readings(result, current, now),
            "morse/explained": look.coverage.explained,
            "morse/residual": look.coverage.residual,
            "morse/identity_current": float(tracked.current),
            "morse/basin_switches": float(self._tracker.switches),
            "morse/failed": 0.0,
            **of_training,
        }
        self.result = result
        self._view = {
            "trajectory": states,
            "current": current,
            "axis_labels": axis_labels(look.chosen.kind, look.coverage.shares),
            "title": title,
            "identities": tracked.identities,
        }
        largest = sorted(result.basin_volumes.items(), key=lambda b: -b[1])[:MOST_BASINS]
        return found, {tracked.identities[a]: volume for a, volume in largest}

    def _explored_loss(
        self, loss: Callable[[Tensor], Tensor], look: _Look
    ) -> tuple[MorseAnalysis, float]:
        """Analyse the loss on a slice; and the loss where the weights are in it."""
        current = look.current
        now = float(loss(current[None])[0])
        half, samples, losses = sample_box(
            loss,
            self._half_widths(look.chosen),
            first_samples(self.n_samples),
            self.seed,
            current.numpy() if self._extent.grows else None,
        )
        result = analyze_further(
            loss,
            samples,
            losses,
            -half,
            half,
            self.n_samples + len(samples) - first_samples(self.n_samples),
            self.resolution,
            self.confidence,
            self.seed,
        )
        return result, now

    def _of_training(
        self, result: MorseAnalysis, states: Array, current: Array
    ) -> dict[str, float]:
        """Hold the snapshots against the flow of the slice, and read them by themselves if asked.

        What goes wrong here is no failed analysis.
        """
        found = before_first(self.dynamics)
        try:
            times = self._time.of(self._trajectory)
            found.update(flow_readings(flow_check(result, states, times)))
            if self.dynamics == "both":
                beside = analyze_snapshots(
                    states, result.grid.upper, self.resolution, self.confidence, self.seed
                )
                found.update(trajectory_readings(beside, current))
        except Exception as error:
            if must_end_run(error):
                raise
            self._say_once(f"no reading of the snapshots ({cause(error)})", about=origin(error))
        return found

    def _half_widths(self, chosen: Slice) -> Any:
        if self._extent.half is not None:
            return self._extent.half
        natural = None if chosen.natural is None else chosen.natural.numpy()
        at_least = chosen.kind == "random"
        margin = self._extent.margin
        return half_widths(chosen.inside.numpy(), natural, at_least=at_least, margin=margin)

    # ----------------------------------------------------------------- telling

    def _draw(self, trainer: Any, step: int) -> None:
        """Give away pictures and the table; what fails here is no failed analysis."""
        assert self.result is not None
        timed = {f"{self.name}/{k}" for k in ("seconds", "overhead")}  # not known yet
        facts = {k: v for k, v in self._named().items() if k not in timed}
        row = {"step": step, "epoch": trainer.current_epoch, **facts}
        try:
            figures = self._figures([*self.history, {**row, "basins": self._basins}])
        except Exception as error:
            self._say_once(f"drawing failed: {cause(error)}")
            figures = {}
        try:
            log_pictures(
                trainer, self.result, figures, row, step, self._say_once, self._folder, self.name
            )
        except Exception as error:
            self._say_once(f"logging pictures failed: {cause(error)}")

    def _named(self) -> dict[str, float]:
        """The scalars under the name of this monitor."""
        return {f"{self.name}/{k.split('/')[1]}": v for k, v in self._scalars.items()}

    def _publish(self, trainer: Any) -> None:
        metrics = trainer.callback_metrics  # asking for it gathers what modules have logged
        for name, value in self._named().items():
            metrics[name] = torch.tensor(value)

    def _summary(self) -> str:
        assert self.result is not None
        basin = int(self._scalars["morse/basin_current"])
        if basin >= 0:
            share = math.floor(100 * self.result.basin_volumes[basin])
            where = f"in basin {basin} ({share} % of the slice)"
        else:
            where = "leaving the box" if basin == ESCAPES else "basin undecided"
        mu = math.floor(1000 * self.result.mu) / 1000
        seconds = self._scalars["morse/seconds"]
        return f"{self.result.claim}, mu {mu:g}, {where}, {seconds:.1f} s"

    def _say_once(self, message: str, where: str = "MorseMonitor", about: str = "") -> None:
        if (about or message) not in self._said:
            self._said.add(about or message)
            _tell(logging.WARNING, f"{where}: {message}")

    def _guarded(self, what: str) -> _Guarded:
        """Count the time, and let nothing that goes wrong here end the run."""
        return _Guarded(self, what)


class _Guarded(Work):
    """Some work of a monitor, which must not end the run."""

    __slots__ = ("_monitor", "_what")

    def __init__(self, monitor: MorseMonitor, what: str) -> None:
        super().__init__(monitor._budget)
        self._monitor = monitor
        self._what = what

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        super().__exit__(kind, error, traceback)
        if error is None or self._monitor.on_error == "raise" or must_end_run(error):
            return False
        about = f"{self._what} {origin(error)}"
        self._monitor._say_once(f"{self._what} failed: {cause(error)}", about=about)
        return True


class _Look(NamedTuple):
    """The slice of an analysis, and where in it training is and has been."""

    chosen: Slice
    current: Tensor
    trajectory: Tensor
    coverage: Coverage

    @property
    def subspace(self) -> AffineSubspace:
        return self.chosen.subspace


def _is_silent(trainer: Any) -> bool:
    return bool(trainer.fast_dev_run)


@rank_zero_only
def _tell(level: int, message: str) -> None:
    _log.log(level, "%s", message)
