"""Telemetry: statistics of updates, and the observation that is computed from them.

Environment and exported optimizer both (1) record the loss of every update in
:class:`Losses`, (2) measure a :class:`Probe` of gradient and step at the last update of
each window, and (3) call :func:`observe`. They differ only in the inner product: row sums
over a batch of flat parameters, or a sum over a list of tensors.

The observation is *scale-free*: log-ratios to the run's own history, cosines, relative step
sizes and progress; never a raw loss, gradient norm or parameter count. Two exceptions are
chosen by the user: the learning rate, and the length of the run, which tells how far that
rate leads. Windows are fractions of the run with one probe each, whatever their length.

All features are in :data:`ALL_FEATURES`, and those that are observed by default in
:data:`FEATURES`; :func:`register_feature` adds one from outside
the package. Tensors have shape ``[B]``, one entry a run, unless stated otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import elementwise
from .checks import check_new_name, suggestion
from .elementwise import (
    Number,
    as_floats,
    as_tensors,
    bounded,
    clamp,
    each,
    is_single,
    isfinite,
    lerp,
    minimum,
    number_of,
    row,
    where,
    zeros_like,
)

__all__ = [
    "ALL_FEATURES",
    "FEATURES",
    "FEATURE_VERSION",
    "INVARIANT_LOSS_FEATURES",
    "LOSS_FEATURES",
    "LOSS_FEATURE_SETS",
    "OBSERVATION_BOUND",
    "POSITIVE_LOSS_FEATURES",
    "Control",
    "FeatureFunction",
    "History",
    "Losses",
    "Probe",
    "check_features",
    "first_probe",
    "log_loss",
    "loss_features_of",
    "observe",
    "observed_features",
    "probe",
    "register_feature",
    "relative_fall",
]

#: Bumped whenever the meaning of an observation changes; policies carry it.
FEATURE_VERSION = 2

#: Observations lie in ``[-OBSERVATION_BOUND, OBSERVATION_BOUND]``.
OBSERVATION_BOUND = 4.0

#: Replaces zero as the argument of a logarithm or as a divisor.
TINY = 1e-30


# Statistics of updates


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
    def of(cls, losses: Sequence[Tensor]) -> Losses:
        """Make the statistics of losses ``[B]``, at least one, in their order."""
        like = losses[0]
        if len(losses) == 1:
            return cls(torch.ones_like(like), like, like - like)
        single, found = is_single(like), losses
        if single:
            found = torch.cat([*losses]).tolist()
        recorded = cls.empty(zeros_like(found[0]))
        for loss in found:
            recorded = recorded.record(loss)
        return cls(*as_tensors(recorded, like)) if single else recorded


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
    """Measure the probe before the first update: norms of gradient and parameters alone."""
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
    return _log(mean)


def _log(x: Number) -> Number:
    """Compute the logarithm of a number that may be 0."""
    return elementwise.log(clamp(x, low=TINY))


# Features


@dataclass(frozen=True)
class _Feature:
    """Description of a feature, and the form in which it is observed.

    A value ``x`` is observed as ``(x + offset) / divisor``, or with a ``squash`` of ``k``
    as ``asinh(k x) / 2``. The latter is odd, linear with slope ``k / 2`` near 0, and
    logarithmic far from it.
    """

    description: str
    offset: float = 0.0
    divisor: float = 1.0
    squash: float | None = None


_FEATURES: dict[str, _Feature] = {
    "progress": _Feature("2 t/T - 1", offset=-0.5, divisor=0.5),
    "elapsed": _Feature(
        "log of the elapsed fraction of the run, 0 at the end", divisor=3.0
    ),
    "remaining": _Feature(
        "log of the remaining fraction of the run, 0 at the start", divisor=3.0
    ),
    "run_length": _Feature("log of the run's updates against 400, divided by 3"),
    "log_multiplier": _Feature(
        "log-multiplier s of the learning rate, divided by 3", divisor=3.0
    ),
    "learning_rate": _Feature(
        "log of the learning rate against a usual one of the rule, halved", divisor=2.0
    ),
    "previous_action": _Feature("change of s that the last action asked for, in nats"),
    "has_loss": _Feature(
        "1 if losses are given, 0 if not (all loss features are then 0)"
    ),
    "loss_vs_initial": _Feature(
        "log mean loss of the window against the first loss, halved", divisor=2.0
    ),
    "loss_vs_previous": _Feature(
        "log mean loss against the window before, squashed (k=30)", squash=30
    ),
    "loss_vs_best": _Feature(
        "log mean loss against the lowest window so far, squashed (k=30)", squash=30
    ),
    "loss_trend": _Feature(
        "fast minus slow moving average of the log loss, squashed (k=30)", squash=30
    ),
    "loss_noise": _Feature(
        "log of (deviation / mean) of the losses of a window, centred",
        offset=2.0, divisor=2.0,
    ),
    "grad_vs_initial": _Feature(
        "log gradient norm against the first, halved", divisor=2.0
    ),
    "grad_vs_previous": _Feature(
        "log gradient norm against the last probe, squashed (k=3)", squash=3
    ),
    "cos_grads": _Feature(
        "cosine of the gradient and the one before it, squashed (k=10)", squash=10
    ),
    "cos_grads_mean": _Feature(
        "moving average of that cosine, squashed (k=10)", squash=10
    ),
    "cos_step": _Feature(
        "cosine of the gradient and the step just taken, squashed (k=10)", squash=10
    ),
    "cos_step_mean": _Feature(
        "moving average of that cosine, squashed (k=10)", squash=10
    ),
    "cos_descent": _Feature(
        "cosine of the last step and the gradient it used, squashed (k=10)", squash=10
    ),
    "slope_ratio": _Feature(
        "slope along the step after it, against before (-1 same, 0 minimum)", squash=3
    ),
    "step_size": _Feature(
        "log of the step's norm against that of the parameters, centred",
        offset=7.0, divisor=2.0,
    ),
    "predicted_decrease": _Feature(
        "log of (decrease predicted by the slope / loss), centred",
        offset=5.0, divisor=3.0,
    ),
    "param_growth": _Feature(
        "log parameter norm against the first, squashed (k=3)", squash=3
    ),
    "loss_fall": _Feature(
        "fall of the mean loss since the window before, in units of the range of all "
        "windows' means, squashed (k=30)", squash=30,
    ),
    "loss_rise": _Feature(
        "mean loss above the lowest window before, in units of the range, squashed (k=30)",
        squash=30,
    ),
    "loss_fall_noise": _Feature(
        "that fall in units of the standard error of a window's mean, squashed (k=1)",
        squash=1,
    ),
    "loss_fall_usual": _Feature(
        "that fall in units of the usual change from window to window, squashed (k=1)",
        squash=1,
    ),
    "loss_fall_trend": _Feature(
        "mean loss below its slow moving average, in units of the usual change, squashed "
        "(k=1)", squash=1,
    ),
    "loss_usual_change": _Feature(
        "log of (usual change / range), centred", offset=3.0, divisor=2.0
    ),
    "loss_noise_range": _Feature(
        "log of (deviation of the losses of a window / range), centred",
        offset=3.0, divisor=2.0,
    ),
}  # fmt: skip

#: Names and descriptions of all features of the package, in the order of observations.
ALL_FEATURES: dict[str, str] = {
    name: feature.description for name, feature in _FEATURES.items()
}

#: Features of the loss that only make sense where losses are positive, and that depend on
#: a constant added to the loss; the last one also on its unit.
POSITIVE_LOSS_FEATURES = (
    "loss_vs_initial", "loss_vs_previous", "loss_vs_best", "loss_trend", "loss_noise",
    "predicted_decrease",
)  # fmt: skip

#: Features of the loss that stay the same if all losses are multiplied by a positive number
#: or a constant is added to them.
INVARIANT_LOSS_FEATURES = (
    "loss_fall", "loss_rise", "loss_fall_noise", "loss_fall_usual", "loss_fall_trend",
    "loss_usual_change", "loss_noise_range",
)  # fmt: skip

#: Features that are 0 where no loss is given, by the values of ``loss_features``, the
#: argument of environments that says which are observed.
LOSS_FEATURE_SETS = {
    "both": ("has_loss", *POSITIVE_LOSS_FEATURES, *INVARIANT_LOSS_FEATURES),
    "positive": ("has_loss", *POSITIVE_LOSS_FEATURES),
    "invariant": ("has_loss", *INVARIANT_LOSS_FEATURES),
}


def observed_features(loss_features: str) -> tuple[str, ...]:
    """Return the names of the features that an environment observes, in order.

    Args:
        loss_features: key of :data:`LOSS_FEATURE_SETS`.

    Example:
        >>> from optenv.telemetry import observed_features
        >>> [len(observed_features(key)) for key in ("positive", "invariant", "both")]
        [24, 25, 31]
    """
    shown, known = LOSS_FEATURE_SETS[loss_features], LOSS_FEATURE_SETS["both"]
    return tuple(n for n in ALL_FEATURES if n in shown or n not in known)


def loss_features_of(names: Sequence[str]) -> str:
    """Return the key of :data:`LOSS_FEATURE_SETS` of an environment with these features.

    Args:
        names: features out of :data:`ALL_FEATURES`, of which some may be missing.
    """
    invariant = not set(INVARIANT_LOSS_FEATURES).isdisjoint(names)
    positive = not set(POSITIVE_LOSS_FEATURES).isdisjoint(names)
    return ("both" if positive else "invariant") if invariant else "positive"


#: Names and descriptions of the features that are observed by default.
FEATURES = {name: ALL_FEATURES[name] for name in observed_features("positive")}

#: Those of them that are 0 where no loss is given.
LOSS_FEATURES = LOSS_FEATURE_SETS["positive"]


class History(NamedTuple):
    """Summary of the earlier windows, from which the observation takes its ratios.

    Losses and norms are logarithms; ``loss_fast``, ``loss_slow``, ``cos_grads`` and
    ``cos_step`` are exponential moving averages over windows.

    The last six are of mean losses themselves, of any sign: that of the window before, the
    lowest, the highest, and exponential moving averages of means, of their absolute changes
    and of variances within windows.
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


