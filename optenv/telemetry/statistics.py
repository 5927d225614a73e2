"""Statistics of updates: losses of a window, inner products of gradient and step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import elementwise
from ..elementwise import Number, as_tensors, clamp, is_single, zeros_like

__all__ = ["TINY", "Losses", "Probe", "first_probe", "log_loss", "log_or_tiny", "probe"]

#: Replaces zero as the argument of a logarithm or as a divisor.
TINY = 1e-30


class Losses(NamedTuple):
    """Running mean and sum of squared deviations of a window's losses (Welford, 1962).

    Attributes:
        seen: number of losses.
        mean: their mean.
        deviation: sum of squared deviations from the mean.
    """

    seen: Number
    mean: Number
    deviation: Number

    @classmethod
    def empty(cls, zero: Number) -> Losses:
        """Make statistics of no losses; ``zero`` is a zero of the wanted type and shape."""
        return cls(zero, zero, zero)

    def record(self, loss: Number) -> Losses:
        """Return the statistics with one more loss."""
        seen = self.seen + 1
        delta = loss - self.mean
        mean = self.mean + delta / seen
        return Losses(seen, mean, self.deviation + delta * (loss - mean))

    @classmethod
    def numbers(cls, losses: Sequence[Tensor], before: Losses | None = None) -> Losses:
        """Make the statistics of losses ``[B]``, at least one, in their order.

        Args:
            losses: the losses.
            before: statistics that this method returned for earlier losses, or None.

        Returns:
            The statistics; for a single run without a graph as Python numbers, which are
            faster.
        """
        found: Sequence[Any] = losses
        if is_single(losses[0]):
            found = torch.cat([*losses]).tolist()
        recorded = cls.empty(zeros_like(found[0])) if before is None else before
        for loss in found:
            recorded = recorded.record(loss)
        return recorded

    @classmethod
    def of(cls, losses: Sequence[Tensor], before: Losses | None = None) -> Losses:
        """Make the statistics of losses, see :meth:`numbers`, as tensors ``[B]``."""
        like = losses[0]
        if len(losses) == 1 and before is None:
            return cls(torch.ones_like(like), like, like - like)
        recorded = cls.numbers(losses, before)
        return cls(*as_tensors(recorded, like)) if is_single(like) else recorded


class Probe(NamedTuple):
    r"""Inner products around one update :math:`\theta \leftarrow \theta + s`.

    ``last_grad`` is the gradient that the update used, ``step`` is :math:`s`, ``grad`` is
    the gradient at the new parameters, and ``param`` are the new parameters. Products with
    ``last_grad`` or ``step`` are zero before the first update.
    """

    grad_sq: Tensor
    last_grad_sq: Tensor
    step_sq: Tensor
    param_sq: Tensor
    grad_dot_last: Tensor
    grad_dot_step: Tensor
    last_grad_dot_step: Tensor


def first_probe(dot: Callable[[Any, Any], Tensor], grad: Any, param: Any) -> Probe:
    """Measure the probe before the first update: only norms of gradient and parameters."""
    grad_sq, param_sq = dot(grad, grad), dot(param, param)
    zero = torch.zeros_like(grad_sq)
    return Probe(grad_sq, zero, zero, param_sq, zero, zero, zero)


def probe(
    dot: Callable[[Any, Any], Tensor], grad: Any, param: Any, last_grad: Any, step: Any
) -> Probe:
    """Measure a probe.

    Args:
        dot: inner product ``-> [B]`` of two operands.
        grad, param, last_grad, step: operands of ``dot``, see :class:`Probe`.
    """
    return Probe(
        grad_sq=dot(grad, grad),
        last_grad_sq=dot(last_grad, last_grad),
        step_sq=dot(step, step),
        param_sq=dot(param, param),
        grad_dot_last=dot(grad, last_grad),
        grad_dot_step=dot(grad, step),
        last_grad_dot_step=dot(last_grad, step),
    )


def log_loss(mean: Number) -> Number:
    """Compute the log of a mean loss, as the history stores it."""
    return log_or_tiny(mean)


def log_or_tiny(x: Number) -> Number:
    """Compute the logarithm of a number that may be 0."""
    return elementwise.log(clamp(x, low=TINY))
