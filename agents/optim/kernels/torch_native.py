"""Kernels of update rules that torch implements."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.nadam import nadam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from ..tensors import real
from .base import Kernel, Step, debiased_roots, descend_, takes_fused, update_squares_

__all__ = ["KERNELS"]


def _sgd(step: Step) -> None:
    _call_sgd(step, step.grads, [None] * len(step.params), momentum=0.0)


def _momentum(step: Step) -> None:
    _call_sgd(step, step.grads, step.slots("momentum_buffer"), momentum=step.h.momentum)


def _nesterov(step: Step) -> None:
    grads = step.grads
    if step.options.foreach is not False and not step.options.fused:
        grads = [grad.clone() for grad in grads]  # torch's foreach kernel changes them
    buffers = step.slots("momentum_buffer")
    _call_sgd(step, grads, buffers, momentum=step.h.momentum, nesterov=True)


def _call_sgd(
    step: Step,
    grads: list[Tensor],
    buffers: list[Tensor | None],
    momentum: float,
    nesterov: bool = False,
) -> None:
    if isinstance(step.lr, Tensor) and not step.options.fused:
        _sgd_on_device(step, grads, buffers, momentum, nesterov)
        return
    sgd(
        step.params,
        grads,
        buffers,
        foreach=step.options.foreach,
        fused=step.options.fused,
        weight_decay=0.0,
        momentum=momentum,
        lr=cast(Any, step.lr),
        dampening=0.0,
        nesterov=nesterov,
        maximize=False,
    )


def _sgd_on_device(
    step: Step, grads: list[Tensor], buffers: list[Any], momentum: float, nesterov: bool
) -> None:
    """Update like torch's ``sgd``, without reading the learning rate on the host."""
    directions = grads
    if momentum:
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads)
        directions = buffers
        if nesterov:
            directions = list(torch._foreach_add(grads, buffers, alpha=momentum))
    descend_(step.params, directions, step.lr)


def _rmsprop(step: Step) -> None:
    if isinstance(step.lr, Tensor):
        _rmsprop_on_device(step)
        return
    rmsprop(
        step.params,
        step.grads,
        step.slots("square_avg"),
        [],
        [],
        step.slots("step"),
        foreach=step.options.foreach,
        lr=step.lr,
        alpha=step.h.alpha,
        eps=step.h.eps,
        weight_decay=0.0,
        momentum=0.0,
        centered=False,
        has_complex=any(p.is_complex() for p in step.params),
    )


def _rmsprop_on_device(step: Step) -> None:
    """Update like torch's ``rmsprop``, without reading the learning rate on the host."""
    params, grads = [real(p) for p in step.params], [real(grad) for grad in step.grads]
    squares = [real(square) for square in step.slots("square_avg")]
    counts = step.count()
    update_squares_(squares, grads, [step.h.alpha] * len(squares))
    roots = debiased_roots(squares, None, counts, step.h.eps)
    descend_(params, torch._foreach_div(grads, roots), step.lr)


def _adam(step: Step) -> None:
    adamw(
        step.params,
        step.grads,
        step.slots("exp_avg"),
        step.slots("exp_avg_sq"),
        [],
        step.slots("step"),
        foreach=step.options.foreach,
        fused=step.options.fused or takes_fused(step) or None,
        capturable=step.options.capturable,
        amsgrad=False,
        beta1=step.h.beta1,
        beta2=step.h.beta2,
        lr=step.lr,
        weight_decay=0.0,
        eps=step.h.eps,
        maximize=False,
        has_complex=any(p.is_complex() for p in step.params),
    )


def _nadam(step: Step) -> None:
    nadam(
        step.params,
        step.grads,
        step.slots("exp_avg"),
        step.slots("exp_avg_sq"),
        step.slots("mu_product"),
        step.slots("step"),
        foreach=step.options.foreach,
        capturable=step.options.capturable,
        beta1=step.h.beta1,
        beta2=step.h.beta2,
        lr=cast(Any, step.lr),
        weight_decay=0.0,
        momentum_decay=step.h.momentum_decay,
        eps=step.h.eps,
        has_complex=any(p.is_complex() for p in step.params),
    )


_BUFFER = frozenset({"momentum_buffer"})
_MOMENTS = frozenset({"step", "exp_avg", "exp_avg_sq"})

KERNELS: dict[str, Kernel] = {
    "sgd": Kernel(_sgd, native=True, capturable=True, fused=True),
    "momentum": Kernel(_momentum, _BUFFER, native=True, capturable=True, fused=True),
    "nesterov": Kernel(_nesterov, _BUFFER, native=True, capturable=True, fused=True),
    "rmsprop": Kernel(
        _rmsprop, frozenset({"step", "square_avg"}), native=True, capturable=True
    ),
    "adam": Kernel(_adam, _MOMENTS, native=True, capturable=True, fused=True),
    "nadam": Kernel(_nadam, _MOMENTS | {"mu_product"}, native=True, capturable=True),
}
