"""History of a run's earlier windows, with which each window is compared."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import elementwise
from ..elementwise import (
    Number,
    clamp,
    each,
    isfinite,
    lerp,
    minimum,
    number_of,
    where,
)
from .statistics import TINY, Losses, Probe, log_or_tiny

__all__ = [
    "History",
    "Reference",
    "Window",
    "log_ratio",
    "ratio",
    "relative_fall",
    "summarize",
    "update_history",
]


class History(NamedTuple):
    """Summary of the earlier windows, to which the observation relates the current one.

    All are tensors ``[B]``. Logarithms are natural, averages are exponential over windows,
    and the loss of a window is the mean of the losses of its updates.

    Attributes:
        windows, loss_windows: number of windows so far, and of windows with a loss.
        loss_initial, loss_previous, loss_best: logarithm of the loss of the first window,
            of the previous one, and of the one with the lowest loss.
        loss_fast, loss_slow: fast and slow average of the logarithm of the loss.
        loss_noise: logarithm of the relative standard deviation of the losses in the last
            window that had several.
        grad_initial, grad_previous: logarithm of the norm of the gradient in the first
            window and in the previous one.
        param_initial: logarithm of the norm of the parameters in the first window.
        cos_grads, cos_step: average of the cosine between successive gradients, and
            between gradient and step.
        loss_mean, loss_lowest, loss_highest: loss of the previous window (itself, of any
            sign), and the lowest and highest loss of a window.
        loss_average, loss_change, loss_variance: averages of the loss, of its absolute
            changes, and of the variance of losses within a window.
    """

    windows: Tensor
    loss_windows: Tensor
    loss_initial: Tensor
    loss_previous: Tensor
    loss_best: Tensor
    loss_fast: Tensor
    loss_slow: Tensor
    loss_noise: Tensor
    grad_initial: Tensor
    grad_previous: Tensor
    param_initial: Tensor
    cos_grads: Tensor
    cos_step: Tensor
    loss_mean: Tensor
    loss_lowest: Tensor
    loss_highest: Tensor
    loss_average: Tensor
    loss_change: Tensor
    loss_variance: Tensor

    @classmethod
    def empty(cls, like: Tensor) -> History:
        """Make the history before the first window; ``like`` is a tensor ``[B]``."""
        return cls(*(torch.zeros_like(like) for _ in cls._fields))


class Window(NamedTuple):
    """Logarithms and cosines of one window; ``has_loss`` and ``has_step`` are bool.

    ``mean_loss`` and ``variance`` are those of its ``seen`` losses, without a logarithm.
    """

    has_loss: Tensor
    has_step: Tensor
    loss: Tensor
    loss_noise: Tensor
    mean_loss: Tensor
    variance: Tensor
    seen: Tensor
    grad: Tensor
    param: Tensor
    step: Tensor
    slope: Tensor
    log_slope: Tensor
    cos_grads: Tensor
    cos_step: Tensor
    cos_descent: Tensor


class Reference(NamedTuple):
    """Values of earlier windows, with which the current one is compared.

    ``loss_previous``, ``loss_best`` and ``grad_previous`` are logarithms; ``mean_previous``
    and ``mean_lowest`` are mean losses, and ``mean_change`` is their usual change, 0 before
    the first change. ``has_change`` is True if this window and an earlier one have losses.
    """

    loss_previous: Tensor
    loss_best: Tensor
    grad_previous: Tensor
    mean_previous: Tensor
    mean_lowest: Tensor
    mean_change: Tensor
    has_change: Tensor


# Weights of the newest window in the moving averages.
_FAST, _SLOW, _COSINE, _USUAL = 0.4, 0.1, 0.3, 0.3

# In the first windows with losses, the range of the losses is reset if the usual change of
# their mean is more than this many times the latest one: earlier losses were then of
# another kind.
_EARLY_WINDOWS, _OTHER = 5, 1e4


def summarize(probe: Probe, losses: Losses, history: History) -> Window:
    """Take the logarithms and cosines of a window's statistics."""
    slope = abs(probe.last_grad_dot_step)
    variance = losses.deviation / clamp(losses.seen - 1, low=1)
    squares = (variance, probe.grad_sq, probe.param_sq, probe.step_sq)
    logs = each(log_or_tiny, [*squares, losses.mean, abs(losses.mean), slope])
    deviation, grad, param, step = (0.5 * value for value in logs[:4])
    log_mean, log_abs, log_slope = logs[4:]
    cos_grads, cos_step, cos_descent = _cosines(probe)
    # A window without losses keeps the previous loss; one with a single loss keeps the
    # previous noise.
    has_loss = losses.seen > 0
    loss = where(has_loss, log_mean, history.loss_previous)
    noise = clamp(deviation - log_abs, -12, 4)
    noise = where(losses.seen > 1, noise, history.loss_noise)
    mean_loss = where(has_loss, losses.mean, history.loss_mean)
    return Window(
        has_loss=has_loss,
        has_step=probe.step_sq > 0,
        loss=loss,
        loss_noise=noise,
        mean_loss=mean_loss,
        variance=variance,
        seen=losses.seen,
        grad=grad,
        param=param,
        step=step,
        slope=slope,
        log_slope=log_slope,
        cos_grads=cos_grads,
        cos_step=cos_step,
        cos_descent=cos_descent,
    )


