"""How much memory a monitor may keep between analyses, and what it keeps within that."""

from __future__ import annotations

import dataclasses
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_morse.monitoring.tracking import MAX_PICTURES

# Soundness depends on none of these.
# By default, this share of the memory that is free when the run starts, and at most so many bytes.
SHARE_OF_FREE = 0.1
MOST_BYTES = 2 * 10**9
# A resumed run keeps what it kept before as long as that takes no more of the memory free now.
SHARE_OF_FREE_WHEN_RESUMED = 0.5
FEWEST_SNAPSHOTS = 3
# Slices of earlier analyses go before snapshots become fewer than this: from here on the principal
# plane turns by 10 degrees and more (docs/decisions.md).
ENOUGH_SNAPSHOTS = 8

# Numbers in a record where time is limited. Of a large network few snapshots are kept: one more of
# 17 million weights takes 0.1 s of every analysis, and 0.1 s when it is taken.
MOST_NUMBERS = 150_000_000

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def bytes_of(size: int | str) -> int:
    """A size in bytes, given as a number or in words.

    Args:
        size: Bytes, or a text such as ``"500MB"``, ``"2 GB"`` or ``"1.5GiB"``.

    Raises:
        ValueError: If it is neither, or not positive.

    Example:
        >>> bytes_of("500MB"), bytes_of("1.5 GiB"), bytes_of(7)
        (500000000, 1610612736, 7)
    """
    found = 0
    if type(size) is int:
        found = size
    elif isinstance(size, str) and (match := _SIZE.fullmatch(size)):
        number, unit, binary = match.groups()
        units = _BINARY_UNITS if binary else _UNITS
        found = int(float(number) * units.get(unit.lower(), 0))
    if found <= 0:
        raise ValueError(
            f"max_memory must be a positive number of bytes or a text such as '500MB', got {size!r}"
        )
    return found


