"""One process of the sharded runs of tests/distributed/test_fsdp.py: runs, checks and reports."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import Shard, distribute_tensor

from lightning_morse import AffineSubspace, LossSlice
from lightning_morse.distributed.errors import ProcessError
from lightning_morse.distributed.processes import Lockstep, Processes
from lightning_morse.distributed.sharded_slice import ShardedSlice
from lightning_morse.distributed.sharding import check_sharding, flat_shards, is_sharded
from lightning_morse.distributed.shards import Shards
from lightning_morse.slices.bases import orthonormal_columns, pca_directions, random_directions
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.steps import loss_from_steps
from tests.callback_models import draw_nothing, loader, monitor, rng_state, seed_all

RANK = int(os.environ["LOCAL_RANK"])
SIZE = int(sys.argv[1])
ROOT = Path(sys.argv[2])
TIME_LIMIT = timedelta(seconds=60)


class Meter:
    """An attribute that training changes and that is not a container."""

    def __init__(self) -> None:
        self.calls = 0


class Net(pl.LightningModule):
    """Units of several kinds, uneven shards, a frozen layer, buffers, and a bookkeeping step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, 1)
        )
        self.fixed = nn.Linear(1, 1)
        self.fixed.requires_grad_(False)
        self.seen: list[float] = []
        self.meter = Meter()

    def configure_model(self) -> None:
        if is_sharded(self):
            return
        mesh = self.device_mesh["data_parallel"]
        for part in (self.net[0], self.net[4], self.fixed, self.net):
            fully_shard(part, mesh=mesh)

    def predict(self, x):
        return self.fixed(self.net(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.seen.append(float(x.sum()))
        self.meter.calls += 1
        loss = nn.functional.mse_loss(self.predict(x), y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", nn.functional.mse_loss(self.predict(x), y), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.02)


class RootNet(Net):
    """The module itself is the outer unit; its training step is registered with FSDP."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, 1))

    def configure_model(self) -> None:
        if is_sharded(self):
            return
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        for part in (self.net[0], self):
            fully_shard(part, mesh=self.device_mesh["data_parallel"], mp_policy=half)
        register_fsdp_forward_method(self, "training_step")
        register_fsdp_forward_method(self, "validation_step")


# Of each loss that fails, by its number: its own count would be that of a copy, and one that is a
# global variable would be put back.
CALLS: list[SimpleQueue[None]] = []


class Fails:
    """A loss that fails in one process, in the second analysis, before or within the network."""

    def __init__(self, rank: int, error: Exception, call: int = 5, *, within: bool = False) -> None:
        self.rank, self.error, self.call, self.within = rank, error, call, within
        self.number = len(CALLS)
        CALLS.append(SimpleQueue())

    def __call__(self, module, batch):
        if self.watch.history and self.rank == RANK:
            CALLS[self.number].put(None)
            if CALLS[self.number].qsize() == self.call:
                if not self.within:
                    raise self.error
                module.net[2].register_forward_pre_hook(self.fail)
        return loss_from_steps(module, batch)

    def fail(self, *_):
        raise self.error


class Branches(Fails):
    """A loss that takes different branches in different processes."""

    def __call__(self, module, batch):
        if self.watch.history and self.rank == RANK:
            return module.fixed(batch[1]).mean()
        return loss_from_steps(module, batch)


class Catches(Fails):
    """A loss that catches every error."""

    def __call__(self, module, batch):
        try:
            return super().__call__(module, batch)
        except Exception:
            if self.rank == RANK:
                raise
            return torch.tensor(1.0)


class AtTheEnd(pl.Callback):
    """Loss of the sharded network itself on the probe batches, and its state at the end."""

    def __init__(self, watch) -> None:
        self.watch = watch
        self.facts: dict[str, object] = {}

    def on_train_end(self, trainer, module):
        for part in module.modules():
            if isinstance(part, FSDPModule):  # validation leaves the outer unit with full weights
                part.reshard()
        optimizer = trainer.optimizers[0].state_dict()["state"]
        self.facts = {
            "weights": [local(p).tolist() for p in module.parameters()],
            "gradients": [
                None if p.grad is None else local(p.grad).tolist() for p in module.parameters()
            ],
            "buffers": [b.tolist() for b in module.buffers()],
            "optimizer": [local(v).tolist() for s in optimizer.values() for v in s.values()],
            "modes": [part.training for part in module.modules()],
        }
        if self.watch is not None and not isinstance(module, RootNet):
            modes = [part.training for part in module.modules()]
            module.eval()
            norm = module.net[1]
            norm.training, norm.track_running_stats = True, False
            with torch.no_grad():
                losses = [
                    float((module.predict(x) - y).square().mean()) for x, y in self.watch._run.probe
                ]
            norm.track_running_stats = True
            self.facts["own_loss"] = sum(losses) / len(losses)
            for part, mode in zip(module.modules(), modes, strict=True):
                part.training = mode


def local(tensor):
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor.detach()


def run(name, watch=None, kind=Net, epochs=3, ckpt_path=None, keep=False):
    seed_all()
    if watch is not None and isinstance(watch.loss_fn, Fails):
        watch.loss_fn.watch = watch
    end = AtTheEnd(watch)
    callbacks = [watch, end] if watch else [end]
    if keep:
        callbacks.append(ModelCheckpoint(dirpath=ROOT / name, save_last=True))
    module = kind()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=SIZE,
        strategy=ModelParallelStrategy(
            data_parallel_size=SIZE,
            tensor_parallel_size=1,
            process_group_backend="gloo",
            timeout=TIME_LIMIT,
        ),
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=keep,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(ROOT / name),
    )
    ended = ""
    try:
        trainer.fit(module, loader(), loader(16, shuffle=False), ckpt_path=ckpt_path)
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    facts = {
        **end.facts,
        "seen": module.seen,
        "meter": module.meter.calls,
        "generators": str(rng_state()),
        "logged": {k: v for k, v in metrics.items() if not k.startswith("morse/")},
        "ended": ended,
    }
    if watch is not None:
        facts["metrics"] = {k: v for k, v in metrics.items() if k.startswith("morse/")}
        facts["history"] = watch.history
        facts["found"] = watch.result is not None
        facts["snapshots"] = list(watch._run.trajectory._rows.shape)
        facts["n_snapshots"] = len(watch._run.trajectory)
        facts["saved"] = len(watch.state_dict()["trajectory"]["snapshots"])
        if watch.result is not None:
            facts["centre_loss"] = float(watch.result.sample_losses[0])
    write(name, facts)


def write(name, facts):
    (ROOT / f"{name}-{RANK}.json").write_text(json.dumps(facts))


def small(**options):
    return monitor(**{"n_samples": 16, "resolution": 8, "dim": 1, **options})


# ---------------------------------------------------------------- against the whole


class Block(nn.Module):
    """Two branches, a matrix with fewer rows than there may be processes, an unsharded bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(4, 6, bias=False)
        self.last = nn.Linear(6, 1)
        self.shift = nn.Parameter(torch.tensor([0.3]))
        self.last.bias.requires_grad_(False)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)) + self.second(x).sin()) + self.shift


