"""The Lightning callback: when to analyse, and what to tell the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from matplotlib.figure import Figure

from lightning_morse.callbacks._account import Account
from lightning_morse.callbacks._analyses import Analyses
from lightning_morse.callbacks._bulletin import Bulletin
from lightning_morse.callbacks._checks import check_name
from lightning_morse.callbacks._lightning import (
    Period,
    TrainerLike,
    callbacks_of,
    is_dry_run,
    learning_rate,
)
from lightning_morse.callbacks._messages import Messages
from lightning_morse.callbacks._painter import BROKEN_OFF
from lightning_morse.callbacks._run_folder import RunFolder
from lightning_morse.callbacks._schedule import Schedule
from lightning_morse.callbacks._telling import TellingCallback
from lightning_morse.distributed.errors import Guard
from lightning_morse.distributed.processes import Processes
from lightning_morse.monitoring.growth import Growth
from lightning_morse.monitoring.run_record import RunRecord
from lightning_morse.monitoring.settings import Settings
from lightning_morse.result import MorseAnalysis
from lightning_morse.slices.directions import Directions, DirectionSource, Weights
from lightning_morse.slices.isolation import unobserved


class MorseMonitor(TellingCallback):
    """Watch the attractors and basins of the loss around the weights while a run trains.

    Every period the loss is evaluated on a low-dimensional slice through the current weights, and
    :func:`lightning_morse.analyze` finds its Morse graph. The findings go to every logger, and to
    ``trainer.callback_metrics`` (for EarlyStopping, ModelCheckpoint and Optuna), under ``morse/``.
    "The box" is the part of the slice that is looked at.

    ======================= =====================================================================
    ``attractors``          number of attractors in the box; a lower bound unless ``unresolved``
                            is 0
    ``unresolved``          number of Morse sets that may hide a further attractor
    ``morse_sets``          number of Morse sets, attractors included
    ``mu``                  lower bound on the probability that the number of attractors is right,
                            the model's own doubt included; 0 where nothing is claimed about it
    ``mu_model``            the same bound given that the fitted model is right
    ``mu_smallest``         the same bound for the least certain attractor; 0 if there is none
    ``mu_current``          the same bound for the attractor of the current basin; 0 if unknown
    ``basin_current``       number of the attractor in whose basin the weights certainly lie,
                            within this analysis; -1 undecided, -2 they leave the box
    ``basin_switches``      lower bound on how often the weights have changed basins
    ``basin_forks``         how often two basins have been found where there was one
    ``identity_current``    as ``basin_current``, but numbered consistently from one analysis to
                            the next; -1 undecided, -2 they leave the box
    ``settled``             step of the first analysis in the basin of this same attractor since
                            which they were certainly in no other; -1 if they are in none for
                            certain. It does not say where the run will end
    ``exit_face``           face through which the weights leave the box along the mean flow, if
                            they certainly leave: twice the number of the axis, plus 1 at its upper
                            end; -1 if they do not, or the face is not known
    ``basin_max``           share of the box taken by the largest certain basin
    ``escape``              share of the box that certainly leaves it
    ``undecided``           share of the box about which nothing is certain
    ``finest``              width, as a share of the box, of the narrowest well that the samples
                            would have shown with probability 0.95
    ``barrier``             rise in loss from the current attractor to its lowest saddle; 0 if
                            unknown
    ``headroom``            current loss minus loss measured at the current attractor: what is left
                            to gain within the slice; 0 if unknown, or nothing lower is known
    ``sharpness``           lower bound, at ``confidence``, on the largest curvature of the loss at
                            the current weights, along directions of the slice, and hence on the
                            largest eigenvalue of the Hessian; 0 if nothing higher is certain
    ``sharpness_attractor`` the same at the current attractor; 0 if unknown
    ``sharpness_limit``     sharpness beyond which plain SGD, with momentum or without, is not
                            stable, such as 2 / learning rate; 0 with other optimizers
    ``sharpness_critical``  2 over the learning rate at which the loss stops falling along the last
                            displacement of the weights, measured; a step as the last ones climbs
                            where it is above 2 / learning rate, whatever the optimizer; 0 if
                            unknown (:mod:`lightning_morse.monitoring.critical`)
    ``explained``           share of the squared displacement of the trajectory inside the slice
    ``residual``            rms distance of the trajectory from the slice, weight-space units
    ``flow_angle``          mean angle between the motion of training in the slice and the
                            gradient flow there, radians
                            (:mod:`lightning_morse.monitoring.flow_check`); -1 if unknown
    ``flow_length``         distance covered by training, relative to the flow; -1 if unknown
    ``calibration``         factor by which residuals ask to inflate the surrogate's deviation; 1
                            is none
    ``age``                 steps since the analysis; in ``trainer.callback_metrics`` only
    ``seconds``             wall time of the last analysis, files included
    ``overhead``            share of the wall time since the start taken by the callback
    ``failed``              1 if the last analysis failed; the other values are then those of the
                            last one that succeeded, if any
    ======================= =====================================================================

    All are finite. They appear in ``trainer.callback_metrics`` with an analysis, none before the
    first, and are removed once callbacks have had the chance to look at them, after validation or
    at the end of the epoch; so the patience of an EarlyStopping counts analyses. It needs
    ``strict=False``, which the monitor sets, with a warning, where it finds otherwise. A key that a
    ModelCheckpoint watches stays, and is NaN before the first analysis; an EarlyStopping on the
    same key needs ``check_finite=False``. ``overhead`` and ``age`` are also there when a due
    analysis has been skipped for lack of time.

    TensorBoard also gets the figures ``morse/basins``, ``morse/graph`` and ``morse/merge`` (the
    confidence up to which attractors stay apart), from the second analysis on ``morse/timeline``
    (the course of the run), and ``morse/sets``: what becomes of the weights, in a sentence, and the
    table of Morse sets. Figures are drawn from records by a process of their own; they arrive a
    little later, under the step of their analysis, and the last ones at the end of ``fit``, as far
    as there is time (one line says what is left out, and ``lightning-morse report`` shows it). W&B
    and MLflow get the same figures, the table as a table, the sentence, and at the end of ``fit``
    the HTML report as an artifact. Without a logger that takes figures the same is written to
    ``morse/`` in the log directory as PNG, JSON and NumPy archive. Without any logger each run has
    a folder of its own, ``morse_runs/run_0`` and so on, below the Trainer's ``default_root_dir``.

    An attractor keeps its identity and colour from one analysis to the next where it can be
    recognised, and a change of basins is counted where a single slice proves it:
    :mod:`lightning_morse.monitoring.tracking` states the rule and its premise. For this the first
    process keeps one to three slices on the CPU, up to ``3 (dim + 1)`` weight vectors: with
    ``dim=2`` and 4-byte weights 12 to 36 bytes per weight in memory, on top of
    132 bytes per weight for the snapshots. Where that is more than ``max_memory``, less is kept.

    The loss is the one that training minimises: the module's own, on the first training batches of
    the run, with the batch statistics of each in layers that keep running ones (``batch_norm``),
    and without dropout or other noise, since all else is in eval mode. Each weighs by the batch
    size that the step logs with, or that the batch itself tells
    (:class:`~lightning_morse.slices.shadow_loss.ShadowLoss`). Nothing in the run changes but its
    wall time: not weights, buffers, gradients, optimizers, random number generators, the order of
    the data or the values that the module logs. A copy of the module is evaluated, in which
    stand-ins take the place of trainer, optimizers, schedulers, callbacks and loggers
    (:mod:`lightning_morse.slices.stand_ins`): a step can read from them, and what it writes to them
    is kept away from the run and reported once.

    If an analysis fails, the cause is logged and training goes on; so it does for all that only the
    network shows, such as no trainable weights, or manual optimisation without ``loss_fn`` and
    ``validation_step``. Modules with lazy parameters are analysed once these are initialised. A
    loss that raises at some point of the slice counts as diverged there; only the current weights
    have to work. So does one that asks to end the run (``sys.exit()``, Optuna's ``TrialPruned``);
    Ctrl-C and what signal handlers raise pass through.
    A resumed run is analysed in the same way: up to ``max_snapshots`` copies of the trainable
    weights and the probe batches are in files beside the other files of the run, and checkpoints
    hold their names (what is small is in the checkpoint itself). If the files are gone the record
    begins anew.

    On top of what it keeps an analysis needs memory for at most ``dim + 4`` copies of the trainable
    weights (the shadow copy, the weights, the point and the directions), plus one forward pass
    without gradients, whatever ``n_samples``. ``"gradient"`` needs the graph of one probe batch,
    and in more than one dimension the graph of its gradient; ``"hessian"`` needs these and
    ``2 dim + 6`` vectors in double precision.

    With several processes (DDP) each keeps its own first batches as its probe set. The loss is the
    mean over the examples of all processes, just as the gradient of the run is a mean over them.
    The first process chooses the points and makes the Morse graph; all publish the same values.
    Each process uses its own batch statistics, those of ``SyncBatchNorm`` too: not all processes
    evaluate the copy together in every case, and one that waits for another must not hang.

    Networks sharded by ``fully_shard`` (FSDP2, with Lightning's ``ModelParallelStrategy``) stay
    sharded: each process keeps its own rows of the snapshots and directions, and gathers the
    weights of one unit at a time during an evaluation. Evaluation is in float32 or better, whatever
    the ``MixedPrecisionPolicy``. ``directions`` must then be ``"pca"`` or ``"random"``. Snapshots
    are not in the checkpoint, so a resumed run starts a new record of its trajectory, and the
    identity of an attractor is its number within each analysis. Tensor parallel networks and FSDP1
    (``FSDPStrategy``) are not analysed; the monitor says so.

    Args:
        directions: Directions of the slice. ``"pca"``: principal directions of the trajectory, or
            ``"random"`` until it has three distinct snapshots. ``"random"``: filter-normalised
            random directions, the same throughout the run. ``"gradient"``: steepest descent, and
            the directions into which the Hessian turns it. ``"hessian"``: the eigenvectors whose
            eigenvalues are largest in absolute value. (Both for the loss on the probe set;
            ``"random"`` if it lacks these derivatives.) ``"checkpoints"``: the plane through
            ``checkpoints``. Or a tensor of shape ``(p, dim)`` for ``p`` trainable weights in the
            order of ``module.parameters()``; or a sequence of ``dim`` flat tensors, or mappings
            from parameter names to tensors (parameters left out stay fixed). Or a function that
            returns any of these tensors, called at each analysis as ``directions(module, batches)``
            with a copy of the module, in the modes in which it is evaluated, and the probe batches.
        dim: Dimension of the slice: 1, 2 or 3.
        every_n_epochs: Analyse at the end of every n-th epoch. A period that does not end in this
            run (``max_steps`` comes before) becomes one of steps; where the length of an epoch is
            unknown, as of a stream of data, it is one of steps as well until an epoch has ended.
            The monitor says which.
        every_n_steps: Analyse once the optimizer has taken n steps since the last analysis. With
            neither period the monitor chooses (:mod:`lightning_morse.monitoring.timetable`): often
            in the beginning and then evenly, at the ends of epochs, or within those that are long;
            every epoch with ``max_overhead=1``. The last weights are analysed in any case, as long
            as ``max_overhead`` allows.
        n_samples: Most loss evaluations of an analysis on its slice, at least 16; lines by which
            attractors are recognised come on top. ``"auto"``: as many as there is time for, 48 to
            320 with these lines (512 on three axes), beyond 112 only as long as it is open what
            becomes of the current weights; where there is no time for 48, part of the probe set,
            the same throughout the run, and 32 for the last weights.
        resolution: Grid cells per axis; ``"auto"`` is 128, or 64 where there is little time.
        confidence: Level of confidence at which the picture has to hold, in (0, 1).
        extent: Half-widths of the box in weight-space units, one number or one per axis. Or a
            percentage of the reach of the trajectory along each axis, such as ``"200%"`` (the reach
            of the given weights with ``"checkpoints"``); each half-width is at least a quarter of
            the longest, and with ``"random"`` at least the norm of the raw direction. ``"auto"``:
            start at ``"150%"``; where the flow from the current weights leaves through a face, that
            face moves outwards, up to 16 times the reach of the trajectory, and no farther than a
            positive loss falls to a ten-thousandth of what it is at the weights. Smaller boxes
            inside are opened for any extent, where the basin of the weights is not decided
            otherwise.
        loss_fn: ``loss_fn(module, batch)`` returns the mean loss of a batch, using the module it is
            given. Default: what ``training_step`` returns, or ``validation_step`` if only that is
            defined; with manual optimisation the one of the two that returns a loss,
            ``validation_step`` first.
        probe_batches: Number of training batches, the first of the run, to keep as probe set.
        max_snapshots: Most weight vectors to keep along the trajectory, on the CPU; at least 3.
            Where time is limited fewer are kept of networks with more than 4.5 million weights (14
            of 10 million, 8 of 17 million and more): each takes time.
        seed: Seed of the sampling design, the random directions, and whatever the loss draws.
        checkpoints: With ``directions="checkpoints"``: ``dim + 1`` weights, each a flat tensor of
            the trainable weights, a state dict, or the path of a checkpoint.
        max_overhead: Largest share of the time of training that the callback may take on top, in
            (0, 1]; 1 for no limit. Each analysis is planned from what earlier ones took, after the
            loss has been timed; it gets smaller, or waits, and stops sampling when its time is up.
            Time for the last weights is kept back.
        grace: Seconds, at least 0, that the callback may take in all beside that share, so that
            short runs see something.
        snapshot_dtype: Type of the weights kept along the trajectory: ``"float64"``, ``"float32"``,
            ``"bfloat16"`` or ``"float16"``. Half precision blurs the principal directions once
            steps are smaller than its rounding.
        on_error: ``"warn"``: log an analysis that fails, once per cause, and go on training.
            ``"raise"``: end the run. Also for what keeps the monitor from starting.
        name: Prefix of the metric names; the monitors of one Trainer need different ones.
        dynamics: ``"gradient"``: the gradient flow of the loss on the slice. ``"trajectory"``: the
            map from one snapshot of this run to the next, in the same plane; the loss is not
            evaluated. A single run says little
            (:mod:`lightning_morse.monitoring.snapshot_map`): ``trajectory_unknown`` is the share of
            the box of which it says too little, and what may get there is undecided. ``"both"``:
            the first, and beside it ``trajectory_attractors``, ``trajectory_mu``,
            ``trajectory_basin_current``, ``trajectory_undecided`` and ``trajectory_unknown`` from
            the second.
        batch_norm: ``"batch"``: layers that keep running statistics (batch norm, and instance norm
            that tracks them) use those of each batch, as in a training step, and update nothing.
            ``"running"``: they use the running ones, for the loss of the network as deployed.
            Layers that are in eval mode while the network trains always use the running ones.
        max_memory: Bytes that may be kept between analyses for snapshots and earlier slices, or a
            text such as ``"500MB"``; in each process that keeps a record. By default a tenth of
            what is free when ``fit`` begins (by the system, control groups and the limit on the
            address space), at most 2 GB. Fewer snapshots are kept as it asks, then fewer slices by
            which to recognise attractors, and half precision only where three snapshots do not fit
            otherwise (:class:`lightning_morse.monitoring.memory.Plan`); a line says what. If not
            even these fit, directions are random, scaled by the current weights.

    Attributes:
        period: How often analyses are due.
        settings: The other arguments, checked.

    Raises:
        ValueError: If an argument is out of range. What depends on the network (lengths, collinear
            directions, identical checkpoints, unsupported sharding) is checked when training
            starts, and dealt with as ``on_error`` says.

    Example:
        To end a run when ``mu`` has not improved over three analyses, that is 15 epochs:

        >>> from pytorch_lightning import Trainer
        >>> from pytorch_lightning.callbacks import EarlyStopping
        >>> stop = EarlyStopping("morse/mu", mode="max", patience=3, strict=False)
        >>> trainer = Trainer(callbacks=[MorseMonitor(every_n_epochs=5), stop], logger=False,
        ...                   enable_checkpointing=False)
    """

    def __init__(
        self,
        directions: Directions = "pca",
        dim: int = 2,
        *,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        n_samples: int | str = "auto",
        resolution: int | str = "auto",
        confidence: float = 0.95,
        extent: str | float | Sequence[float] = "auto",
        loss_fn: Callable[[Any, Any], Any] | None = None,
        probe_batches: int = 4,
        max_snapshots: int = 32,
        seed: int = 0,
        checkpoints: Sequence[Weights] | None = None,
        max_overhead: float = 0.05,
        grace: float = 2.0,
        snapshot_dtype: str = "float32",
        on_error: str = "warn",
        name: str = "morse",
        dynamics: str = "gradient",
        batch_norm: str = "batch",
        max_memory: int | str | None = None,
    ) -> None:
        super().__init__()
        self.period = Period.of(every_n_epochs, every_n_steps)
        self._automatic = every_n_epochs is None and every_n_steps is None
        self.settings = Settings(
            dim=dim,
            n_samples=n_samples,
            resolution=resolution,
            confidence=confidence,
            extent=extent,
            probe_batches=probe_batches,
            max_snapshots=max_snapshots,
            seed=seed,
            max_overhead=max_overhead,
            grace=grace,
            snapshot_dtype=snapshot_dtype,
            on_error=on_error,
            name=name,
            dynamics=dynamics,
            batch_norm=batch_norm,
            max_memory=max_memory,
        )
        if loss_fn is not None and not callable(loss_fn):
            raise ValueError(f"loss_fn must be callable as loss_fn(module, batch), got {loss_fn!r}")
        self.loss_fn = loss_fn
        self.name = name
        self.on_error = on_error
        self._source = DirectionSource(directions, dim, checkpoints, seed)
        self._messages = Messages("MorseMonitor")
        self._bulletin = Bulletin(name)
        self._run = RunRecord(self.settings, self._messages.warn)
        self._folder = RunFolder()
        self._account = Account(name, dynamics, self._messages, self._bulletin, self._folder)
        self._forget()

    def _forget(self) -> None:
        """Begin a run."""
        self._loaded = False
        self._account.forget()
        self._run.forget()
        self._folder.name = ""
        self._schedule = Schedule(self.period, self.settings, self._automatic)
        self._analyses = Analyses(
            settings=self.settings,
            source=self._source,
            loss_fn=self.loss_fn,
            run=self._run,
            schedule=self._schedule,
            account=self._account,
            bulletin=self._bulletin,
            messages=self._messages,
            on_error=self.on_error,
        )
        self._growth = Growth(self._schedule.budget.now)
        self._messages.forget()

    @property
    def result(self) -> MorseAnalysis | None:
        """The last analysis, None before the first; in the first process of several."""
        return self._account.result

    @property
    def sentence(self) -> str:
        """What training was doing at the last analysis, and what to do about it.

        The same words as in figures, tab and report. Empty before the first analysis, and in all
        processes but the first.
        """
        return self._account.view.verdict if self._account.view is not None else ""

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row per analysis: ``step``, ``epoch``, the published scalars, and what follows.

        ``basins`` are shares of the box of the 32 largest certain basins, by identity of attractor;
        ``loss`` is that of the weights on the probe set, None if it is unknown; ``why`` says why an
        analysis failed, and is empty if it did not.
        """
        return self._account.history

    @property
    def left_out(self) -> list[dict[str, Any]]:
        """What was due and not analysed, one row for each stretch between two analyses.

        ``step`` and ``epoch`` of the first, step of the last (``until``), their ``count``, ``why``.
        """
        return self._account.left_out

    # ------------------------------------------------------------------ hooks

    def on_fit_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Check what depends on the trainer; what depends on the network must not end the run."""
        super().on_fit_start(trainer, pl_module)
        others = [m for m in callbacks_of(trainer) if isinstance(m, MorseMonitor) and m is not self]
        check_name(self.name, [other.name for other in others])
        self._run.meet(Processes.of(trainer.world_size))
        # Asking for the log directory is an exchange between all processes, made only here.
        with self._guard("finding a folder"):
            self._folder.begin(trainer)

    def on_train_start(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Start the record, or go on with that of the same run."""
        goes_on = self._loaded or self._schedule.has_seen(trainer)
        if trainer.global_step == 0 or not goes_on:
            with unobserved():
                self._forget()
        self._loaded = False
        self._schedule.budget.start()
        with self._schedule.budget.work(), unobserved(), self._guard("starting"):
            self._bulletin.begin(trainer, self._messages)
            self._schedule.begin(trainer, self._messages, self._run.is_new)
            self._analyses.prepare(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: TrainerLike, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the first batches as the probe set, and note the learning rate of the next step."""
        with self._guard("reading the learning rate"):  # takes less time than to measure it
            self._run.time.rate = learning_rate(trainer.optimizers)
        if self._bulletin.has_news or self._run.wants_batches:
            self._before_batch(trainer, batch, batch_idx)

    def _before_batch(self, trainer: TrainerLike, batch: Any, batch_idx: int) -> None:
        """Do what there is to do before some batches."""
        with self._schedule.budget.work(), unobserved():
            with self._guard("taking values back"):
                self._bulletin.batch_starts(trainer)
            if not self._run.wants_batches or batch is None or is_dry_run(trainer):
                return
            with self._guard("keeping a probe batch"):
                # Fetching a batch of our own from the loader would change what training sees.
                self._run.add_batch(batch, batch_idx)

    def on_train_batch_end(
        self, trainer: TrainerLike, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the weights; analyse when a period is over."""
        if is_dry_run(trainer):
            return
        with self._schedule.budget.work():
            stepped = self._schedule.has_stepped(trainer, batch_idx)
            if self._account.painter.is_idle and self._analyses.only_counts(stepped=stepped):
                return
            self._after_batch(trainer, pl_module, stepped=stepped)

    def _after_batch(self, trainer: TrainerLike, pl_module: Any, *, stepped: bool) -> None:
        """Do what there is to do after some batches."""
        with unobserved():
            with self._guard("giving pictures away"):
                self._account.painter.collect()
            with self._guard("recording the trajectory"):
                self._analyses.record(trainer, pl_module, stepped=stepped)
            self._analyses.go_on(trainer, pl_module)
            if self._schedule.is_due(trainer):
                self._analyses.look(trainer, pl_module)
            if trainer.is_last_batch and (age := self._schedule.age(trainer)):
                self._bulletin.show(trainer, {"age": age})

    def on_validation_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Values have been looked at."""
        self._bulletin.validation_ends()

    def on_train_epoch_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Values may have been looked at."""
        self._bulletin.epoch_ends()

    def on_train_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Analyse the last weights, if there is time."""
        done = self._schedule.is_analysed(trainer)
        if done or not trainer.global_step or is_dry_run(trainer):
            return
        with self._schedule.budget.work(), unobserved():
            self._analyses.look(trainer, pl_module, ended=True)

    def on_fit_end(self, trainer: TrainerLike, pl_module: Any) -> None:
        """Give the report of the run away, and wait for the last pictures if there is time."""
        budget = self._schedule.budget
        with budget.work(), unobserved():
            with self._guard("ending a process"):
                self._analyses.give_up()
            # It needs no pictures: these are drawn meanwhile.
            if self._run.processes.leads and not is_dry_run(trainer):
                self._account.report(trainer, budget.room())
            with self._guard("giving pictures away"):
                room = self._schedule.room_for_figures(is_first=not self._account.painter.seconds)
                self._account.painter.finish(max(0.0, room))
        budget.stop()

    def on_exception(self, trainer: TrainerLike, pl_module: Any, exception: BaseException) -> None:
        """Give away the pictures that are there."""
        with self._guard("ending a process"):
            self._analyses.give_up()
        with self._guard("giving pictures away"):
            self._account.painter.finish(patience=0, why=BROKEN_OFF)
        self._schedule.budget.stop()
        super().on_exception(trainer, pl_module, exception)

    # ------------------------------------------------------------------ state

    @cached_property  # the trainer asks for it before every hook
    def state_key(self) -> str:
        """Tells the states of several monitors in one checkpoint apart."""
        return self._generate_state_key(
            name=self.name,
            directions=self._source.kind,
            dim=self.settings.dim,
            every_n_epochs=self.period.epochs,
            every_n_steps=self.period.steps,
            seed=self.settings.seed,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors and plain containers."""
        folder, budget = None, self._schedule.budget
        with budget.work(), unobserved():
            with self._guard("finding a folder for the record"):
                if self._run.processes.leads:
                    folder = self._folder.of_state(self.name)
            state = {
                **self._run.state_dict(folder),
                **self._schedule.state_dict(),
                **self._account.state_dict(),
                "run_folder": self._folder.name,
            }
            budget.charge(self._growth.seconds(state))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint of this version or of 0.1."""
        with unobserved():
            self._forget()
            self._run.load_state_dict(state_dict)
        self._loaded = True
        self._schedule.load_state_dict(state_dict)
        self._account.load_state_dict(state_dict)
        self._folder.name = state_dict.get("run_folder", "")  # not in checkpoints of 0.1

    def figures(self) -> dict[str, Figure]:
        """Draw the last analysis: ``"basins"``, ``"graph"`` and ``"merge"``, matplotlib figures.

        From the second analysis on also ``"timeline"``, the run so far, with what failed or was
        left out.

        Raises:
            RuntimeError: If there has been no analysis in this process.
        """
        return self._account.figures()

    def _guard(self, what: str) -> Guard:
        """Keep failures from ending the run, unless the user wants them to."""
        return self._analyses.guard(what)