def _cosines(probe: Probe) -> tuple[Number, ...]:
    """Compute three cosines: (grad, last_grad), (grad, step), (last_grad, step)."""
    # Roots before products: the product of two small squares underflows in float32.
    squares = [probe.grad_sq, probe.last_grad_sq, probe.step_sq]
    grad, last, step = each(elementwise.sqrt, squares)
    dots = [probe.grad_dot_last, probe.grad_dot_step, probe.last_grad_dot_step]
    return each(_cosine, dots, [grad * last, grad * step, last * step])


def _cosine(dot: Number, scale: Number) -> Number:
    """Divide an inner product by the product of the norms; 0 if that is 0."""
    return where(scale > 0, dot / clamp(scale, low=TINY), 0.0)


def update_history(window: Window, history: History) -> tuple[Reference, History]:
    """Return the reference values of a window, and the history for the next window."""
    # The first window (for losses, the first with a loss) is its own reference.
    earlier = [
        history.loss_initial,
        history.loss_previous,
        history.loss_best,
        minimum(history.loss_best, window.loss),
        lerp(history.loss_fast, window.loss, _FAST),
        lerp(history.loss_slow, window.loss, _SLOW),
    ]
    is_first = history.loss_windows == 0
    references = each(lambda value: where(is_first, window.loss, value), earlier)
    loss_initial, loss_previous, loss_best, *averages = references
    loss_lowest, loss_fast, loss_slow = averages
    is_first_window = history.windows == 0
    norms = each(
        lambda now, value: where(is_first_window, now, value),
        [window.grad, window.grad, window.param],
        [history.grad_initial, history.grad_previous, history.param_initial],
    )
    grad_initial, grad_previous, param_initial = norms
    means, of_means = _update_means(window, history, is_first)
    updated = History(
        windows=history.windows + 1,
        loss_windows=history.loss_windows + number_of(window.has_loss, window.loss),
        loss_initial=loss_initial,
        loss_previous=window.loss,
        loss_best=loss_lowest,
        loss_fast=loss_fast,
        loss_slow=loss_slow,
        loss_noise=window.loss_noise,
        grad_initial=grad_initial,
        grad_previous=window.grad,
        param_initial=param_initial,
        cos_grads=lerp(history.cos_grads, window.cos_grads, _COSINE),
        cos_step=lerp(history.cos_step, window.cos_step, _COSINE),
        **of_means,
    )
    # Values that are not finite, such as overflows in half precision, are not kept.
    kept = each(lambda new, old: where(isfinite(new), new, old), updated, history)
    updated = History(*kept)
    return Reference(loss_previous, loss_best, grad_previous, *means), updated


def _update_means(
    window: Window, history: History, is_first: Number
) -> tuple[tuple[Number, ...], dict[str, Number]]:
    """Compare mean losses, of any sign, with those of earlier windows.

    Returns:
        The last four fields of the :class:`Reference`, and the fields of the next
        :class:`History` that are about mean losses.
    """
    mean = window.mean_loss
    earlier = each(
        lambda value: where(is_first, mean, value),
        [
            history.loss_mean,
            history.loss_lowest,
            history.loss_highest,
            history.loss_average,
        ],
    )
    change = abs(mean - history.loss_mean)
    has_change = window.has_loss & (history.loss_windows > 0)
    # Without this, quite different losses of the first windows would set the range forever.
    is_early = (history.loss_windows <= _EARLY_WINDOWS) & (change > 0)
    were_others = has_change & is_early & (history.loss_change > _OTHER * change)
    earlier = each(lambda value: where(were_others, history.loss_mean, value), earlier)
    previous, lowest, highest, average = earlier
    before = where(were_others, change, history.loss_change)
    # The first change, and the first variance, are the first values of their averages.
    usual = where(before > 0, before, change)
    usual = where(has_change, lerp(usual, change, _USUAL), before)
    variance = where(history.loss_variance > 0, history.loss_variance, window.variance)
    variance = lerp(variance, window.variance, _USUAL)
    return (previous, lowest, before, has_change), {
        "loss_mean": mean,
        "loss_lowest": minimum(lowest, mean),
        "loss_highest": -minimum(-highest, -mean),
        "loss_average": where(window.has_loss, lerp(average, mean, _SLOW), average),
        "loss_change": usual,
        "loss_variance": where(window.seen > 1, variance, history.loss_variance),
    }


def relative_fall(history: History, mean: Tensor) -> Tensor:
    """Compute the fall of a mean loss since the window before, in units of the range.

    Args:
        history: history of the earlier windows, ``[B]``.
        mean: mean loss of a window, ``[B]``.

    Returns:
        The fall ``[B]`` in units of the range of all windows' means, this one included; 0
        for the first window.
    """
    span = torch.maximum(history.loss_highest, mean)
    span = span - torch.minimum(history.loss_lowest, mean)
    fall = ratio(history.loss_mean - mean, span)
    return torch.where(history.loss_windows > 0, fall, 0.0)


def ratio(change: Number, unit: Number) -> Number:
    """Divide a change by a unit; 0 if the unit is 0."""
    is_unit = unit > 0
    return where(is_unit, change / where(is_unit, unit, 1.0), 0.0)


#: Smallest ratio that is distinguished from 0.
_LEAST_RATIO = math.exp(-12.0)


def log_ratio(size: Number, unit: Number, unknown: float) -> Number:
    """Compute the log of a ratio, at least -12; ``unknown`` if either number is 0."""
    known = (size > 0) & (unit > 0)
    quotient = where(known, size, 1.0) / where(known, unit, 1.0)
    return where(known, elementwise.log(clamp(quotient, low=_LEAST_RATIO)), unknown)
