"""The update rules on lists of parameters, by torch's own kernels where it has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from optenv.orthogonal import as_matrix, orthogonalize
from optenv.rules import Hyperparameters, Rule

#: Numbers in the matrices that are orthogonalised together: with more, memory is what
#: takes the time.
AT_ONCE = 2**18

#: Parameters, gradients, states, learning rate, torch's ``foreach``, hyperparameters.
Kernel = Callable[
    [
        list[Tensor],
        list[Tensor],
        list[dict[str, Any]],
        float,
        "bool | None",
        Hyperparameters,
    ],
    None,
]


def wide(dtype: torch.dtype) -> torch.dtype:
    """Type to compute in: single precision in the place of half."""
    return torch.promote_types(dtype, torch.float32)


def update(
    rule: Rule,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    *,
    weight_decay: float,
    foreach: bool | None,
) -> None:
    """Move parameters by one update of ``rule``, after decoupled weight decay.

    Half precision has too few digits for the averages that a state holds: those, and the
    update, are in single precision.
    """
    own = [p.to(wide(p.dtype)) for p in params]
    steepest = [grad.to(w.dtype) for grad, w in zip(grads, own, strict=True)]
    if weight_decay:
        torch._foreach_mul_(own, 1.0 - lr * weight_decay)
    KERNELS[rule.name](own, steepest, states, lr, foreach, rule.hyperparameters)
    for p, w in zip(params, own, strict=True):
        if w is not p:
            p.copy_(w)


def _sgd(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    foreach: bool | None,
    h: Hyperparameters,
) -> None:
    _run_sgd(params, grads, [None] * len(params), lr, 0.0, foreach)


def _momentum(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    foreach: bool | None,
    h: Hyperparameters,
) -> None:
    # torch fills None with the first gradient and leaves it to us to keep it.
    buffers = [s.get("momentum_buffer") for s in states]
    _run_sgd(params, grads, buffers, lr, h.momentum, foreach)
    for state, buffer in zip(states, buffers, strict=True):
        state["momentum_buffer"] = buffer


def _run_sgd(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor | None],
    lr: float,
    momentum: float,
    foreach: bool | None,
) -> None:
    sgd(
        params,
        grads,
        buffers,
        foreach=foreach,
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
    foreach: bool | None,
    h: Hyperparameters,
) -> None:
    _fill(params, states, ("square_avg",))
    rmsprop(
        params,
        grads,
        [s["square_avg"] for s in states],
        [],
        [],
        [s["step"] for s in states],
        foreach=foreach,
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
    foreach: bool | None,
    h: Hyperparameters,
) -> None:
    _fill(params, states, ("exp_avg", "exp_avg_sq"))
    adamw(
        params,
        grads,
        [s["exp_avg"] for s in states],
        [s["exp_avg_sq"] for s in states],
        [],
        [s["step"] for s in states],
        foreach=foreach,
        amsgrad=False,
        beta1=h.beta1,
        beta2=h.beta2,
        lr=lr,
        weight_decay=0.0,
        eps=h.eps,
        maximize=False,
        has_complex=any(p.is_complex() for p in params),
    )


def _orthogonal_adam(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    foreach: bool | None,
    h: Hyperparameters,
) -> None:
    _fill(params, states, ("exp_avg", "exp_avg_sq"))
    if foreach is False and len(params) > 1:  # one after the other takes less memory
        for param, grad, state in zip(params, grads, states, strict=True):
            _orthogonal_adam([param], [grad], [state], lr, foreach, h)
        return
    grads, means, squares, values = (
        [torch.view_as_real(x) if x.is_complex() else x for x in part]
        for part in (
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            params,
        )
    )
    for state in states:
        state["step"] += 1
    steps = [state["step"].item() for state in states]
    torch._foreach_lerp_(means, grads, 1 - h.beta1)
    decays = [h.decay(t) for t in steps]
    torch._foreach_mul_(squares, decays)
    torch._foreach_addcmul_(squares, grads, grads, [1 - decay for decay in decays])
    roots = torch._foreach_sqrt(squares)
    if h.power == 0:
        torch._foreach_mul_(roots, [(1 - h.beta2**t) ** -0.5 for t in steps])
    torch._foreach_add_(roots, h.eps)
    directions = torch._foreach_mul(
        means, [h.beta1 / (1 - h.beta1 ** (t + 1)) for t in steps]
    )
    now = torch._foreach_mul(grads, [(1 - h.beta1) / (1 - h.beta1**t) for t in steps])
    torch._foreach_add_(directions, now)
    torch._foreach_div_(directions, roots)
    torch._foreach_add_(values, _orthogonalized(list(directions), params), alpha=-lr)


def _orthogonalized(directions: list[Tensor], params: list[Tensor]) -> list[Tensor]:
    """The directions, those of real matrices orthogonalised; small ones alike together."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, param in enumerate(params):
        matrix = None if param.is_complex() else as_matrix(param.shape)
        if matrix is not None:
            alike.setdefault((matrix, param.device, param.dtype), []).append(i)
    for (matrix, _, dtype), every in alike.items():
        count = max(1, AT_ONCE // math.prod(matrix))
        for begin in range(0, len(every), count):
            group = every[begin : begin + count]
            stacked = torch.stack([directions[i].reshape(matrix) for i in group])
            # Half precision is too coarse for the squares of squares in it, also where
            # the caller steps within an autocast.
            wide = stacked.to(torch.promote_types(dtype, torch.float32))
            with torch.autocast(wide.device.type, enabled=False):
                found = orthogonalize(wide).to(dtype)
            for i, result in zip(group, found, strict=True):
                directions[i] = result.view_as(directions[i])
    return directions


def _fill(
    params: list[Tensor], states: list[dict[str, Any]], names: tuple[str, ...]
) -> None:
    for param, state in zip(params, states, strict=True):
        if "step" not in state:
            # Not of torch's default type: half precision cannot count beyond 256.
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            for name in names:
                state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)


KERNELS: dict[str, Kernel] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "orthogonal-adam": _orthogonal_adam,
}