class Control(NamedTuple):
    """State of the controller that is part of the observation.

    Attributes:
        progress: fraction of the run's updates done, in [0, 1]; None if the length of the
            run is unknown. The features of progress and length are then all 0.
        length: updates of the whole run; None if unknown.
        log_multiplier: current ``s``.
        log_lr: log of (base learning rate times ``e^s`` / a usual learning rate of the
            rule), without the schedule. It misleads where weights are in unusual units; the
            other features must tell.
        previous_action: change of ``s`` that the last action asked for, in nats.
    """

    progress: Tensor | None
    length: int | None
    log_multiplier: Tensor
    log_lr: Tensor
    previous_action: Tensor


#: Compute a feature ``[B]`` from the arguments of :func:`observe`.
FeatureFunction = Callable[[Probe, Losses, History, Control], Tensor]

#: Functions of the features registered from outside the package.
_REGISTERED: dict[str, FeatureFunction] = {}


def register_feature(name: str, function: FeatureFunction) -> FeatureFunction:
    """Make a feature available to environments that ask for it by name.

    An environment with ``features=(name, ...)`` appends the values to :data:`FEATURES`, in
    the given order. Observations of other environments stay as they are.

    Args:
        name: unused so far.
        function: ``(probe, losses, history, control) -> [B]``, the arguments of
            :func:`observe`. The values should be free of scales and of the order of 1;
            they are clipped to :data:`OBSERVATION_BOUND`, which also replaces the NaN of a
            run that has diverged. At the first observation of a run, NaN is refused. The
            function must not change its arguments. ``history`` is that of the windows
            before: at the first observation of a run, its ``windows`` are 0.

    Returns:
        The function.

    Raises:
        TypeError: ``name`` is no string, or ``function`` is not callable.
        ValueError: the name is taken.

    Example::

        def norm_ratio(probe, losses, history, control):
            return 0.5 * (probe.grad_sq / probe.param_sq).log()

        register_feature("norm_ratio", norm_ratio)
        env = gym.make("optenv/LearningRate-v0", features=("norm_ratio",))
    """
    check_new_name("feature", name, [*ALL_FEATURES, *_REGISTERED])
    if not callable(function):
        raise TypeError(f"feature {name!r} must be a function, got {function!r}")
    _REGISTERED[name] = function
    return function


