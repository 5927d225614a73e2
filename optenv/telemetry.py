"""Telemetry: the observation that is made of the statistics of updates.

Environment and exported optimizer both (1) record the loss of every update, (2) measure a
:class:`~optenv.probing.Probe` of gradients and steps on the last update of each window, and
(3) call :func:`observe`. They differ only in how an inner product is taken: row sums over a
batch of flat parameters, or a sum over a list of tensors.

The observation is *scale-free*: log-ratios to the run's own history, cosines, relative step
sizes, progress; never a raw loss, gradient norm or parameter count. The two exceptions are
what a user sets: the learning rate, and the length of the run, which says how far that rate
leads. Windows are shares of the run with one probe each, however long they are.

All tensors here have shape ``[B]``, one entry a run, unless stated.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .probing import Losses, Probe

#: Bumped with every change of meaning of an observation; policies carry it.
FEATURE_VERSION = 2

#: Observations lie in ``[-OBSERVATION_BOUND, OBSERVATION_BOUND]``.
OBSERVATION_BOUND = 4.0

FEATURES: dict[str, str] = {
    "progress": "2 t/T - 1",
    "elapsed": "log of the elapsed share of the run, 0 at the end",
    "remaining": "log of the remaining share of the run, 0 at the start",
    "run_length": "log of the run's updates against 400, divided by 3",
    "log_multiplier": "log-multiplier s of the learning rate, divided by 3",
    "learning_rate": "log of the learning rate against a usual one of the rule, halved",
    "previous_action": "what the last action asked s to move by, in nats",
    "has_loss": "1 if losses are given, 0 if not (all loss features are then 0)",
    "loss_vs_initial": "log mean loss of the window against the first loss, halved",
    "loss_vs_previous": "the same against the window before, squashed (k=30)",
    "loss_vs_best": "the same against the lowest window so far, squashed (k=30)",
    "loss_trend": "fast minus slow moving average of the log loss, squashed (k=30)",
    "loss_noise": "log of (deviation / mean) of the losses of a window, centred",
    "grad_vs_initial": "log gradient norm against the first, halved",
    "grad_vs_previous": "log gradient norm against the last probe, squashed (k=3)",
    "cos_grads": "cosine of the gradient and the one before it, squashed (k=10)",
    "cos_grads_mean": "moving average of that cosine, squashed (k=10)",
    "cos_step": "cosine of the gradient and the step just taken, squashed (k=10)",
    "cos_step_mean": "moving average of that cosine, squashed (k=10)",
    "cos_descent": "cosine of the last step and the gradient it used, squashed (k=10)",
    "slope_ratio": "slope along the step after it, against before (-1 same, 0 minimum)",
    "step_size": "log of the step's norm against that of the parameters, centred",
    "predicted_decrease": "log of (decrease predicted by the slope / loss), centred",
    "param_growth": "log parameter norm against the first, squashed (k=3)",
}

#: Features that are 0 where no loss is given.
LOSS_FEATURES = (
    "has_loss", "loss_vs_initial", "loss_vs_previous", "loss_vs_best", "loss_trend",
    "loss_noise", "predicted_decrease",
)  # fmt: skip


class History(NamedTuple):
    """What the observation remembers of earlier windows."""

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

    @classmethod
    def empty(cls, like: Tensor) -> History:
        return cls(*(torch.zeros_like(like) for _ in cls._fields))


class Control(NamedTuple):
    """The controller's own part of the observation.

    Attributes:
        progress: share of the run's updates done, in [0, 1]; None if nobody knows how
            long the run will be, and the features of progress and length are then all 0.
        length: updates of the whole run; None if unknown.
        log_multiplier: current ``s``.
        log_lr: log of (base learning rate times ``e^s`` / a usual learning rate of the
            rule), without the schedule. Where it misleads, as with weights in unusual
            units, the other observations must tell.
        previous_action: what the last action asked ``s`` to move by, in nats.
    """

    progress: Tensor | None
    length: int | None
    log_multiplier: Tensor
    log_lr: Tensor
    previous_action: Tensor


# Moving averages over windows: weight of the newest.
_FAST, _SLOW, _COSINE = 0.4, 0.1, 0.3


def observe(
    probe: Probe, losses: Losses, history: History, control: Control
) -> tuple[Tensor, History]:
    """Make the observation at a decision.

    Args:
        probe: statistics of the last update and the gradient at the current parameters.
        losses: the losses seen since the last decision, the current one included; a
            count of 0 means that no loss is given.
        history: of the decisions before; ``History.empty`` at the first.
        control: progress and the controller's own state.

    Returns:
        ``[B, len(FEATURES)]`` observation in the order of :data:`FEATURES`, finite and
        within the bound, and the history for the next decision.
    """
    has_loss = losses.seen > 0
    zero = torch.zeros_like(control.log_multiplier)

    def when_first(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(history.windows == 0, new, old)

    def when_first_loss(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(history.loss_windows == 0, new, old)

    log_loss = torch.where(has_loss, _log(losses.mean), history.loss_previous)
    variance = losses.deviation / (losses.seen - 1).clamp(min=1)
    noise = 0.5 * _log(variance) - _log(losses.mean.abs())
    # A window of one loss tells nothing of the noise: keep what was known.
    noise = torch.where(losses.seen > 1, noise.clamp(-12, 4), history.loss_noise)
    grad, param = 0.5 * _log(probe.grad_sq), 0.5 * _log(probe.param_sq)
    cos_grads = _cosine(probe.grad_dot_last, probe.grad_sq, probe.last_grad_sq)
    cos_step = _cosine(probe.grad_dot_step, probe.grad_sq, probe.step_sq)
    moved = probe.step_sq > 0

    new = History(
        windows=history.windows + 1,
        loss_windows=history.loss_windows + has_loss.to(zero.dtype),
        loss_initial=when_first_loss(log_loss, history.loss_initial),
        loss_previous=log_loss,
        loss_best=when_first_loss(log_loss, torch.minimum(history.loss_best, log_loss)),
        loss_fast=when_first_loss(log_loss, torch.lerp(history.loss_fast, log_loss, _FAST)),
        loss_slow=when_first_loss(log_loss, torch.lerp(history.loss_slow, log_loss, _SLOW)),
        loss_noise=noise,
        grad_initial=when_first(grad, history.grad_initial),
        grad_previous=grad,
        param_initial=when_first(param, history.param_initial),
        cos_grads=torch.lerp(history.cos_grads, cos_grads, _COSINE),
        cos_step=torch.lerp(history.cos_step, cos_step, _COSINE),
    )
    # One overflow, as of half-precision gradients, is not remembered for ever.
    remembered = zip(new, history, strict=True)
    new = History(*(torch.where(n.isfinite(), n, old) for n, old in remembered))
    loss_previous = when_first_loss(log_loss, history.loss_previous)
    loss_best = when_first_loss(log_loss, history.loss_best)
    grad_previous = when_first(grad, history.grad_previous)
    slope = probe.last_grad_dot_step.abs()

    progress, length = control.progress, control.length
    values = {
        "progress": zero if progress is None else 2 * progress - 1,
        "elapsed": zero if progress is None else _share(progress),
        "remaining": zero if progress is None else _share(1 - progress),
        "run_length": zero if length is None else zero + math.log(length / 400) / 3,
        "log_multiplier": control.log_multiplier / 3,
        "learning_rate": control.log_lr / 2,
        "previous_action": control.previous_action,
        "has_loss": has_loss.to(zero.dtype),
        "loss_vs_initial": (log_loss - new.loss_initial) / 2,
        "loss_vs_previous": _squash(log_loss - loss_previous, 30),
        "loss_vs_best": _squash(log_loss - loss_best, 30),
        "loss_trend": _squash(new.loss_fast - new.loss_slow, 30),
        "loss_noise": torch.where(new.loss_noise == 0, zero, (new.loss_noise + 2) / 2),
        "grad_vs_initial": (grad - new.grad_initial) / 2,
        "grad_vs_previous": _squash(grad - grad_previous, 3),
        "cos_grads": _squash(cos_grads, 10),
        "cos_grads_mean": _squash(new.cos_grads, 10),
        "cos_step": _squash(cos_step, 10),
        "cos_step_mean": _squash(new.cos_step, 10),
        "cos_descent": _squash(
            _cosine(probe.last_grad_dot_step, probe.last_grad_sq, probe.step_sq), 10
        ),
        "slope_ratio": torch.where(
            moved, _squash(probe.grad_dot_step / slope.clamp(min=_TINY), 3), zero
        ),
        "step_size": torch.where(moved, (0.5 * _log(probe.step_sq) - param + 7) / 2, zero),
        "predicted_decrease": torch.where(
            moved & has_loss, (_log(slope) - log_loss + 5) / 3, zero
        ),
        "param_growth": _squash(param - new.param_initial, 3),
    }
    observation = torch.stack([values[name] for name in FEATURES], dim=-1)
    observation = observation.nan_to_num(
        nan=OBSERVATION_BOUND, posinf=OBSERVATION_BOUND, neginf=-OBSERVATION_BOUND
    )
    return observation.clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND), new


_TINY = 1e-30


def _log(value: Tensor) -> Tensor:
    return value.clamp(min=_TINY).log()


def _cosine(dot: Tensor, a_sq: Tensor, b_sq: Tensor) -> Tensor:
    # Roots apart: the product of two small squared norms underflows in float32.
    scale = a_sq.sqrt() * b_sq.sqrt()
    return torch.where(scale > 0, dot / scale.clamp(min=_TINY), torch.zeros_like(dot))


def _squash(value: Tensor, k: float) -> Tensor:
    """Odd, linear with slope k/2 near 0, logarithmic far from it."""
    return torch.asinh(k * value) / 2


def _share(share: Tensor) -> Tensor:
    return (share + 0.003).clamp(max=1.0).log() / 3