def in_bytes(n: float) -> str:
    """A number of bytes in words, three digits.

    Example:
        >>> in_bytes(132_000_000), in_bytes(2e9), in_bytes(512)
        ('132 MB', '2 GB', '512 bytes')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= unit:
            return f"{n / unit:.3g} {name}"
    return f"{n:.0f} bytes"


# ------------------------------------------------------------------------- what is free


def free_memory() -> int | None:
    """Bytes that this process may still take without swapping; None if the system does not say.

    The smallest of what the machine has, what the control groups of the process leave it (Linux),
    and what its own limit on the address space does.
    """
    found = [_free_on_machine(), _free_in_control_groups(), _free_address_space()]
    known = [n for n in found if n is not None]
    return max(0, min(known)) if known else None


def _free_on_machine() -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):  # no such name, no such function
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_in_control_groups() -> int | None:
    """What is left in the control group of the process, and in those above it."""
    free: list[int] = []
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root, limit, used = _CONTROL_GROUPS, "memory.max", "memory.current"
            cache = "inactive_file"
            if controllers:  # version 1
                if "memory" not in controllers.split(","):
                    continue
                root /= "memory"
                limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
                cache = "total_inactive_file"
            here = root / path.lstrip("/")
            # Inside a container the path may be that of the host, of which only the root is seen.
            for group in [here, *here.parents]:
                if not group.is_relative_to(root):
                    break
                with suppress(OSError, ValueError):  # "max" is no number
                    most = int((group / limit).read_text())
                    taken = int((group / used).read_text())
                    facts = dict(
                        line.split() for line in (group / "memory.stat").read_text().splitlines()
                    )
                    # Files that the system keeps in memory give way.
                    free.append(most - taken + int(facts.get(cache, 0)))
    return min(free) if free else None


def _free_address_space() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return None
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return most - pages * os.sysconf("SC_PAGE_SIZE")
    return None


def memory_limit(size: int | str | None, free: float | None, share: float = SHARE_OF_FREE) -> int:
    """Bytes that a monitor may keep between analyses.

    Args:
        size: What the user asked for; None for a share of what is free, at most 2 GB.
        free: Bytes that are free; None if unknown.
        share: The share.
    """
    if size is not None:
        return bytes_of(size)
    return MOST_BYTES if free is None else min(MOST_BYTES, int(share * free))


# ---------------------------------------------------------------------- what is kept


@dataclass(frozen=True)
class Plan:
    """What is kept between analyses.

    Attributes:
        max_snapshots: Number of snapshots; 0 for no record.
        dtype: Their type.
        slices: Number of slices of earlier analyses, by which attractors are recognised.
    """

    max_snapshots: int
    dtype: torch.dtype
    slices: int = MAX_PICTURES

    def bytes_per_weight(self, dim: int, weights: torch.dtype = torch.float32) -> int:
        """Memory of a full record; one more row is for the current weights.

        Args:
            dim: Dimension of the slices.
            weights: The type in which slices are kept.
        """
        rows = (self.max_snapshots + 1) * self.dtype.itemsize if self.max_snapshots else 0
        return rows + self.slices * (dim + 1) * weights.itemsize

    def in_time(self, n_weights: int) -> Plan:
        """This plan with as many snapshots as can be kept and read quickly, no fewer than eight.

        Args:
            n_weights: Length of a snapshot.

        Example:
            >>> asked = Plan(32, torch.float32)
            >>> [asked.in_time(n).max_snapshots for n in (10**6, 10**7, 10**8)]
            [32, 14, 8]
        """
        most = max(ENOUGH_SNAPSHOTS, MOST_NUMBERS // max(1, n_weights) - 1)
        return dataclasses.replace(self, max_snapshots=min(self.max_snapshots, most))

    def within(self, limit: float, dim: int, weights: torch.dtype = torch.float32) -> Plan:
        """As much of this plan as fits.

        Fewer snapshots come first, since the principal plane of eight is nearly that of 32, and
        fewer slices next. Half precision comes last: where steps are small, as in fine-tuning, it
        leaves nothing of the plane (docs/decisions.md).

        Args:
            limit: Bytes per weight.
            dim: Dimension of the slices.
            weights: The type in which slices are kept, that of the weights.

        Example:
            >>> asked = Plan(32, torch.float32)
            >>> for limit in (200, 100, 20, 8, 4):
            ...     print(asked.within(limit, dim=2))
            Plan(max_snapshots=32, dtype=torch.float32, slices=3)
            Plan(max_snapshots=15, dtype=torch.float32, slices=3)
            Plan(max_snapshots=4, dtype=torch.float32, slices=0)
            Plan(max_snapshots=3, dtype=torch.bfloat16, slices=0)
            Plan(max_snapshots=0, dtype=torch.float32, slices=0)
        """
        steps = [(self.dtype, n, ENOUGH_SNAPSHOTS) for n in range(self.slices, 1, -1)]
        steps += [(self.dtype, n, FEWEST_SNAPSHOTS) for n in range(min(self.slices, 1), -1, -1)]
        smaller = [t for t in (torch.float32, torch.bfloat16) if t.itemsize < self.dtype.itemsize]
        for dtype, slices, least in [*steps, *((t, 0, FEWEST_SNAPSHOTS) for t in smaller)]:
            left = limit - slices * (dim + 1) * weights.itemsize
            rows = min(self.max_snapshots, int(left / dtype.itemsize) - 1)
            if rows >= min(least, self.max_snapshots):
                return Plan(rows, dtype, slices)
        return Plan(0, self.dtype, 0)

    def told(self, asked: Plan, limit: float, n_weights: int) -> str:
        """In a line, what of a plan is kept and why; empty if all of it is."""
        if self == asked:
            return ""
        why = f"max_memory is {in_bytes(limit)}, and there are {n_weights:.3g} weights"
        if not self.max_snapshots:
            least = (FEWEST_SNAPSHOTS + 1) * min(self.dtype.itemsize, torch.bfloat16.itemsize)
            return (
                f"no snapshots are kept and directions are random: {why}, of which "
                f"{FEWEST_SNAPSHOTS} snapshots would take {in_bytes(least * n_weights)}"
            )
        name = str(self.dtype).removeprefix("torch.")
        kept = f"{self.max_snapshots} snapshots of the weights are kept in {name}"
        if self.slices < asked.slices:
            slices = f"{self.slices} of the last slices" if self.slices else "no earlier slice"
            kept += f", and {slices} to recognise attractors by"
        return f"{kept}: {why}"
