"""Private parts of torch: errors say what is missing, where it was seen, and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_morse import _compat_torch
from lightning_morse._compat_torch import PrivateAttributeError


def test_a_missing_state(monkeypatch):
    monkeypatch.setattr(_compat_torch, "fully_shard", object())
    with pytest.raises(PrivateAttributeError, match=r"fully_shard\.state is missing from torch"):
        _compat_torch.fsdp_state(nn.Linear(2, 2))


def test_a_class_that_fully_shard_did_not_make():
    with pytest.raises(PrivateAttributeError, match=r"FSDP<name>.* seen in torch 2\.13"):
        _compat_torch.class_before_fsdp(nn.Linear(2, 2))


def test_the_class_before():
    class FSDPLinear(_compat_torch.FSDPModule, nn.Linear):
        def __new__(cls, *args, **kwargs):
            return object.__new__(cls)

    assert _compat_torch.class_before_fsdp(FSDPLinear(2, 2)) is nn.Linear


def test_missing_hooks():
    class Bare:
        def modules(self):
            return [self]

    with pytest.raises(PrivateAttributeError, match=r"torch\.nn\.Module\._forward_pre_hooks"):
        _compat_torch.remove_fsdp_hooks(Bare())
    with pytest.raises(
        PrivateAttributeError, match=r"a forward hook from torch\.distributed\.fsdp"
    ):
        _compat_torch.remove_fsdp_hooks(nn.Linear(2, 2))


def test_only_hooks_of_fsdp_are_removed(monkeypatch):
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: None)
    made_there = {"__name__": "torch.distributed.fsdp._fully_shard"}
    exec("def hook(*_): raise AssertionError", made_there)
    layer.register_forward_pre_hook(made_there["hook"])
    _compat_torch.remove_fsdp_hooks(layer)
    assert not layer._forward_pre_hooks
    assert len(layer._forward_hooks) == 1
    layer(torch.ones(1, 2))


def test_functions_are_recognised_by_their_module():
    assert _compat_torch.is_of_fsdp(_compat_torch.FSDPModule.reshard)
    assert not _compat_torch.is_of_fsdp(nn.functional.relu)
    assert not _compat_torch.is_of_fsdp(3)