def sharded_block(how):
    """A block, and the same block sharded in one of several ways."""
    seed_all(3)
    whole = Block()
    seed_all(3)
    block = Block()
    if how == "half":
        whole, block = whole.bfloat16(), block.bfloat16()
    if how == "columns":
        mesh = init_device_mesh("cpu", (SIZE,))
        placed = {"shard_placement_fn": lambda p: Shard(1) if p.ndim > 1 else Shard(0)}
    else:
        shape = {"rows": (SIZE,), "half": (SIZE,), "copies": (SIZE, 1), "hybrid": (1, SIZE)}[how]
        names = ("copies", "shards")[-len(shape) :]
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        placed = {}
    for part in (block.first, block.second):
        fully_shard(part, mesh=mesh, **placed)
    fully_shard(block, mesh=mesh, ignored_params={block.shift}, **placed)
    return whole, block


def mse(module, batch):
    return nn.functional.mse_loss(module(batch[0]), batch[1])


def error(found, expected):
    return float((found - expected).abs().max()) if found.numel() else 0.0


class Pair:
    """A sharded block beside the whole, with a trajectory of both."""

    def __init__(self, whole, block, shards, generator):
        self.shards = shards
        self.weights = [p for p in whole.parameters() if p.requires_grad]
        self.shapes = [p.shape for p in self.weights]
        self.theta = flat_parameters(whole)
        steps = torch.randn(6, len(self.theta), generator=generator)
        self.path = self.theta + 0.1 * steps.cumsum(0)
        self.here = flat_shards(block, RANK)
        self.local_path = torch.stack([self.mine(row) for row in self.path])

    def mine(self, flat):
        """The rows of this process of flat weights of the whole."""
        parts = zip(
            self.shards.trainable, flat.split([s.numel() for s in self.shapes]), strict=True
        )
        layouts = self.shards._layouts
        pieces = [layouts[n].piece(p.view(layouts[n].shape), RANK) for n, p in parts]
        return torch.cat([piece.reshape(-1) for piece in pieces])

    def columns(self, whole):
        return torch.stack([self.mine(column) for column in whole.T], dim=1)

    def planes(self):
        """The plane of the trajectory, of the whole and of this process's rows."""
        columns = pca_directions(self.path, 2)
        spread = AffineSubspace(self.here, self.columns(columns), self.shards)
        return AffineSubspace(self.theta, columns), spread

    def of_directions(self):
        """The largest differences between directions."""

        def random():
            return torch.Generator().manual_seed(7)

        drawn, norms = random_directions(self.weights, 2, random())
        own = self.shards.random_directions(self.here, self.shapes, 2, random())
        principal = pca_directions(self.local_path, 2, self.shards)
        return {
            "pca": error(principal, self.columns(pca_directions(self.path, 2))),
            "random": error(own[0], self.columns(drawn)),
            "norms": error(own[1], norms),
        }

    def of_the_plane(self):
        """The largest differences between what is computed of points, and a refusal."""
        plane, spread = self.planes()
        own, path = self.local_path.double(), self.path.double()
        facts = {
            "weights": error(self.here, self.mine(self.theta)),
            "numel": len(self.here),
            "project": error(spread.project(self.local_path), plane.project(self.path)),
            "residual": error(spread.residual(self.local_path), plane.residual(self.path)),
            "dot": error(self.shards.sum(own @ own.T), path @ path.T),
        }
        try:
            orthonormal_columns(torch.stack([self.here, self.here], dim=1), rows=self.shards)
        except ValueError as problem:
            facts["collinear"] = str(problem)
        return facts


