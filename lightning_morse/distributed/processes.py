"""Communication between the processes of a run during an analysis.

The first process leads: it chooses the slice, requests losses, and computes the surrogate and the
graph. Every process evaluates the loss on its own probe batches; the loss of the run is the mean
over all of their examples, as the gradient of a data parallel run is a mean over processes.

Every method is collective: all processes call it, in the same order, even if one of them has
failed. So each step ends with an exchange of errors, and an error in one process is raised in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from lightning_morse.distributed.errors import ProcessError, cause, must_end_run

T = TypeVar("T")


def is_another_process() -> bool:
    """Whether this is not the first process, as far as torch.distributed knows."""
    return (
        distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0
    )


class Processes:
    """The processes of a run.

    Args:
        rank: Rank of this process.
        size: Number of processes; with 1 nothing is exchanged.

    Example:
        >>> Processes().first(lambda: 3), Processes().gather("a")
        (3, ['a'])
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def of(cls, size: int) -> Processes:
        """The processes of a trainer.

        Args:
            size: Its world size.

        Raises:
            ValueError: If there are several and torch.distributed does not connect them.
        """
        if size == 1:
            return cls()
        if not (distributed.is_available() and distributed.is_initialized()):
            raise ValueError(
                f"several processes must be connected by torch.distributed, got {size} that are "
                "not. Use a strategy such as 'ddp', or leave the monitor out"
            )
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """The value of the first process, in all processes."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def first(self, work: Callable[[], T]) -> T:
        """Do some work in the first process, and return its result in all.

        Raises:
            ProcessError: In the other processes, if it failed; in the first one the error itself.
        """
        if not self.leads:
            shared: T = _opened(self.share(None))
            return shared
        try:
            value = work()
        except BaseException as error:
            self.share(_Failure(error, 0))
            raise
        self.share(("value", value))
        return value

    def each(self, work: Callable[[], T]) -> T:
        """Do some work in every process, and go on only if it succeeded in all of them.

        Raises:
            ProcessError: Where it succeeded, if it failed elsewhere; where it failed, that error.
        """
        return self.gathered(work)[self.rank]

    def gathered(self, work: Callable[[], T], *, exchange: bool = False) -> list[T]:
        """As :meth:`each`, but return a list: all values if ``exchange``, else None for others."""
        value: Any = None
        problem: BaseException | None = None
        try:
            value = work()
        except BaseException as error:
            problem = error
        failure = None if problem is None else _Failure(problem, self.rank)
        told: list[Any] = self.gather((value if exchange else None, failure))
        if problem is not None:
            raise problem
        for _, other in told:
            if other is not None:
                raise other.error()
        values = [v for v, _ in told]
        values[self.rank] = value
        return values


class SharedLoss:
    """The loss of all processes as one function, which the first of them calls.

    Args:
        loss: The loss of this process: points of shape ``(n, d)`` to losses of shape ``(n,)``.
        n_examples: Tells the number of examples over which that loss is the mean. It is asked after
            an evaluation: a step may say only then how large its batches are.
        processes: The processes.
    """

    def __init__(
        self, loss: Callable[[Tensor], Tensor], n_examples: Callable[[], int], processes: Processes
    ) -> None:
        self._loss = loss
        self._n_examples = n_examples
        self._processes = processes
        self._own_problem: BaseException | None = None

    def __call__(self, points: Tensor) -> Tensor:
        """Mean loss over the examples of all processes, shape ``(n,)``; only in the first process.

        Raises:
            ProcessError: If it failed in another process; errors of this one pass through.
        """
        if self._processes.size == 1:
            return self._loss(points)
        self._processes.share(("points", points))
        return self._answered(points)

    def explore(self, work: Callable[[], T]) -> T:
        """Do some work in the first process that calls this loss; the others evaluate their parts.

        Returns:
            The result of ``work``, in every process.

        Raises:
            ProcessError: As :meth:`Processes.first`.
        """
        if self._processes.leads:
            return self._processes.first(work)
        while True:
            message: Any = self._processes.share(None)
            if isinstance(message, _Failure) and self._own_problem is not None:
                raise self._own_problem
            if isinstance(message, _Failure) or message[0] == "value":
                value: T = _opened(message)
                return value
            try:
                self._answered(message[1])
            except Exception as error:  # the first process knows of it, and ends the analysis
                if not isinstance(error, ProcessError):
                    self._own_problem = error

    def _answered(self, points: Tensor) -> Tensor:
        def answer() -> tuple[Tensor, int]:
            return self._loss(points).to("cpu", torch.float64), self._n_examples()

        answers = self._processes.gathered(answer, exchange=True)
        total = sum(n for _, n in answers)
        return torch.stack([n / total * losses for losses, n in answers]).sum(dim=0).to(points)


# Plans that processes compare before an exchange; all_gather() uses _ALL_GATHER + label.
_FAILED, _DONE, _GATHER, _ALL_GATHER = -1, 0, 1, 2


class Lockstep:
    """Work that all processes do at once, with any number of exchanges inside it.

    Before each exchange the processes compare what they are about to do, so that one that has
    failed, or has reached another point of the program, ends the work in all of them and leaves
    none waiting. That covers the exchanges made here, not those that the work makes in other ways.

    Args:
        processes: The processes.
        device: The device on which tensors are exchanged.

    Example:
        >>> step = Lockstep(Processes())
        >>> step.run(lambda: sum(step.gather(2)))
        2
    """

    def __init__(self, processes: Processes, device: torch.device | str = "cpu") -> None:
        self.processes = processes
        self.device = torch.device(device)
        self._ended: BaseException | None = None

    def run(self, work: Callable[[], T]) -> T:
        """Do some work that may call :meth:`gather` and :meth:`all_gather`.

        Raises:
            ProcessError: If it failed in another process; errors of this one pass through.
            RuntimeError: If the processes did not make the same exchanges.
        """
        self._ended = None
        try:
            value = work()
        except BaseException as error:
            if self._ended is None:
                self._meet(_FAILED, error)
            raise
        self._meet(_DONE)
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank."""
        self._meet(_GATHER)
        return self.processes.gather(value)

    def all_gather(self, tensor: Tensor, label: int = 0) -> list[Tensor]:
        """The tensors of all processes, in order of rank.

        Args:
            tensor: On ``device``, of the same shape and dtype in all processes.
            label: Identifies this exchange, 0 or more; the same in all processes.
        """
        if self.processes.size == 1:
            return [tensor]
        # Allocate first, while the others can still be told of a lack of memory.
        found = [torch.empty_like(tensor) for _ in range(self.processes.size)]
        self._meet(_ALL_GATHER + label)
        distributed.all_gather(found, tensor)
        return found

    def _meet(self, plan: int, error: BaseException | None = None) -> None:
        """Go on only if all processes are about to do the same."""
        if self._ended is not None:  # the work has caught the error and gone on
            raise self._ended
        if self.processes.size == 1:
            return
        mine = torch.tensor([plan], device=self.device)
        plans = [torch.empty_like(mine) for _ in range(self.processes.size)]
        distributed.all_gather(plans, mine)
        found = torch.cat(plans).tolist()
        if _FAILED in found:
            failure = None if error is None else _Failure(error, self.processes.rank)
            failures = [f for f in self.processes.gather(failure) if f is not None]
            self._ended = error or failures[0].error()
        elif len(set(found)) > 1:
            self._ended = RuntimeError(
                f"all processes must evaluate the same modules in the same order, got {found} as "
                "their next steps. A loss with branches that depend on the data cannot be "
                "evaluated on sharded weights"
            )
        if self._ended is not None and error is None:
            raise self._ended


class _Failure:
    """An error on its way to other processes, which may not be able to unpickle it."""

    def __init__(self, error: BaseException, rank: int) -> None:
        known = isinstance(error, ProcessError)
        self.text = str(error) if known else f"in process {rank}: {cause(error)}"
        self.ends_run = must_end_run(error)

    def error(self) -> ProcessError:
        return ProcessError(self.text, self.ends_run)


def _opened(message: Any) -> Any:
    if isinstance(message, _Failure):
        raise message.error()
    return message[1]
