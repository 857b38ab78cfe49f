"""The Lightning callback: when to analyse, and what to tell the trainer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from lightning_utilities.core.rank_zero import rank_zero_only
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lightning_morse.analysis import analyze_further
from lightning_morse.box import half_widths, sample_box
from lightning_morse.directions import Directions, DirectionSource, Slice, Weights, axis_labels
from lightning_morse.log_sinks import log_pictures, log_scalars
from lightning_morse.loss_slice import LossSlice, flat_parameters, trainable_parameters
from lightning_morse.merge_diagram import plot_merge_diagram
from lightning_morse.plotting import plot_basins, plot_morse_graph
from lightning_morse.record import ESCAPES, UNDECIDED, MorseAnalysis
from lightning_morse.sampling import FEWEST_SAMPLES, first_samples
from lightning_morse.trajectory import Trajectory

try:  # the same Lightning under its other name: a Trainer from there wants its own Callback
    from lightning.pytorch import Callback as _UnifiedCallback
except ImportError:

    class _UnifiedCallback:  # type: ignore[no-redef]
        """Stands in for it."""


SNAPSHOTS_PER_PERIOD = 8
# An analysis that takes longer, in seconds, says so in a line.
SILENT = 1.0

# Loggers keep single precision, in which a bound on a probability must not become 1.
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))

# Every value is finite from the first step on: EarlyStopping ends a run on NaN or a missing key.
BEFORE_FIRST = {
    "morse/attractors": 0.0,
    "morse/unresolved": 0.0,
    "morse/morse_sets": 0.0,
    "morse/mu": 0.0,
    "morse/mu_smallest": 0.0,
    "morse/mu_current": 0.0,
    "morse/basin_current": float(UNDECIDED),
    "morse/basin_max": 0.0,
    "morse/escape": 0.0,
    "morse/undecided": 1.0,
    "morse/barrier": 0.0,
    "morse/headroom": 0.0,
    "morse/explained": 0.0,
    "morse/residual": 0.0,
    "morse/calibration": 0.0,
    "morse/seconds": 0.0,
    "morse/overhead": 0.0,
    "morse/failed": 0.0,
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
    ``basin_current``       number of the attractor in whose basin the weights certainly lie; -1
                            undecided, -2 they leave the box
    ``basin_max``           share of the box of the largest certain basin
    ``escape``              share of the box that certainly leaves it
    ``undecided``           share of the box of which nothing is certain
    ``barrier``             loss from the current attractor to its lowest saddle; 0 if unknown
    ``headroom``            loss now minus loss at the current attractor; 0 if unknown
    ``explained``           share of the squared trajectory displacement inside the slice
    ``residual``            rms distance of the trajectory from the slice, weight-space units
    ``calibration``         inflation of the surrogate that its residuals ask for; 1 is none
    ``seconds``             wall time of the last analysis, its figures included
    ``overhead``            share of the wall time since the start that the callback has taken
    ``failed``              1 if the last analysis failed; the other values are then the last good
                            ones
    ======================= =====================================================================

    All of them are finite from the start of training on. TensorBoard also gets the figures
    ``morse/basins``, ``morse/graph`` and ``morse/merge`` (up to which confidence the attractors
    stand) and the table ``morse/sets``; without it the same is written to ``morse/`` under the log
    directory as PNG, JSON and NumPy archive.

    The loss is the module's own in eval mode, on the first training batches that passed by. Nothing
    of the run is changed but its wall time: not weights, buffers, gradients, optimizers, random
    number generators, data order or the values the module logs. An analysis that fails is logged
    with its cause, and training goes on. In checkpoints the callback keeps up to ``max_snapshots``
    copies of the trainable weights and the probe batches, so that a resumed run looks at the same.

    Args:
        directions: Directions of the slice. ``"pca"``: principal directions of the trajectory,
            ``"random"`` before it has three distinct snapshots. ``"random"``: filter-normalised,
            the same all through the run. ``"checkpoints"``: the plane through ``checkpoints``. Or
            a tensor of shape ``(p, dim)`` for ``p`` trainable weights in the order of
            ``module.parameters()``, or a sequence of ``dim`` flat tensors or mappings from
            parameter names to tensors (names left out do not move).
        dim: Dimension of the slice: 1, 2 or 3.
        every_n_epochs: Analyse at the end of every so many epochs; 1 if neither period is given.
        every_n_steps: Analyse when the optimizer has made so many steps since the last analysis.
        n_samples: Loss evaluations an analysis, each over all probe batches; at least 16. A box
            that has to grow costs up to half as many again.
        resolution: Grid cells an axis.
        confidence: The level at which the picture has to be true, in (0, 1).
        extent: Half-widths of the box in weight-space units, one number or one an axis. ``"auto"``:
            1.5 times the reach of the trajectory (the given weights with ``"checkpoints"``; at
            least the norm of the raw directions with ``"random"``) on each axis, at least a quarter
            of the longest; doubled, at most twice, while the lowest sampled loss lies on its edge.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch; it must use the module
            it is given. Default: what ``training_step`` returns, or ``validation_step`` where only
            that is defined.
        probe_batches: How many of the first training batches to keep as the probe set.
        max_snapshots: How many weights along the trajectory to keep, on the CPU; at least 3.
        seed: Of the design, the random directions and whatever the loss draws.
        checkpoints: With ``directions="checkpoints"``: ``dim + 1`` weights, each a flat tensor of
            the trainable weights, a state dict, or the path of a checkpoint.

    Attributes:
        result: The last analysis, None before the first.
        history: One row an analysis: ``step``, ``epoch`` and the scalars.

    Raises:
        ValueError: If an argument is out of range; what can only be seen with the network
            (lengths, collinear directions, identical checkpoints) when training starts.

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
    ) -> None:
        super().__init__()
        if every_n_epochs is not None and every_n_steps is not None:
            raise ValueError(
                f"every_n_epochs and every_n_steps exclude each other, got {every_n_epochs!r} and "
                f"{every_n_steps!r}. Leave one of them out"
            )
        if every_n_steps is None and every_n_epochs is None:
            every_n_epochs = 1
        for name, value, least in (
            ("dim", dim, 1),
            ("every_n_epochs", every_n_epochs, 1),
            ("every_n_steps", every_n_steps, 1),
            ("n_samples", n_samples, FEWEST_SAMPLES),
            ("resolution", resolution, 4),
            ("probe_batches", probe_batches, 1),
            ("max_snapshots", max_snapshots, 3),
            ("seed", seed, 0),
        ):
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if dim > 3:
            raise ValueError(
                f"dim must be 1, 2 or 3, got {dim}: the cells of a grid grow with its power"
            )
        if not isinstance(confidence, int | float) or not 0 < confidence < 1:
            raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence!r}")
        if loss_fn is not None and not callable(loss_fn):
            raise ValueError(f"loss_fn must be callable as loss_fn(module, batch), got {loss_fn!r}")
        self.dim = dim
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.n_samples = n_samples
        self.resolution = resolution
        self.confidence = confidence
        self.extent = extent
        self._given_half = _given_half_widths(extent, dim)
        self.loss_fn = loss_fn
        self.probe_batches = probe_batches
        self.max_snapshots = max_snapshots
        self.seed = seed
        self.result: MorseAnalysis | None = None
        self.history: list[dict[str, float]] = []
        self._source = DirectionSource(directions, dim, checkpoints, seed)
        self._view: dict[str, Any] = {}
        self._clock_start = self._spent = 0.0
        self._forget()

    def _forget(self) -> None:
        """Begin a run."""
        self.result = None
        self.history = []
        self._scalars = dict(BEFORE_FIRST)
        self._trajectory = Trajectory(self.max_snapshots)
        self._probe: list[Any] = []
        self._last_step = 0
        self._seen_step = 0
        self._said: set[str] = set()

    # ------------------------------------------------------------------ hooks

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the directions against the network."""
        if self.loss_fn is None and not pl_module.automatic_optimization:
            raise ValueError(
                f"loss_fn must be given for a module with manual optimization such as "
                f"{type(pl_module).__name__}, got None. Pass loss_fn(module, batch) that returns "
                "the loss to look at"
            )
        self._source.bind(dict(trainable_parameters(pl_module)))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Publish first values, so that other callbacks find their keys, and start the record."""
        self._clock_start, self._spent = time.perf_counter(), 0.0
        with self._guarded("starting"):
            if trainer.global_step == 0:
                self._forget()
            if not len(self._trajectory):
                self._last_step = trainer.global_step
                self._trajectory = Trajectory(self.max_snapshots, self._stride(trainer))
                self._trajectory.step(lambda: flat_parameters(pl_module))
            self._seen_step = trainer.global_step
            self._probe = _moved(self._probe, pl_module.device)
            self._publish(trainer)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the first batches as the probe set."""
        if len(self._probe) >= self.probe_batches or batch is None or _is_silent(trainer):
            return
        with self._guarded("keeping a probe batch"):
            # Fetching a batch of our own from the loader would change what training sees.
            self._probe.append(_copied(batch))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the weights; analyse when a period is over."""
        if _is_silent(trainer):
            return
        if trainer.global_step != self._seen_step:  # else gradients were only accumulated
            self._seen_step = trainer.global_step
            with self._guarded("recording the trajectory"):
                if self._trajectory.n_parameters != _count(pl_module):
                    self._trajectory = Trajectory(self.max_snapshots, self._stride(trainer))
                self._trajectory.step(lambda: flat_parameters(pl_module))
        if self._is_due(trainer):
            self._last_step = trainer.global_step
            self._analyze_and_tell(trainer, pl_module)

    # ------------------------------------------------------------------ state

    @property
    def state_key(self) -> str:
        """Tells the states of several monitors in one checkpoint apart."""
        return self._generate_state_key(
            directions=self._source.kind,
            dim=self.dim,
            every_n_epochs=self.every_n_epochs,
            every_n_steps=self.every_n_steps,
            seed=self.seed,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors and plain containers."""
        return {
            "trajectory": self._trajectory.state_dict(),
            "probe": _moved(self._probe, "cpu") if _is_plain(self._probe) else [],
            "last_step": self._last_step,
            "scalars": dict(self._scalars),
            "history": [dict(row) for row in self.history],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._forget()
        self._trajectory.load_state_dict(state_dict["trajectory"])
        self._probe = list(state_dict["probe"])[: self.probe_batches]
        self._last_step = state_dict["last_step"]
        self._scalars = {**BEFORE_FIRST, **state_dict["scalars"]}
        self.history = [dict(row) for row in state_dict["history"]]

    # --------------------------------------------------------------- pictures

    def figures(self) -> dict[str, Figure]:
        """Draw the last analysis: ``"basins"``, ``"graph"`` and ``"merge"``, matplotlib figures.

        Raises:
            RuntimeError: If there has been no analysis in this process.
        """
        if self.result is None:
            raise RuntimeError("there has been no analysis yet, so there is nothing to draw")
        return {
            "basins": plot_basins(self.result, **self._view),
            "graph": plot_morse_graph(self.result),
            "merge": plot_merge_diagram(self.result),
        }

    # --------------------------------------------------------------- analysis

    def _stride(self, trainer: Any) -> int:
        """Optimizer steps between two snapshots, so that a period has a handful of them."""
        period: float = self.every_n_steps or 0
        if self.every_n_epochs is not None:
            batches = trainer.num_training_batches
            period = self.every_n_epochs * batches / trainer.accumulate_grad_batches
        # Epochs of unknown length start with every step; the record thins itself.
        return max(1, int(period / SNAPSHOTS_PER_PERIOD)) if math.isfinite(period) else 1

    def _is_due(self, trainer: Any) -> bool:
        if self.every_n_steps is not None:
            # Not modulo: with several optimizers the counter goes up by more than one.
            return bool(trainer.global_step >= self._last_step + self.every_n_steps)
        ends = trainer.is_last_batch and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        return bool(ends and trainer.global_step != self._last_step)

    def _analyze_and_tell(self, trainer: Any, pl_module: Any) -> None:
        where = f"epoch {trainer.current_epoch + 1}"
        if self.every_n_steps is not None:
            where = f"step {trainer.global_step}"
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        with self._guarded("publishing"):
            start = time.perf_counter()
            try:
                if trainer.world_size > 1:
                    raise NotImplementedError(
                        f"runs with {trainer.world_size} processes are not analysed yet"
                    )
                found = self._analyze(pl_module, f"epoch {trainer.current_epoch + 1}")
            except Exception as error:
                cause = f"{type(error).__name__}: {error}"
                self._say_once(f"no analysis, training goes on ({cause})", where)
                _log.debug("the analysis that failed", exc_info=True)
                self._scalars["morse/failed"] = 1.0
            else:
                self._scalars.update(found)
                self._draw(trainer, step)
                self._scalars["morse/seconds"] = time.perf_counter() - start
                if time.perf_counter() - start > SILENT:
                    _tell(logging.INFO, f"{where}: {self._summary()}")
            now = time.perf_counter()
            spent, elapsed = self._spent + now - start, now - self._clock_start
            self._scalars["morse/overhead"] = spent / max(spent, elapsed)
            self._publish(trainer)
            self.history.append({"step": step, "epoch": trainer.current_epoch, **self._scalars})
            if trainer.is_global_zero:
                log_scalars(trainer, self._scalars, step, self._say_once)

    def _analyze(self, module: Any, title: str) -> dict[str, float]:
        if not self._probe:
            raise RuntimeError("no training batch has passed by that could be the probe set")
        weights = flat_parameters(module)
        snapshots = self._trajectory.snapshots()
        shapes = [p.shape for _, p in trainable_parameters(module)]
        chosen = self._source.slice_at(weights, snapshots, shapes)
        if chosen.fallback:
            self._say_once(f"random directions instead of pca: {chosen.fallback}")
        loss = LossSlice(module, chosen.subspace, self._probe, self.loss_fn, self.seed)
        half, samples, losses = sample_box(
            loss,
            self._half_widths(chosen),
            first_samples(self.n_samples),
            self.seed,
            grow=self._given_half is None,
        )
        result = analyze_further(
            loss,
            samples,
            losses,
            -half,
            half,
            self.n_samples,
            self.resolution,
            self.confidence,
            self.seed,
        )
        current = chosen.subspace.project(weights)
        now = float(loss(current[None])[0]) if current.any() else float(losses[0])
        coverage = chosen.coverage(weights, snapshots)
        readings = {
            **_readings(result, current.numpy(), now),
            "morse/explained": coverage.explained,
            "morse/residual": coverage.residual,
            "morse/failed": 0.0,
        }
        self.result = result
        self._view = {
            "trajectory": chosen.subspace.project(snapshots).numpy(),
            "current": current.numpy(),
            "axis_labels": axis_labels(chosen.kind, coverage.shares),
            "title": title,
        }
        return readings

    def _half_widths(self, chosen: Slice) -> Any:
        if self._given_half is not None:
            return self._given_half
        natural = None if chosen.natural is None else chosen.natural.numpy()
        return half_widths(chosen.inside.numpy(), natural, at_least=chosen.kind == "random")

    # ----------------------------------------------------------------- telling

    def _draw(self, trainer: Any, step: int) -> None:
        assert self.result is not None
        try:
            figures = self.figures()
        except Exception as error:
            self._say_once(f"drawing failed: {type(error).__name__}: {error}")
            figures = {}
        timed = ("morse/seconds", "morse/overhead")  # not known yet
        facts = {k: v for k, v in self._scalars.items() if k not in timed}
        row = {"step": step, "epoch": trainer.current_epoch, **facts}
        log_pictures(trainer, self.result, figures, row, step, self._say_once)

    def _publish(self, trainer: Any) -> None:
        for name, value in self._scalars.items():
            trainer.callback_metrics[name] = torch.tensor(value)

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

    def _say_once(self, message: str, where: str = "MorseMonitor") -> None:
        if message not in self._said:
            self._said.add(message)
            _tell(logging.WARNING, f"{where}: {message}")

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Count the time, and let nothing that goes wrong here end the run."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            self._say_once(f"{what} failed: {type(error).__name__}: {error}")
        finally:
            self._spent += time.perf_counter() - start


def _given_half_widths(extent: str | float | Sequence[float], dim: int) -> Any:
    """Half-widths the user gave, shape ``(dim,)``; None for "auto"."""
    if isinstance(extent, str) and extent == "auto":
        return None
    try:
        half = np.array(extent, dtype=np.float64)
    except (TypeError, ValueError):
        half = np.array(np.nan)
    if half.shape not in ((), (dim,)) or not np.isfinite(half).all() or not (half > 0).all():
        raise ValueError(
            f"extent must be 'auto', a positive half-width, or {dim} of them for the {dim} axes, "
            f"got {extent!r}"
        )
    return np.broadcast_to(half, (dim,))


def _readings(
    result: MorseAnalysis, current: NDArray[np.float64], loss_now: float
) -> dict[str, float]:
    """The scalars that an analysis gives at the current point, all of them finite."""
    basin = int(result.basin_of(current[None])[0])
    barrier = headroom = mu_current = 0.0
    if basin >= 0:
        mu_current = result.morse_sets[basin].mu or 0.0
        barrier = result.barrier(basin)
        headroom = loss_now - result.morse_sets[basin].loss
    readings = {
        "morse/attractors": float(result.n_attractors),
        "morse/unresolved": float(result.n_unresolved),
        "morse/morse_sets": float(result.n_morse_sets),
        "morse/mu": min(result.mu, _BELOW_ONE),
        "morse/mu_smallest": min([*_mus(result), _BELOW_ONE]) if result.n_attractors else 0.0,
        "morse/mu_current": min(mu_current, _BELOW_ONE),
        "morse/basin_current": float(basin),
        "morse/basin_max": max(result.basin_volumes.values(), default=0.0),
        "morse/escape": result.escape,
        "morse/undecided": result.undecided,
        "morse/barrier": barrier,
        "morse/headroom": headroom,
        "morse/calibration": result.calibration,
    }
    return {k: float(v) if math.isfinite(v) else BEFORE_FIRST[k] for k, v in readings.items()}


def _mus(result: MorseAnalysis) -> list[float]:
    return [result.morse_sets[i].mu or 0.0 for i in result.attractors]


def _is_silent(trainer: Any) -> bool:
    return bool(trainer.fast_dev_run)


def _count(module: Any) -> int:
    return sum(p.numel() for _, p in trainable_parameters(module))


def _copied(batch: Any) -> Any:
    """A copy that nothing done to the batch can reach; views do not drag their storage along."""
    clone = apply_to_collection(batch, Tensor, lambda t: t.detach().clone(), allow_frozen=True)
    return deepcopy(clone)


def _moved(batches: list[Any], device: Any) -> list[Any]:
    return [
        apply_to_collection(b, Tensor, lambda t: t.to(device), allow_frozen=True) for b in batches
    ]


def _is_plain(data: Any) -> bool:
    """Whether ``torch.load(..., weights_only=True)`` will read it back."""
    if type(data) in (list, tuple):
        return all(map(_is_plain, data))
    if type(data) is dict:
        return all(map(_is_plain, data)) and all(map(_is_plain, data.values()))
    return type(data) in (Tensor, int, float, str, bool, type(None))


@rank_zero_only
def _tell(level: int, message: str) -> None:
    _log.log(level, "%s", message)