def everywhere(how):
    """Compare shards with the whole and report the largest differences."""
    whole, block = sharded_block(how)
    step = Lockstep(Processes(RANK, SIZE))
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    batch = [torch.randn(6, n, generator=generator) for n in (4, 1)]
    with torch.no_grad():  # without a backward pass, the outer unit keeps its full weights
        block(batch[0].to(block.shift.dtype))
    facts = {"left_over": not hasattr(block.last.weight, "to_local")}
    pair = step.run(lambda: Pair(whole, block, Shards(block, step), generator))
    facts |= step.run(lambda: pair.of_directions() | pair.of_the_plane())
    plane, spread = step.run(pair.planes)
    before = [local(p).clone() for p in block.parameters()]
    sliced = ShardedSlice(block, spread, [batch], mse)
    reference = LossSlice(whole, plane, [batch], mse)(points)
    facts["loss"] = float((sliced(points) / reference - 1).abs().max())
    facts["again"] = bool(sliced(points).equal(sliced(points)))
    facts["left"] = [local(p).equal(b) for p, b in zip(block.parameters(), before, strict=True)]
    facts["held"] = most_held(block, spread, batch, points)
    write(f"whole_{how}", facts)


HELD: SimpleQueue[int] = SimpleQueue()  # a list would be a copy, or put back


