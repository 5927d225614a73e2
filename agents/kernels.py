"""The update rules on lists of parameters, by torch's own kernels where it has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from optenv.rules import Hyperparameters, Rule

from .orthogonal import orthogonal_adam
from .sharding import is_sharded


class Implementation(NamedTuple):
    """Which of its implementations torch is to use; None lets it choose."""

    foreach: bool | None = None
    fused: bool | None = None


DEFAULT = Implementation()

#: Parameters, gradients, states, learning rate, implementation, hyperparameters.
Kernel = Callable[
    [
        list[Tensor],
        list[Tensor],
        list[dict[str, Any]],
        float,
        Implementation,
        Hyperparameters,
    ],
    None,
]

#: Rules that torch has a fused implementation of.
FUSED = ("sgd", "momentum", "adam")

#: Types that have too few digits to compute in.
HALF = (torch.float16, torch.bfloat16, torch.complex32)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Type to compute in: single precision in the place of half."""
    return torch.promote_types(dtype, torch.float32)


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
            if name == "step":
                # Not of torch's default type: half precision cannot count beyond 256.
                where = param.device if how.fused else "cpu"
                state[name] = torch.zeros((), dtype=torch.float32, device=where)
            else:
                state[name] = torch.zeros_like(
                    param, dtype=wide(param.dtype), memory_format=torch.preserve_format
                )


def _sgd(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    _run_sgd(params, grads, [None] * len(params), lr, 0.0, how)


def _momentum(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    buffers: list[Tensor | None] = [s["momentum_buffer"] for s in states]
    _run_sgd(params, grads, buffers, lr, h.momentum, how)


def _run_sgd(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor | None],
    lr: float,
    momentum: float,
    how: Implementation,
) -> None:
    sgd(
        params,
        grads,
        buffers,
        foreach=how.foreach,
        fused=how.fused,
        weight_decay=0.0,
        momentum=momentum,
        lr=lr,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )


def _rmsprop(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    rmsprop(
        params,
        grads,
        [s["square_avg"] for s in states],
        [],
        [],
        [s["step"] for s in states],
        foreach=how.foreach,
        lr=lr,
        alpha=h.alpha,
        eps=h.eps,
        weight_decay=0.0,
        momentum=0.0,
        centered=False,
        has_complex=any(p.is_complex() for p in params),
    )


def _adam(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    adamw(
        params,
        grads,
        [s["exp_avg"] for s in states],
        [s["exp_avg_sq"] for s in states],
        [],
        [s["step"] for s in states],
        foreach=how.foreach,
        fused=how.fused,
        amsgrad=False,
        beta1=h.beta1,
        beta2=h.beta2,
        lr=lr,
        weight_decay=0.0,
        eps=h.eps,
        maximize=False,
        has_complex=any(p.is_complex() for p in params),
    )


#: What each rule keeps for a parameter.
STATES: dict[str, frozenset[str]] = {
    "sgd": frozenset(),
    "momentum": frozenset({"momentum_buffer"}),
    "rmsprop": frozenset({"step", "square_avg"}),
    "adam": frozenset({"step", "exp_avg", "exp_avg_sq"}),
    "orthogonal-adam": frozenset({"step", "exp_avg", "exp_avg_sq"}),
    "switching": frozenset(
        {"step", "exp_avg", "slow_exp_avg", "exp_avg_sq", "short_exp_avg_sq"}
    ),
}

KERNELS: dict[str, Kernel] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "orthogonal-adam": orthogonal_adam,
}