def check_features(names: Any) -> tuple[str, ...]:
    """Return the names of registered features as a tuple.

    Raises:
        TypeError: they are no sequence of strings.
        ValueError: one is not registered, or given twice.
    """
    is_sequence = isinstance(names, (tuple, list))
    if not is_sequence or not all(isinstance(name, str) for name in names):
        raise TypeError(f"features must be a tuple of names, got {names!r}")
    for name in names:
        if name not in _REGISTERED:
            hint = suggestion(name, list(_REGISTERED)) if _REGISTERED else "valid: none"
            raise ValueError(
                f"unknown feature {name!r}; {hint} (features of "
                "optenv.telemetry.register_feature; those of the package are always "
                "observed)"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"features must differ from each other, got {names!r}")
    return tuple(names)


# Observation


def observe(
    probe: Probe,
    losses: Losses,
    history: History,
    control: Control,
    extra: Sequence[str] = (),
    names: tuple[str, ...] = tuple(FEATURES),
) -> tuple[Tensor, History]:
    """Compute the observation at a control step.

    Args:
        probe: statistics of the last update and the gradient at the current parameters.
        losses: losses since the last control step, the current one included; a count of 0
            means that no loss is given.
        history: summary of the windows before; :meth:`History.empty` at the first.
        control: progress and the controller's own state.
        extra: names of registered features, see :func:`register_feature`.
        names: features to compute, out of :data:`ALL_FEATURES`.

    Returns:
        Observation ``[B, len(names) + len(extra)]`` in the order of ``names`` and then of
        ``extra``, finite and within :data:`OBSERVATION_BOUND`; and the history for the next
        control step.
    """
    # A single run has too few numbers for an operation of torch on each to be quick.
    like, single = control.log_multiplier, is_single(control.log_multiplier)
    given = (probe, losses, history, control)
    if single:
        probe, losses, history, control = as_floats(given)
    # 1. Logarithms and cosines of the window.
    window = _summarize(probe, losses, history)
    # 2. The references for ratios, and the history for the next window.
    reference, updated = _update_history(window, history)
    # 3. The features, in the form in which they are observed.
    values = {
        **_control_features(control),
        **_loss_features(window, reference, updated),
        **_invariant_loss_features(window, history, updated, names),
        **_gradient_features(probe, window, reference, updated),
    }
    features = [values[name] for name in names]
    if single:
        pairs = zip(features, _float_forms(names), strict=True)
        shown = [bounded(_in_form(x, *form), OBSERVATION_BOUND) for x, form in pairs]
        observation, updated = row(shown, like), History(*as_tensors(updated, like))
        if not extra:
            return observation, updated
    else:
        observation = torch.stack(features, dim=-1)
        forms = _forms(names, observation.dtype, observation.device)
        observation = _in_form(observation, *forms)
    if extra:
        others = _registered_features(extra, *given)
        observation = torch.cat([observation, others.to(observation.dtype)], dim=-1)
    # 4. Finite and bounded, whatever was measured.
    return bounded(observation, OBSERVATION_BOUND), updated