def most_held(block, spread, batch, points):
    """Bytes of weights of the block that this process holds at several times of an evaluation."""

    def watched(module, batch):
        def count(*_):
            HELD.put(sum(p.untyped_storage().nbytes() // 4 for p in module.parameters()))

        module.first.register_forward_pre_hook(count)
        module.second.register_forward_pre_hook(count)
        loss = mse(module, batch)
        count()
        return loss

    ShardedSlice(block, spread, [batch], watched)(points[:1])
    return [HELD.get_nowait() for _ in range(HELD.qsize())]


def refusals():
    """Messages for unsupported shardings."""
    said = {}
    mesh = init_device_mesh("cpu", (SIZE, 1), mesh_dim_names=("data", "tensor"))
    crossed = nn.Linear(4, 4)
    crossed.weight = nn.Parameter(
        distribute_tensor(crossed.weight.detach(), mesh, [Shard(0), Shard(1)])
    )
    free = nn.Linear(4, 4)
    free.weight = nn.Parameter(distribute_tensor(free.weight.detach(), mesh["data"], [Shard(0)]))
    older = FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu"))
    few = fully_shard(nn.Linear(4, 4), mesh=mesh["data"])
    for name, module, n_processes in (
        ("crossed", crossed, SIZE),
        ("free", free, SIZE),
        ("few", few, SIZE + 2),
        ("first", nn.Sequential(older), SIZE),
    ):
        try:
            check_sharding(module, n_processes)
        except ValueError as error:
            said[name] = str(error)
    write("refusals", said)


def exchanges():
    """Whether processes stay in step when something goes wrong."""
    step = Lockstep(Processes(RANK, SIZE))
    said = {}

    def attempt(name, work):
        try:
            said[name] = step.run(work)
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
        said[f"{name}, then"] = step.run(lambda: step.gather(RANK))

    def fails(rank):
        step.gather(0)
        if rank in (RANK, None):
            raise ValueError(f"lost {RANK}")
        return sum(step.gather(1))

    def swallows():
        try:
            return fails(1)
        except ProcessError:
            return len(step.gather(2))

    def leaves():
        return RANK == 0 or step.gather(RANK)

    attempt("first", lambda: fails(0))
    attempt("second", lambda: fails(1))
    attempt("both", lambda: fails(None))
    attempt("swallowed", swallows)
    attempt("leaves", leaves)
    attempt("well", lambda: [t.tolist() for t in step.all_gather(torch.tensor([RANK]), 3)])
    write("exchanges", said)


def main():
    draw_nothing(pytest.MonkeyPatch())
    run("bare")
    run("watched", small(), keep=SIZE == 2)
    if SIZE == 1:
        return
    run("resumed", small(), epochs=4, ckpt_path=str(ROOT / "watched" / "last.ckpt"))
    run("random", small(directions="random", dim=2), epochs=1)
    run("root_bare", kind=RootNet)
    run("root", small(), kind=RootNet)
    run("first_fails", small(loss_fn=Fails(0, ValueError("lost"))))
    run("second_fails", small(loss_fn=Fails(1, MemoryError("lost"), within=True)))
    run("second_fails_at_once", small(loss_fn=Fails(1, ValueError("lost"), call=1)))
    run("branches", small(loss_fn=Branches(1, ValueError())))
    run("caught", small(loss_fn=Catches(1, ValueError("lost"), within=True)))
    run("tensors", small(directions=torch.eye(43)[:, :1]))
    for how in ("rows", "half", "columns", "copies", "hybrid"):
        everywhere(how)
    refusals()
    exchanges()


if __name__ == "__main__":
    main()
    if distributed.is_initialized():
        distributed.destroy_process_group()
