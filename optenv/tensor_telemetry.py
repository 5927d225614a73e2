"""Telemetry of single parameter tensors, for policies that act on each of them.

Every tensor of a run is observed by the same formulas as a run, applied to its own squared
norms and inner products; and by its share of the decrease of the loss that the slope along
the last step predicts. Features that all tensors of a run have in common (progress and
losses) are left to the observation of the run. Environment and exported optimizer both call
:func:`observe_tensors`.

Tensors have shape ``[B, T]``, one entry for each of the ``T`` parameter tensors of a run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .elementwise import bounded
from .telemetry import (
    ALL_FEATURES,
    LOSS_FEATURE_SETS,
    OBSERVATION_BOUND,
    VALIDATION_FEATURES,
    Control,
    History,
    Losses,
    Probe,
    observe,
)
from .telemetry.statistics import TINY

__all__ = [
    "TENSOR_FEATURES",
    "empty_history",
    "inner_product",
    "inner_products",
    "observe_tensors",
    "of_run",
]

#: Features of progress, which are the same for all tensors of a run, as are its losses.
_PROGRESS = ("progress", "elapsed", "remaining", "run_length")

_SHARED = (*_PROGRESS, *LOSS_FEATURE_SETS["both"], *VALIDATION_FEATURES)

_OWN = tuple(name for name in ALL_FEATURES if name not in _SHARED)

#: Names of the features of each tensor: those of :data:`optenv.telemetry.ALL_FEATURES` in
#: which the tensors of a run differ, and ``"decrease_share"``: the log of the absolute
#: inner product of the tensor's gradient and step, relative to the largest among the
#: tensors, divided by 3; 0 without a step.
TENSOR_FEATURES: tuple[str, ...] = (*_OWN, "decrease_share")

#: Number of elements above which a norm, which allocates nothing, is faster than the inner
#: product of a tensor with itself, which allocates a tensor of the products.
_LARGE = 2**16


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Compute the inner product ``[B]`` of two tensors ``[B, n]``."""
    if a is b and a.numel() > _LARGE and not a.requires_grad:
        return torch.linalg.vector_norm(a, dim=1).square()
    return torch.linalg.vecdot(a, b)


def inner_products(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Compute the inner products ``[B, T]`` of ``T`` pairs of tensors ``[B, n]``."""
    return torch.stack([inner_product(x, y) for x, y in zip(a, b, strict=True)], dim=1)


def of_run(probe: Probe) -> Probe:
    """Return the probe ``[B]`` of whole runs, given the probe of tensors ``[B, T]``."""
    return Probe(*(part.sum(1) for part in probe))


def empty_history(like: Tensor) -> Tensor:
    """Return the history ``[B, T, H]`` before the first window; ``like`` is ``[B, T]``.

    It holds the fields of :class:`~optenv.telemetry.History`, in their order.
    """
    return like.new_zeros(*like.shape, len(History._fields))


def observe_tensors(
    probe: Probe, losses: Losses, history: Tensor, control: Control
) -> tuple[Tensor, Tensor]:
    """Compute the observation of each tensor at a control step.

    Args:
        probe: inner products of each tensor, ``[B, T]``.
        losses: losses of the runs since the last control step, ``[B]``.
        history: from :func:`empty_history` or from the last call, ``[B, T, H]``.
        control: progress ``[B]`` and length of the runs; the other fields for each tensor,
            ``[B, T]``.

    Returns:
        Observation ``[B, T, len(TENSOR_FEATURES)]``, and the history for the next control
        step.
    """
    shape = control.log_multiplier.shape

    def each(value: Tensor) -> Tensor:
        """Return a value of the runs, ``[B]``, for each of their tensors, ``[B * T]``."""
        return value.unsqueeze(1).expand(shape).reshape(-1)

    observation, updated = observe(
        Probe(*(part.reshape(-1) for part in probe)),
        Losses(*(each(part) for part in losses)),
        History(*history.flatten(0, 1).unbind(-1)),
        Control(
            progress=None if control.progress is None else each(control.progress),
            length=control.length,
            log_multiplier=control.log_multiplier.reshape(-1),
            log_lr=control.log_lr.reshape(-1),
            previous_action=control.previous_action.reshape(-1),
        ),
        names=_OWN,
    )
    share = _decrease_share(probe.last_grad_dot_step).unsqueeze(-1)
    return (
        torch.cat([observation.unflatten(0, shape), share], dim=-1),
        torch.stack(updated, dim=-1).unflatten(0, shape),
    )


def _decrease_share(slope: Tensor) -> Tensor:
    """Compute the feature ``decrease_share`` from inner products of gradient and step.

    Both are ``[B, T]``.
    """
    size = slope.abs()
    largest = size.amax(dim=1, keepdim=True)
    ratio = torch.where(largest > 0, size / torch.where(largest > 0, largest, 1.0), 1.0)
    return bounded(ratio.clamp(min=TINY).log() / 3.0, OBSERVATION_BOUND)