class _Window(NamedTuple):
    """Logarithms and cosines of one window; ``has_loss`` and ``has_step`` are bool.

    ``mean_loss`` is the mean of its ``seen`` losses itself, and ``variance`` theirs.
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


class _Reference(NamedTuple):
    """Logarithms that the current window is compared with."""

    loss_previous: Tensor
    loss_best: Tensor
    grad_previous: Tensor


# Weights of the newest window in the moving averages.
_FAST, _SLOW, _COSINE, _USUAL = 0.4, 0.1, 0.3, 0.3


def _summarize(probe: Probe, losses: Losses, history: History) -> _Window:
    """Take the logarithms and cosines of a window's statistics."""
    slope = abs(probe.last_grad_dot_step)
    variance = losses.deviation / clamp(losses.seen - 1, low=1)
    squares = (variance, probe.grad_sq, probe.param_sq, probe.step_sq)
    logs = each(_log, [*squares, losses.mean, abs(losses.mean), slope])
    deviation, grad, param, step = (0.5 * value for value in logs[:4])
    log_mean, log_abs, log_slope = logs[4:]
    cos_grads, cos_step, cos_descent = _cosines(probe)
    # A window without losses keeps the loss before, one with a single loss keeps the noise.
    has_loss = losses.seen > 0
    loss = where(has_loss, log_mean, history.loss_previous)
    noise = clamp(deviation - log_abs, -12, 4)
    noise = where(losses.seen > 1, noise, history.loss_noise)
    mean_loss = where(has_loss, losses.mean, history.loss_mean)
    return _Window(
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


def _update_history(window: _Window, history: History) -> tuple[_Reference, History]:
    """Compare with the windows before: references, and the history for the next window."""
    # At the first window (the first with a loss), it is its own reference.
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
        **_update_means(window, history),
    )
    # An overflow, as of half-precision gradients, is not remembered for ever.
    kept = each(lambda new, old: where(isfinite(new), new, old), updated, history)
    updated = History(*kept)
    return _Reference(loss_previous, loss_best, grad_previous), updated


