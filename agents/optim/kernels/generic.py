"""Kernel of any other rule: the batched rule, applied to one parameter at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optenv.rules import Rule

from ..distributed import is_sharded
from ..tensors import real
from .base import Step

__all__ = ["allocate", "update"]

#: Prefix of the slots, which are numbered as the tensors in the rule's state are.
SLOT = "rule_state_"


def allocate(rule: Rule, param: Tensor, state: dict[str, Any]) -> None:
    """Add the slots of a rule to a parameter's state, unless they are there.

    Raises:
        ValueError: the rule depends on shapes, and the parameter is sharded.
    """
    if SLOT + "0" in state:
        return
    if rule.shaped and is_sharded(param):
        raise ValueError(
            f"rule {rule.name!r} depends on the shapes of parameters, and has no kernel "
            "for sharded ones; see agents.optim.kernels.register"
        )
    for i, slot in enumerate(rule.init(_flat(param))):
        state[f"{SLOT}{i}"] = slot


def update(rule: Rule, step: Step) -> None:
    """Update each parameter by the batched rule, as a batch of one run."""
    for param, grad, state in zip(step.params, step.grads, step.states, strict=True):
        flat = _flat(param)
        slots = [state[name] for name in sorted(state, key=_number) if SLOT in name]
        lr = torch.full((1, 1), step.lr, dtype=flat.dtype, device=flat.device)
        shape = real(param).shape
        moved, new = rule.bind([shape]).update(flat, _flat(grad), tuple(slots), lr)
        flat.copy_(moved)
        for slot, value in zip(slots, new, strict=True):
            slot.copy_(value)


def _flat(tensor: Any) -> Tensor:
    """Return a view ``[1, P]`` of a real tensor, or of the local shard of a ``DTensor``."""
    tensor = real(tensor.to_local() if is_sharded(tensor) else tensor)
    return tensor.detach().reshape(1, -1)


def _number(name: str) -> int:
    return int(name.removeprefix(SLOT)) if name.startswith(SLOT) else -1
