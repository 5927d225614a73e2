"""The update rules on lists of parameters, by torch's own kernels where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optenv.rules import Hyperparameters, Rule

from ..distributed import is_sharded
from .base import DEFAULT, HALF, Implementation, Kernel, wide
from .lion import lion
from .mlp import network
from .orthogonal_adam import orthogonal_adam
from .torch_native import FUSED, NAMESAKES

__all__ = ["FUSED", "KERNELS", "STATES", "fill", "update"]


def update(
    rule: Rule,
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    *,
    weight_decay: float,
    how: Implementation = DEFAULT,
) -> None:
    """Move parameters by one update of ``rule``, after decoupled weight decay.

    Half precision has too few digits for the averages that a state holds: those, and the
    update, are in single precision.
    """
    fill(rule, params, states, how)
    if len({(type(p), p.dtype) for p in params}) > 1:  # a kernel takes those of one kind
        kinds = [(is_sharded(p), p.dtype in HALF) for p in params]
        parts = [[i for i, own in enumerate(kinds) if own == kind] for kind in set(kinds)]
    else:
        parts = [[]]
    for part in parts:
        own, steepest, kept = params, grads, states
        if part:
            own, steepest = [params[i] for i in part], [grads[i] for i in part]
            kept = [states[i] for i in part]
        moved, half = own, own[0].dtype in HALF
        if half:
            moved = [p.to(wide(p.dtype)) for p in own]
            steepest = [grad.to(wide(grad.dtype)) for grad in steepest]
        if weight_decay:
            torch._foreach_mul_(moved, 1.0 - lr * weight_decay)
        KERNELS[rule.name](moved, steepest, kept, lr, how, rule.hyperparameters)
        if half:
            torch._foreach_copy_(own, moved)


def fill(
    rule: Rule,
    params: Sequence[Tensor],
    states: Sequence[dict[str, Any]],
    how: Implementation,
) -> None:
    """Give parameters that have none the state of ``rule`` before its first update."""
    names = STATES[rule.name]
    for param, state in zip(params, states, strict=True):
        if names <= state.keys():
            continue
        for name in sorted(names - state.keys()):
            state[name] = _initial(name, param, how)


def _initial(name: str, param: Tensor, how: Implementation) -> Tensor:
    """What a rule starts from: zeros of the shape of ``param``, or a number."""
    if name == "step":
        # Not of torch's default type: half precision cannot count beyond 256.
        where = param.device if how.fused else "cpu"
        return torch.zeros((), dtype=torch.float32, device=where)
    dtype = wide(param.dtype)
    if name == "mu_product":  # torch has it in single precision, also for doubles
        return torch.ones((), dtype=dtype.to_real(), device="cpu")
    return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)


def _one_by_one(kernel: Kernel) -> Kernel:
    """``kernel``, which without ``foreach`` takes less memory: one parameter at a time."""

    def each(
        params: list[Tensor],
        grads: list[Tensor],
        states: list[dict[str, Any]],
        lr: float,
        how: Implementation,
        h: Hyperparameters,
    ) -> None:
        if how.foreach is not False:
            kernel(params, grads, states, lr, how, h)
            return
        for param, grad, state in zip(params, grads, states, strict=True):
            kernel([param], [grad], [state], lr, how, h)

    return each


#: What each rule keeps for a parameter.
STATES: dict[str, frozenset[str]] = {
    "sgd": frozenset(),
    "momentum": frozenset({"momentum_buffer"}),
    "nesterov": frozenset({"momentum_buffer"}),
    "rmsprop": frozenset({"step", "square_avg"}),
    "adam": frozenset({"step", "exp_avg", "exp_avg_sq"}),
    "nadam": frozenset({"step", "exp_avg", "exp_avg_sq", "mu_product"}),
    "lion": frozenset({"exp_avg"}),
    "orthogonal-adam": frozenset({"step", "exp_avg", "exp_avg_sq"}),
    "network": frozenset({"step", "exp_avg", "slow_exp_avg", "exp_avg_sq"}),
    "switching": frozenset(
        {"step", "exp_avg", "slow_exp_avg", "exp_avg_sq", "short_exp_avg_sq"}
    ),
}

KERNELS: dict[str, Kernel] = {
    **NAMESAKES,
    "lion": _one_by_one(lion),
    "orthogonal-adam": _one_by_one(orthogonal_adam),
    "network": _one_by_one(network),
}