def _update_means(window: _Window, history: History) -> dict[str, Number]:
    """Compute the fields of the next history that are of mean losses themselves."""
    mean, is_first = window.mean_loss, history.loss_windows == 0
    earlier = each(
        lambda value: where(is_first, mean, value),
        [
            history.loss_mean,
            history.loss_lowest,
            history.loss_highest,
            history.loss_average,
        ],
    )
    previous, lowest, highest, average = earlier
    # The first change, and the first variance, are the first values of their averages.
    change = abs(mean - previous)
    has_change = window.has_loss & (history.loss_windows > 0)
    usual = where(history.loss_change > 0, history.loss_change, change)
    usual = where(has_change, lerp(usual, change, _USUAL), history.loss_change)
    variance = where(history.loss_variance > 0, history.loss_variance, window.variance)
    variance = lerp(variance, window.variance, _USUAL)
    return {
        "loss_mean": mean,
        "loss_lowest": minimum(lowest, mean),
        "loss_highest": -minimum(-highest, -mean),
        "loss_average": where(window.has_loss, lerp(average, mean, _SLOW), average),
        "loss_change": usual,
        "loss_variance": where(window.seen > 1, variance, history.loss_variance),
    }


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
    """Compute the log of a fraction of the run, that of 0 above -6."""
    return elementwise.log(clamp(fraction + 0.003, high=1.0))


def _loss_features(
    window: _Window, reference: _Reference, updated: History
) -> dict[str, Number]:
    """Compute the features of the loss, but for the predicted decrease."""
    return {
        "has_loss": number_of(window.has_loss, window.loss),
        "loss_vs_initial": window.loss - updated.loss_initial,
        "loss_vs_previous": window.loss - reference.loss_previous,
        "loss_vs_best": window.loss - reference.loss_best,
        "loss_trend": updated.loss_fast - updated.loss_slow,
        "loss_noise": where(updated.loss_noise == 0, -2.0, updated.loss_noise),
    }


def _invariant_loss_features(
    window: _Window, history: History, updated: History, names: tuple[str, ...]
) -> dict[str, Number]:
    """Compute the features of the loss that its unit and its zero do not change.

    A ratio whose unit is 0, as at the first window, is 0, and its log the centre. Without
    any of them among ``names``, nothing is computed.
    """
    if not _has_invariant(names):
        return {}
    mean, is_first = window.mean_loss, history.loss_windows == 0
    has_change = window.has_loss & (history.loss_windows > 0)
    previous, lowest = each(
        lambda value: where(is_first, mean, value), [history.loss_mean, history.loss_lowest]
    )
    error_sq = updated.loss_variance / clamp(window.seen, low=1)
    error, deviation = each(elementwise.sqrt, [error_sq, updated.loss_variance])
    span = updated.loss_highest - updated.loss_lowest
    usual = where(history.loss_change > 0, history.loss_change, updated.loss_change)
    ratios = each(
        lambda change, unit: where(has_change, _ratio(change, unit), 0.0),
        [previous - mean, mean - lowest, previous - mean, previous - mean,
         updated.loss_average - mean],
        [span, span, error, usual, updated.loss_change],
    )  # fmt: skip
    logs = each(
        lambda size, unit: where(has_change, _log_ratio(size, unit), _CENTRE),
        [updated.loss_change, deviation],
        [span, span],
    )
    return dict(zip(INVARIANT_LOSS_FEATURES, (*ratios, *logs), strict=True))


