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
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .probing import TINY, Losses, Probe

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
    # Few operations on many numbers: those of a single run are too few to be quick, and
    # plain numbers among the operands are slow.
    has_loss, moved = losses.seen > 0, probe.step_sq > 0
    zero = torch.zeros_like(control.log_multiplier)
    slope = probe.last_grad_dot_step.abs()
    variance = losses.deviation / (losses.seen - 1).clamp(min=1)
    squares = (variance, probe.grad_sq, probe.param_sq, probe.step_sq)
    logs = torch.stack([*squares, losses.mean, losses.mean.abs(), slope])
    logs = logs.clamp(min=TINY).log()
    deviation, grad, param, step = (0.5 * logs[:4]).unbind()
    log_mean, log_abs, log_slope = logs[4:].unbind()
    cos_grads, cos_step, cos_descent = _cosines(probe).unbind()

    log_loss = torch.where(has_loss, log_mean, history.loss_previous)
    # A window of one loss tells nothing of the noise: keep what was known.
    noise = (deviation - log_abs).clamp(-12, 4)
    noise = torch.where(losses.seen > 1, noise, history.loss_noise)
    kept = [
        history.loss_initial,
        history.loss_previous,
        history.loss_best,
        torch.minimum(history.loss_best, log_loss),
        torch.lerp(history.loss_fast, log_loss, _FAST),
        torch.lerp(history.loss_slow, log_loss, _SLOW),
    ]
    losses_so_far = torch.where(history.loss_windows == 0, log_loss, torch.stack(kept))
    loss_initial, loss_previous, loss_best, *averages = losses_so_far.unbind()
    loss_lowest, loss_fast, loss_slow = averages
    kept = [history.grad_initial, history.grad_previous, history.param_initial]
    now = torch.stack([grad, grad, param])
    norms = torch.where(history.windows == 0, now, torch.stack(kept))
    grad_initial, grad_previous, param_initial = norms.unbind()

    new = History(
        windows=history.windows + 1,
        loss_windows=history.loss_windows + has_loss.to(zero.dtype),
        loss_initial=loss_initial,
        loss_previous=log_loss,
        loss_best=loss_lowest,
        loss_fast=loss_fast,
        loss_slow=loss_slow,
        loss_noise=noise,
        grad_initial=grad_initial,
        grad_previous=grad,
        param_initial=param_initial,
        cos_grads=torch.lerp(history.cos_grads, cos_grads, _COSINE),
        cos_step=torch.lerp(history.cos_step, cos_step, _COSINE),
    )
    # One overflow, as of half-precision gradients, is not remembered for ever.
    latest = torch.stack(new)
    new = History(*torch.where(latest.isfinite(), latest, torch.stack(history)).unbind())

    progress, length = control.progress, control.length
    left = None if progress is None else torch.stack([progress, 1 - progress])
    shares = (zero, zero) if left is None else (left + 0.003).clamp(max=1.0).log().unbind()
    values = {
        "progress": zero + 0.5 if progress is None else progress,
        "elapsed": shares[0],
        "remaining": shares[1],
        "run_length": zero if length is None else zero + math.log(length / 400) / 3,
        "log_multiplier": control.log_multiplier,
        "learning_rate": control.log_lr,
        "previous_action": control.previous_action,
        "has_loss": has_loss.to(zero.dtype),
        "loss_vs_initial": log_loss - new.loss_initial,
        "loss_vs_previous": log_loss - loss_previous,
        "loss_vs_best": log_loss - loss_best,
        "loss_trend": new.loss_fast - new.loss_slow,
        "loss_noise": torch.where(new.loss_noise == 0, -2.0, new.loss_noise),
        "grad_vs_initial": grad - new.grad_initial,
        "grad_vs_previous": grad - grad_previous,
        "cos_grads": cos_grads,
        "cos_grads_mean": new.cos_grads,
        "cos_step": cos_step,
        "cos_step_mean": new.cos_step,
        "cos_descent": cos_descent,
        "slope_ratio": torch.where(
            moved, probe.grad_dot_step / slope.clamp(min=TINY), zero
        ),
        "step_size": torch.where(moved, step - param, -7.0),
        "predicted_decrease": torch.where(moved & has_loss, log_slope - log_loss, -5.0),
        "param_growth": param - new.param_initial,
    }
    observation = torch.stack([values[name] for name in FEATURES], dim=-1)
    offset, k, divisor, is_squashed = _forms(observation.dtype, observation.device)
    observation = (observation + offset) * k
    observation = torch.where(is_squashed, observation.asinh(), observation) / divisor
    observation = observation.nan_to_num(
        nan=OBSERVATION_BOUND, posinf=OBSERVATION_BOUND, neginf=-OBSERVATION_BOUND
    )
    return observation.clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND), new


def _cosines(probe: Probe) -> Tensor:
    """Of gradient and last one, gradient and step, last gradient and step, ``[3, B]``."""
    # Roots apart: the product of two small squared norms underflows in float32.
    roots = torch.stack([probe.grad_sq, probe.last_grad_sq, probe.step_sq]).sqrt()
    grad, last, step = roots.unbind()
    dots = [probe.grad_dot_last, probe.grad_dot_step, probe.last_grad_dot_step]
    scales = torch.stack([grad * last, grad * step, last * step])
    return torch.where(scales > 0, torch.stack(dots) / scales.clamp(min=TINY), 0.0)


#: What is added to features, and what they are then divided by.
_SCALES = {
    "progress": (-0.5, 0.5), "elapsed": (0.0, 3.0), "remaining": (0.0, 3.0),
    "run_length": (0.0, 1.0), "log_multiplier": (0.0, 3.0), "learning_rate": (0.0, 2.0),
    "previous_action": (0.0, 1.0), "has_loss": (0.0, 1.0), "loss_vs_initial": (0.0, 2.0),
    "loss_noise": (2.0, 2.0), "grad_vs_initial": (0.0, 2.0), "step_size": (7.0, 2.0),
    "predicted_decrease": (5.0, 3.0),
}  # fmt: skip

#: The others are squashed to asinh(k x) / 2, which is odd, linear with slope k/2 near 0 and
#: logarithmic far from it; and their k.
_SQUASHED = {
    "loss_vs_previous": 30, "loss_vs_best": 30, "loss_trend": 30, "grad_vs_previous": 3,
    "cos_grads": 10, "cos_grads_mean": 10, "cos_step": 10, "cos_step_mean": 10,
    "cos_descent": 10, "slope_ratio": 3, "param_growth": 3,
}  # fmt: skip


@lru_cache
def _forms(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Offset, k, divisor ``[F]``, and whether a feature is squashed."""
    rows = [
        (0.0, _SQUASHED[name], 2.0)
        if name in _SQUASHED
        else (_SCALES[name][0], 1.0, _SCALES[name][1])
        for name in FEATURES
    ]
    offset, k, divisor = torch.tensor(rows, dtype=dtype, device=device).T.contiguous()
    return offset, k, divisor, k > 1
