"""Validation losses: what a run remembers of them, and the features that tell of it.

A validation loss is given at some control steps, or never. It is of any unit and any sign:
only differences are observed, in units of the range of the run's validation losses.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import elementwise
from ..elementwise import Number, clamp, number_of, where
from .history import ratio

__all__ = ["ValidationHistory", "record_validation", "validation_features"]

#: Weight of the newest change in the usual one.
_USUAL = 0.3

#: Logarithm that stands for an unknown one, and the least ratio that is told from 0.
_CENTRE, _LEAST_RATIO = -2.0, math.exp(-12.0)


class ValidationHistory(NamedTuple):
    """Summary of the validation losses of a run so far, all tensors ``[B]``.

    Attributes:
        seen: number of validation losses.
        age: control steps since the last one; 0 before the first.
        latest, previous: the last one, and the one before it.
        lowest, highest: the lowest and the highest so far.
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
        """Make the history before the first one; ``like`` is a tensor ``[B]``."""
        return cls(*(torch.zeros_like(like) for _ in cls._fields))


def record_validation(history: ValidationHistory, loss: Tensor) -> ValidationHistory:
    """Return the history at the next control step.

    Args:
        history: at the control step before.
        loss: validation losses ``[B]`` that have been measured since; one that is not
            finite, such as NaN, stands for none.
    """
    given, is_first = loss.isfinite(), history.seen == 0
    loss = torch.where(given, loss, history.latest)  # so that NaN spoils no gradient
    lowest, highest, previous = (
        torch.where(is_first, loss, value)
        for value in (history.lowest, history.highest, history.latest)
    )
    change = (loss - previous).abs()
    # The first change is the first value of the average.
    usual = torch.where(history.change > 0, history.change.lerp(change, _USUAL), change)
    updated = history._replace(
        seen=history.seen + 1,
        age=torch.zeros_like(history.age),
        latest=loss,
        previous=previous,
        lowest=torch.minimum(lowest, loss),
        highest=torch.maximum(highest, loss),
        change=torch.where(usual.isfinite(), usual, history.change),  # unless it overflows
    )
    others = history._replace(age=history.age + (history.seen > 0).to(history.age))
    pairs = zip(updated, others, strict=True)
    return ValidationHistory(*(torch.where(given, new, old) for new, old in pairs))


def validation_features(history: ValidationHistory) -> dict[str, Number]:
    """Compute the features of validation losses, each a tensor ``[B]`` or a float.

    A ratio whose unit is 0, as after the first loss, is 0, and its log the centre.

    Args:
        history: at this control step; its fields are tensors ``[B]`` or floats.
    """
    has_loss, span = history.seen > 0, history.highest - history.lowest
    known = (history.change > 0) & (span > 0)
    change = where(known, history.change, 1.0) / where(known, span, 1.0)
    logarithm = elementwise.log(clamp(change, low=_LEAST_RATIO))
    return {
        "has_validation": number_of(has_loss, history.latest),
        "validation_age": elementwise.log(1.0 + history.age),
        "validation_fall": ratio(history.previous - history.latest, span),
        "validation_rise": ratio(history.latest - history.lowest, span),
        "validation_usual_change": where(known, logarithm, _CENTRE),
    }
