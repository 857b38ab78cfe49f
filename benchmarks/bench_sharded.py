"""The cost of the loss at a point of a slice with sharded weights, relative to FSDP itself.

    python benchmarks/bench_sharded.py             # one or two minutes
    python benchmarks/bench_sharded.py --widths 32 --points 4 --repeats 1

Two processes on the CPU with gloo, six layers, each a unit of ``fully_shard``, on the same batch:
the loss at a point of the slice, and a bare forward pass of the sharded network in eval mode that
gathers as many weights. The ratio is the median over repetitions, each of which times both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lightning_morse import AffineSubspace
from lightning_morse.distributed.processes import Lockstep, Processes
from lightning_morse.distributed.sharded_slice import ShardedSlice
from lightning_morse.distributed.sharding import flat_shards
from lightning_morse.distributed.shards import Shards
from lightning_morse.slices.bases import orthonormal_columns

PROCESSES = 2
LAYERS = 6


def layers(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(part for _ in range(LAYERS) for part in (nn.Linear(width, width), nn.Tanh()))
    )


def loss_of(net: nn.Module, batch: Tensor) -> Tensor:
    return net(batch).square().mean()


def measure(rank: int, folder: str, widths: Sequence[int], points: int, repeats: int) -> None:
    """Time both in this process; the first one prints."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for width in widths:
        net = layers(width)
        for layer in net.children():
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        outer = fully_shard(net, mesh=mesh).eval()
        batch = torch.randn(width, width)
        lockstep = Lockstep(Processes(rank, PROCESSES))

        def plane(net: nn.Module = net, lockstep: Lockstep = lockstep) -> AffineSubspace:
            weights = flat_shards(net, rank)
            shards = Shards(net, lockstep)
            columns = orthonormal_columns(torch.randn(len(weights), 2), rows=shards)
            return AffineSubspace(weights, columns, shards)

        loss = ShardedSlice(net, lockstep.run(plane), [batch], loss_of)
        x = torch.zeros(points, 2, dtype=torch.float64)
        ratios = []
        for repeat in range(repeats + 1):
            start = time.perf_counter()
            with torch.no_grad():
                for _ in range(points):
                    float(loss_of(net, batch))
                    outer.reshard()
            between = time.perf_counter()
            loss(x)
            if repeat:  # the first repetition warms up
                ratios.append((time.perf_counter() - between) / (between - start))
        if rank == 0:
            print(
                f"width {width}: {statistics.median(ratios):.2f} of a forward pass of FSDP "
                f"({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )
    distributed.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args(arguments)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            measure,
            (folder, given.widths, given.points, given.repeats),
            nprocs=PROCESSES,
            # What is imported here need not be imported anew.
            start_method="fork" if sys.platform == "linux" else "spawn",
        )


if __name__ == "__main__":
    main()
