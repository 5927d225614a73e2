"""The observation at a control step, computed from telemetry and history."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import elementwise
from ..elementwise import (
    Number,
    as_floats,
    as_tensors,
    bounded,
    clamp,
    each,
    is_single,
    number_of,
    row,
    where,
    zeros_like,
)
from .control import Control
from .features import (
    FEATURES,
    INVARIANT_LOSS_FEATURES,
    OBSERVATION_BOUND,
    float_forms_of,
    forms_of,
    has_invariant,
)
from .history import (
    History,
    Reference,
    Window,
    log_ratio,
    ratio,
    summarize,
    update_history,
)
from .registered import registered_features
from .statistics import TINY, Losses, Probe
from .validation import ValidationHistory, validation_features

__all__ = ["observe"]


def observe(
    probe: Probe,
    losses: Losses,
    history: History,
    control: Control,
    extra: Sequence[str] = (),
    names: tuple[str, ...] = tuple(FEATURES),
    validation: ValidationHistory | None = None,
) -> tuple[Tensor, History]:
    """Compute the observation at a control step.

    Args:
        probe: statistics of the last update and the gradient at the current parameters.
        losses: losses since the last control step, the current one included; a count of 0
            means that no loss is given.
        history: summary of the earlier windows; :meth:`History.empty` at the first.
        control: progress and the controller's own state.
        extra: names of registered features, see :func:`register_feature`.
        names: features to compute, out of :data:`ALL_FEATURES`.
        validation: validation losses so far; needed if ``names`` has features of them.

    Returns:
        Observation ``[B, len(names) + len(extra)]`` in the order of ``names`` and then of
        ``extra``, finite and of at most :data:`OBSERVATION_BOUND` in absolute value; and
        the history for the next control step.
    """
    # For a single run, Python floats are faster than operations of torch.
    like, single = control.log_multiplier, is_single(control.log_multiplier)
    given = (probe, losses, history, control)
    if single:
        floats = as_floats((*given, validation))
        probe, losses, history, control, validation = floats
    # 1. Logarithms and cosines of the window.
    window = summarize(probe, losses, history)
    # 2. The references for ratios, and the history for the next window.
    reference, updated = update_history(window, history)
    # 3. The features, in the form in which they are observed.
    values = {
        **_control_features(control),
        **_loss_features(window, reference, updated),
        **_invariant_loss_features(window, reference, updated, names),
        **_gradient_features(probe, window, reference, updated),
        **_validation_features(validation, window, updated),
    }
    features = [values[name] for name in names]
    if single:
        pairs = zip(features, float_forms_of(names), strict=True)
        shown = [bounded(_in_form(x, *form), OBSERVATION_BOUND) for x, form in pairs]
        observation, updated = row(shown, like), History(*as_tensors(updated, like))
        if not extra:
            return observation, updated
    else:
        observation = torch.stack(features, dim=-1)
        forms = forms_of(names, observation.dtype, observation.device)
        observation = _in_form(observation, *forms)
    if extra:
        others = registered_features(extra, *given)
        observation = torch.cat([observation, others.to(observation.dtype)], dim=-1)
    # 4. Finite and bounded, even if statistics are not.
    return bounded(observation, OBSERVATION_BOUND), updated


def _control_features(control: Control) -> dict[str, Number]:
    """Compute the features of progress, learning rate and previous action."""
    progress, length = control.progress, control.length
    zero = zeros_like(control.log_multiplier)
    elapsed = remaining = zero
    if progress is not None:
        fractions = [progress, 1 - progress]
        elapsed, remaining = each(_log_of_fraction, fractions)
    return {
        "progress": zero + 0.5 if progress is None else progress,
        "elapsed": elapsed,
        "remaining": remaining,
        "run_length": zero if length is None else zero + math.log(length / 400) / 3,
        "log_multiplier": control.log_multiplier,
        "learning_rate": control.log_lr,
        "previous_action": control.previous_action,
    }


def _log_of_fraction(fraction: Number) -> Number:
    """Compute the log of a fraction of the run; it stays above -6 for a fraction of 0."""
    return elementwise.log(clamp(fraction + 0.003, high=1.0))


def _loss_features(
    window: Window, reference: Reference, updated: History
) -> dict[str, Number]:
    """Compute the features of positive losses, except the predicted decrease."""
    return {
        "has_loss": number_of(window.has_loss, window.loss),
        "loss_vs_initial": window.loss - updated.loss_initial,
        "loss_vs_previous": window.loss - reference.loss_previous,
        "loss_vs_best": window.loss - reference.loss_best,
        "loss_trend": updated.loss_fast - updated.loss_slow,
        "loss_noise": where(updated.loss_noise == 0, -2.0, updated.loss_noise),
    }


def _invariant_loss_features(
    window: Window, reference: Reference, updated: History, names: tuple[str, ...]
) -> dict[str, Number]:
    """Compute the features of the loss that do not depend on its unit or an offset.

    A ratio whose unit is 0, as at the first window, becomes 0, and its logarithm
    ``_CENTRE``. Nothing is computed if ``names`` has none of these features.
    """
    if not has_invariant(names):
        return {}
    mean, has_change = window.mean_loss, reference.has_change
    fall = reference.mean_previous - mean
    error_sq = updated.loss_variance / clamp(window.seen, low=1)
    error, deviation = each(elementwise.sqrt, [error_sq, updated.loss_variance])
    span = updated.loss_highest - updated.loss_lowest
    usual = reference.mean_change
    usual = where(usual > 0, usual, updated.loss_change)
    ratios = each(
        lambda change, unit: where(has_change, ratio(change, unit), 0.0),
        [fall, mean - reference.mean_lowest, fall, fall, updated.loss_average - mean],
        [span, span, error, usual, updated.loss_change],
    )  # fmt: skip
    logs = each(
        lambda size, unit: where(has_change, log_ratio(size, unit, _CENTRE), _CENTRE),
        [updated.loss_change, deviation],
        [span, span],
    )
    return dict(zip(INVARIANT_LOSS_FEATURES, (*ratios, *logs), strict=True))


def _validation_features(
    validation: ValidationHistory | None, window: Window, updated: History
) -> dict[str, Number]:
    """Compute the features of validation losses, if there is a history of them."""
    if validation is None:
        return {}
    span = updated.loss_highest - updated.loss_lowest
    return validation_features(validation, window.mean_loss, span)


#: Replaces an unknown logarithm.
_CENTRE = -3.0


def _gradient_features(
    probe: Probe, window: Window, reference: Reference, updated: History
) -> dict[str, Number]:
    """Compute the features of gradients, steps and parameters."""
    has_step, has_loss = window.has_step, window.has_loss
    slope_ratio = probe.grad_dot_step / clamp(window.slope, low=TINY)
    return {
        "grad_vs_initial": window.grad - updated.grad_initial,
        "grad_vs_previous": window.grad - reference.grad_previous,
        "cos_grads": window.cos_grads,
        "cos_grads_mean": updated.cos_grads,
        "cos_step": window.cos_step,
        "cos_step_mean": updated.cos_step,
        "cos_descent": window.cos_descent,
        "slope_ratio": where(has_step, slope_ratio, 0.0),
        "step_size": where(has_step, window.step - window.param, -7.0),
        "predicted_decrease": where(
            has_step & has_loss, window.log_slope - window.loss, -5.0
        ),
        "param_growth": window.param - updated.param_initial,
    }


def _in_form(
    value: Number, offset: Number, k: Number, divisor: Number, is_squashed: Number
) -> Number:
    """Convert a feature, or all of them ``[B, F]``, to the form that is observed."""
    value = (value + offset) * k
    return where(is_squashed, elementwise.asinh(value), value) / divisor