def relative_fall(history: History, mean: Tensor) -> Tensor:
    """Compute the fall of a mean loss since the window before, in units of the range.

    Args:
        history: of the windows before, ``[B]``.
        mean: mean loss of a window, ``[B]``.

    Returns:
        The fall ``[B]`` in units of the range of all windows' means, this one included; 0
        if it is the first.
    """
    span = torch.maximum(history.loss_highest, mean)
    span = span - torch.minimum(history.loss_lowest, mean)
    fall = _ratio(history.loss_mean - mean, span)
    return torch.where(history.loss_windows > 0, fall, 0.0)


@lru_cache
def _has_invariant(names: tuple[str, ...]) -> bool:
    """Return whether an invariant feature of the loss is among some features."""
    return not set(INVARIANT_LOSS_FEATURES).isdisjoint(names)


def _ratio(change: Number, unit: Number) -> Number:
    """Divide a change by a unit; 0 if the unit is 0."""
    is_unit = unit > 0
    return where(is_unit, change / where(is_unit, unit, 1.0), 0.0)


def _log_ratio(size: Number, unit: Number) -> Number:
    """Compute the log of a ratio, at least -12; :data:`_CENTRE` if one of both is 0."""
    known = (size > 0) & (unit > 0)
    ratio = where(known, size, 1.0) / where(known, unit, 1.0)
    return where(known, elementwise.log(clamp(ratio, low=_LEAST_RATIO)), _CENTRE)


#: Logarithm that stands for an unknown one, and the least ratio that is told from 0.
_CENTRE, _LEAST_RATIO = -3.0, math.exp(-12.0)


def _gradient_features(
    probe: Probe, window: _Window, reference: _Reference, updated: History
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


def _registered_features(
    names: Sequence[str], probe: Probe, losses: Losses, history: History, control: Control
) -> Tensor:
    """Compute registered features ``[B, len(names)]``.

    Raises:
        ValueError: one has another shape, or is NaN at the first observation of a run whose
            statistics are finite.
    """
    shape, columns = control.log_multiplier.shape, []
    statistics = torch.stack([*probe, losses.mean])
    sound = (history.windows == 0) & statistics.isfinite().all(0)
    for name in names:
        column = _REGISTERED[name](probe, losses, history, control)
        if not isinstance(column, Tensor) or column.shape != shape:
            given = tuple(column.shape) if isinstance(column, Tensor) else column
            raise ValueError(
                f"feature {name!r} must return a tensor of shape {tuple(shape)}, "
                f"got {given!r}"
            )
        if (bad := column.isnan() & sound).any():
            raise ValueError(
                f"feature {name!r} must return numbers, got NaN at the first observation "
                f"of {int(bad.sum())} of {bad.numel()} runs; steps are 0 there, and losses "
                "too if they are hidden: avoid 0/0 and the logarithm of 0"
            )
        columns.append(column)
    return torch.stack(columns, dim=-1)


def _in_form(
    value: Number, offset: Number, k: Number, divisor: Number, is_squashed: Number
) -> Number:
    """Bring a feature, or all of them ``[B, F]``, to the form that is observed."""
    value = (value + offset) * k
    return where(is_squashed, elementwise.asinh(value), value) / divisor


@lru_cache
def _forms(
    names: tuple[str, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Make offset, k, divisor and is_squashed ``[F]`` of the features, see `_Feature`."""
    forms = [_FEATURES[name] for name in names]
    rows = [
        (feature.offset, 1.0, feature.divisor)
        if feature.squash is None
        else (0.0, feature.squash, 2.0)
        for feature in forms
    ]
    offset, k, divisor = torch.tensor(rows, dtype=dtype, device=device).T.contiguous()
    squashed = [feature.squash is not None for feature in forms]
    return offset, k, divisor, torch.tensor(squashed, device=device)


@lru_cache
def _float_forms(names: tuple[str, ...]) -> list[tuple[float, float, float, bool]]:
    """Make the forms of :func:`_forms` as plain numbers, one for each feature."""
    forms = _forms(names, torch.float64, torch.device("cpu"))
    return [*zip(*(form.tolist() for form in forms), strict=True)]
