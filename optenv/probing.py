"""Sufficient statistics of updates: losses of a window, and inner products at its end.

All tensors here have shape ``[B]``, one entry a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: A tensor ``[B]``, or a float for a single run.
Number = Any

#: In the place of zero, where there is a logarithm or a quotient of it.
TINY = 1e-30


class Losses(NamedTuple):
    """Running mean and sum of squared deviations of a window's losses (Welford)."""

    seen: Number
    mean: Number
    deviation: Number

    @classmethod
    def empty(cls, zero: Number) -> Losses:
        """No losses yet; ``zero`` is a zero of the wanted kind."""
        return cls(zero, zero, zero)

    def record(self, loss: Number) -> Losses:
        """The same with one more loss."""
        seen = self.seen + 1
        delta = loss - self.mean
        mean = self.mean + delta / seen
        return Losses(seen, mean, self.deviation + delta * (loss - mean))


class Probe(NamedTuple):
    """Inner products around one update ``theta -> theta + step``.

    ``last_grad`` is the gradient that the update used; ``grad`` the next one, at the new
    parameters ``param``. All zero where there was no update yet.
    """

    grad_sq: Tensor
    last_grad_sq: Tensor
    step_sq: Tensor
    param_sq: Tensor
    grad_dot_last: Tensor
    grad_dot_step: Tensor
    last_grad_dot_step: Tensor


def first_probe(dot: Callable[[Any, Any], Tensor], grad: Any, param: Any) -> Probe:
    """Probe before the first update: gradient and parameter norm alone."""
    grad_sq, param_sq = dot(grad, grad), dot(param, param)
    zero = torch.zeros_like(grad_sq)
    return Probe(grad_sq, zero, zero, param_sq, zero, zero, zero)


def probe(
    dot: Callable[[Any, Any], Tensor], grad: Any, param: Any, last_grad: Any, step: Any
) -> Probe:
    """Measure a probe with ``dot``, the inner product ``-> [B]`` of two operands."""
    return Probe(
        grad_sq=dot(grad, grad),
        last_grad_sq=dot(last_grad, last_grad),
        step_sq=dot(step, step),
        param_sq=dot(param, param),
        grad_dot_last=dot(grad, last_grad),
        grad_dot_step=dot(grad, step),
        last_grad_dot_step=dot(last_grad, step),
    )


def log_loss(mean: Tensor) -> Tensor:
    """Log of a mean loss ``[B]``, as the history has it."""
    return mean.clamp(min=TINY).log()
