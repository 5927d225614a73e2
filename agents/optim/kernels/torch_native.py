"""The update rules that torch has, on lists of parameters, by torch's own kernels."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.nadam import nadam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from optenv.rules import Hyperparameters

from .base import Implementation, Kernel

__all__ = ["FUSED", "NAMESAKES"]


def _sgd(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    _run_sgd(params, grads, [None] * len(params), lr, 0.0, False, how)


def _momentum(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
    nesterov: bool = False,
) -> None:
    buffers: list[Tensor | None] = [s["momentum_buffer"] for s in states]
    if nesterov and how.foreach is not False and not how.fused:
        grads = [grad.clone() for grad in grads]  # torch adds to what it is given
    _run_sgd(params, grads, buffers, lr, h.momentum, nesterov, how)


def _run_sgd(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor | None],
    lr: float,
    momentum: float,
    nesterov: bool,
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
        nesterov=nesterov,
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


def _nadam(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    nadam(
        params,
        grads,
        [s["exp_avg"] for s in states],
        [s["exp_avg_sq"] for s in states],
        [s["mu_product"] for s in states],
        [s["step"] for s in states],
        foreach=how.foreach,
        beta1=h.beta1,
        beta2=h.beta2,
        lr=lr,
        weight_decay=0.0,
        momentum_decay=h.momentum_decay,
        eps=h.eps,
        has_complex=any(p.is_complex() for p in params),
    )


#: Rules that torch has a fused implementation of.
FUSED = ("sgd", "momentum", "nesterov", "adam")

NAMESAKES: dict[str, Kernel] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": partial(_momentum, nesterov=True),
    "rmsprop": _rmsprop,
    "adam": _adam,
    "nadam": _nadam,
}
