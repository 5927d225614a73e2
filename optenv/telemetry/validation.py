"""Validation losses: their history in a run, and the features computed from it.

A validation loss is given at some control steps, or never. It may have any unit and sign:
only differences are observed, in units of the range of the run's validation losses (for the
difference from the training loss, in units of the range of the training loss).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import elementwise
from ..elementwise import (
    Number,
    as_floats,
    as_tensors,
    clamp,
    each,
    is_single,
    isfinite,
    lerp,
    minimum,
    number_of,
    where,
    zeros_like,
)
from .history import log_ratio, ratio

__all__ = ["ValidationHistory", "record_validation", "validation_features"]

#: Weight of the newest change in the average of the changes.
_USUAL = 0.3

#: Replaces an unknown logarithm.
_CENTRE = -2.0


class ValidationHistory(NamedTuple):
    """Summary of the validation losses of a run so far, all tensors ``[B]``.

    Attributes:
        seen: number of validation losses.
        age: control steps since the last one; 0 before the first.
        latest, previous: the last validation loss, and the one before it.
        lowest, highest: lowest and highest validation loss so far.
        change: exponential average of the absolute changes.
    """

    seen: Tensor
    age: Tensor
    latest: Tensor
    previous: Tensor
    lowest: Tensor
    highest: Tensor
    change: Tensor

    @classmethod
    def empty(cls, like: Tensor) -> ValidationHistory:
        """Make the history before the first loss; ``like`` is a tensor ``[B]``."""
        return cls(*(torch.zeros_like(like) for _ in cls._fields))


def record_validation(history: ValidationHistory, loss: Tensor) -> ValidationHistory:
    """Return the history at the next control step.

    Args:
        history: history at the previous control step.
        loss: validation losses ``[B]`` that have been measured since; NaN, or another value
            that is not finite, means no validation loss.
    """
    most = torch.finfo(loss.dtype).max
    if not (is_single(loss) and is_single(history.latest)):
        return ValidationHistory(*_recorded(history, loss, most))
    floats = as_floats((history, loss))
    return ValidationHistory(*as_tensors(_recorded(*floats, most), loss))


def _recorded(history: ValidationHistory, loss: Number, most: float) -> tuple[Number, ...]:
    """Compute :func:`record_validation`; changes of the loss are at most ``most``."""
    given, is_first = isfinite(loss), history.seen == 0
    loss = where(given, loss, history.latest)  # keeps NaN out of the gradients
    lowest, highest, previous = each(
        lambda value: where(is_first, loss, value),
        [history.lowest, history.highest, history.latest],
    )
    change = clamp(abs(loss - previous), high=most)
    # The first change is the first value of the average.
    usual = where(history.change > 0, lerp(history.change, change, _USUAL), change)
    updated = ValidationHistory(
        seen=history.seen + 1,
        age=zeros_like(history.age),
        latest=loss,
        previous=previous,
        lowest=minimum(lowest, loss),
        highest=-minimum(-highest, -loss),
        change=usual,
    )
    others = history._replace(age=history.age + number_of(history.seen > 0, history.age))
    return each(lambda new, old: where(given, new, old), updated, others)


def validation_features(
    history: ValidationHistory, mean_loss: Number, loss_range: Number
) -> dict[str, Number]:
    """Compute the features of validation losses, each a tensor ``[B]`` or a float.

    A ratio whose unit is 0, as after the first loss, becomes 0, and its logarithm is
    replaced by a constant.

    Args:
        history: history at this control step; its fields are tensors ``[B]`` or floats.
        mean_loss: mean training loss of the window.
        loss_range: highest minus lowest mean loss of all windows; 0 if losses are hidden.
    """
    has_loss, span = history.seen > 0, history.highest - history.lowest
    return {
        "has_validation": number_of(has_loss, history.latest),
        "validation_age": elementwise.log(1.0 + history.age),
        "validation_fall": ratio(history.previous - history.latest, span),
        "validation_rise": ratio(history.latest - history.lowest, span),
        "validation_usual_change": log_ratio(history.change, span, _CENTRE),
        "validation_gap": where(
            has_loss, ratio(history.latest - mean_loss, loss_range), 0.0
        ),
    }
