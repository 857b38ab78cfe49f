"""Evaluations that leave the settings of torch and random number generators as they were."""

from __future__ import annotations

import copy
import decimal
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes

# Hooks that torch calls for every module, by the names under which it keeps them.
_HOOKS_OF_ALL = (
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
    "_global_buffer_registration_hooks",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
)
_HELD = [
    held
    for name in _HOOKS_OF_ALL
    if isinstance(held := getattr(torch.nn.modules.module, name, None), dict)
]
_NOTHING: AbstractContextManager[None] = nullcontext()
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def _cuda_is_initialized() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def unobserved() -> AbstractContextManager[None]:
    """Nothing that is done inside is seen by hooks of all modules, dispatch or function modes.

    Callbacks use these to count calls and operations, or to look at activations, of training.
    Where there are none, as nearly always, this takes less than a microsecond.
    """
    # Training asks for this in every hook.
    n_modes = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
    return _aside() if n_modes or any(_HELD) else _NOTHING


@contextmanager
def _aside() -> Iterator[None]:
    hooks = [(held, list(held.items())) for held in _HELD if held]
    for held, _ in hooks:
        held.clear()
    try:
        with _disable_current_modes(), _without_function_modes():
            yield
    finally:
        for held, items in hooks:
            held.clear()
            held.update(items)


@contextmanager
def _without_function_modes() -> Iterator[None]:
    """No function modes but those that say on which device tensors are made."""
    n_modes = torch._C._len_torch_function_stack()
    modes = [torch._C._pop_torch_function_stack() for _ in range(n_modes)][::-1]
    kept = [mode for mode in modes if isinstance(mode, DeviceContext)]
    try:
        for mode in kept:
            torch._C._push_on_torch_function_stack(mode)
        yield
    finally:
        for _ in range(torch._C._len_torch_function_stack()):
            torch._C._pop_torch_function_stack()
        for mode in modes:
            torch._C._push_on_torch_function_stack(mode)


@contextmanager
def plain_arithmetic(device_type: str) -> Iterator[None]:
    """No autograd, no autocast, and no observers, whatever surrounds the call."""
    with ExitStack() as stack:
        stack.enter_context(unobserved())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device_type}:
            # The cache of casts would keep the weights of an earlier point.
            stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        yield


@contextmanager
def preserved_random_state(generators: Iterable[Any] = ()) -> Iterator[None]:
    """Restore the global random number generators on exit, and :func:`preserved_settings`.

    Args:
        generators: Further generators to restore.
    """
    others = [put_back for one in generators if (put_back := put_back_of(one)) is not None]
    cuda = _cuda_is_initialized()
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    cuda_states = torch.cuda.get_rng_state_all() if cuda else []
    numpy_state = np.random.get_state()  # noqa: NPY002 (user code may draw from the global one)
    try:
        with preserved_settings():
            yield
    finally:
        torch.set_rng_state(torch_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        for put_back in others:
            put_back()


def is_generator(one: Any) -> bool:
    """Whether an object is a random number generator whose state can be put back."""
    return isinstance(one, _GENERATORS) and not isinstance(one, random.SystemRandom)


def put_back_of(one: Any) -> Callable[[], Any] | None:
    """How to put a random number generator back to where it is now; None if it is none."""
    if not is_generator(one):
        return None
    if isinstance(one, np.random.Generator):
        state = copy.deepcopy(one.bit_generator.state)
        return partial(setattr, one.bit_generator, "state", state)
    if isinstance(one, random.Random):
        return partial(one.setstate, one.getstate())
    return partial(one.set_state, one.get_state())


@contextmanager
def preserved_settings() -> Iterator[None]:
    """Restore on exit what a loss may have set for the whole process.

    These are torch's default dtype, its number of threads, deterministic algorithms, the
    precision of matrix products, and the switches of cuDNN, how torch and NumPy print numbers, what
    NumPy does at errors, and the context of decimal numbers. What has not changed is not set again.
    """
    before = [(get(), put) for get, put in _SETTINGS]
    try:
        yield
    finally:
        for (get, _), (value, put) in zip(_SETTINGS, before, strict=True):
            if get() != value:
                put(value)


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _cudnn(name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return partial(getattr, torch.backends.cudnn, name), partial(
        setattr, torch.backends.cudnn, name
    )


def _decimal() -> tuple[decimal.Context, dict[str, Any]]:
    """The context itself, which a step may write to, and what it says."""
    context = decimal.getcontext()
    said = {name: getattr(context, name) for name in _SAID_BY_DECIMAL}
    flags, traps = dict(context.flags), dict(context.traps)
    return context, {**said, "flags": flags, "traps": traps}


def _set_decimal(value: tuple[decimal.Context, dict[str, Any]]) -> None:
    context, said = value
    for name in _SAID_BY_DECIMAL:
        setattr(context, name, said[name])
    context.flags.update(said["flags"])
    context.traps.update(said["traps"])
    decimal.setcontext(context)


_SAID_BY_DECIMAL = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


def _print_options() -> dict[str, Any]:
    return dict(vars(torch._tensor_str.PRINT_OPTS))


def _set_print_options(value: dict[str, Any]) -> None:
    vars(torch._tensor_str.PRINT_OPTS).update(value)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (_deterministic, _set_deterministic),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (_decimal, _set_decimal),
    (_print_options, _set_print_options),
    (np.get_printoptions, lambda value: np.set_printoptions(**value)),
    (np.geterr, lambda value: np.seterr(**value)),
    *map(_cudnn, ("deterministic", "benchmark", "enabled")),
)


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python without initialising a device."""
    # Not torch.manual_seed: if CUDA is not initialised yet, that would seed it once it is.
    torch.default_generator.manual_seed(seed)
    if _cuda_is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
