"""Features of observations: names, meanings, and the form in which each is observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = [
    "ALL_FEATURES",
    "FEATURES",
    "FEATURE_VERSION",
    "INVARIANT_LOSS_FEATURES",
    "LOSS_FEATURES",
    "LOSS_FEATURE_SETS",
    "OBSERVATION_BOUND",
    "POSITIVE_LOSS_FEATURES",
    "VALIDATION_FEATURES",
    "float_forms_of",
    "forms_of",
    "has_invariant",
    "loss_features_of",
    "observed_features",
    "observes_validation",
    "own_features",
]

#: Version of the features, increased whenever their meaning changes. Policy files name it.
FEATURE_VERSION = 2

#: Observations lie in ``[-OBSERVATION_BOUND, OBSERVATION_BOUND]``.
OBSERVATION_BOUND = 4.0


@dataclass(frozen=True)
class _Feature:
    """Description of a feature, and the form in which it is observed.

    A value ``x`` is observed as ``(x + offset) / divisor``, or with a ``squash`` of ``k``
    as ``asinh(k x) / 2``. This function is odd, linear with slope ``k / 2`` near 0, and
    logarithmic far from 0.
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
    "has_validation": _Feature(
        "1 if a validation loss has been given in the run, 0 if not (all features of it "
        "are then 0)"
    ),
    "validation_age": _Feature(
        "log of (1 + control steps since the last validation loss), halved", divisor=2.0
    ),
    "validation_fall": _Feature(
        "fall of the last validation loss since the one before, in units of the range of "
        "all validation losses, squashed (k=30)", squash=30,
    ),
    "validation_rise": _Feature(
        "last validation loss above the lowest so far, in units of the range, squashed "
        "(k=30)", squash=30,
    ),
    "validation_usual_change": _Feature(
        "log of (usual change from one validation loss to the next / range), centred",
        offset=2.0, divisor=2.0,
    ),
    "validation_gap": _Feature(
        "last validation loss above the mean loss, in units of the range of all windows' "
        "means, squashed (k=10)", squash=10,
    ),
}  # fmt: skip

#: Names and descriptions of all features of the package, in the order of observations.
ALL_FEATURES: dict[str, str] = {
    name: feature.description for name, feature in _FEATURES.items()
}

#: Features of the loss that only make sense for positive losses, and that depend on a
#: constant added to the loss; the last one also on its unit.
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

#: Features of the validation loss, which environments observe with ``observe_validation``.
#: They stay the same if all validation losses are multiplied by a positive number or a
#: constant is added to them (the gap only if the training losses are changed likewise).
VALIDATION_FEATURES = (
    "has_validation", "validation_age", "validation_fall", "validation_rise",
    "validation_usual_change", "validation_gap",
)  # fmt: skip

#: Features that are 0 where no loss is given, by the value of the environments' argument
#: ``loss_features``, which chooses a set.
LOSS_FEATURE_SETS = {
    "both": ("has_loss", *POSITIVE_LOSS_FEATURES, *INVARIANT_LOSS_FEATURES),
    "positive": ("has_loss", *POSITIVE_LOSS_FEATURES),
    "invariant": ("has_loss", *INVARIANT_LOSS_FEATURES),
}


def observed_features(loss_features: str, validation: bool = False) -> tuple[str, ...]:
    """Return the names of the features that an environment observes, in order.

    Args:
        loss_features: key of :data:`LOSS_FEATURE_SETS`.
        validation: whether it observes :data:`VALIDATION_FEATURES`, which come last.

    Example:
        >>> from optenv.telemetry import observed_features
        >>> [len(observed_features(key)) for key in ("positive", "invariant", "both")]
        [24, 25, 31]
    """
    shown, known = LOSS_FEATURE_SETS[loss_features], LOSS_FEATURE_SETS["both"]
    if not validation:
        known = (*known, *VALIDATION_FEATURES)
    return tuple(n for n in ALL_FEATURES if n in shown or n not in known)


def observes_validation(names: Sequence[str]) -> bool:
    """Return whether a feature of the validation loss is among some features."""
    return not set(VALIDATION_FEATURES).isdisjoint(names)


def own_features(names: Sequence[str]) -> tuple[str, ...]:
    """Return the package's features that an environment observes, given some of them.

    Args:
        names: features in a policy's description of its environment. Some features of the
            package may be missing, and registered ones may be among them.

    Returns:
        Names of all features of the package that this environment observes, in order.
    """
    return observed_features(loss_features_of(names), observes_validation(names))


@lru_cache
def has_invariant(names: tuple[str, ...]) -> bool:
    """Return whether an invariant feature of the loss is among some features."""
    return not set(INVARIANT_LOSS_FEATURES).isdisjoint(names)


def loss_features_of(names: Sequence[str]) -> str:
    """Return the key of :data:`LOSS_FEATURE_SETS` of an environment with these features.

    Args:
        names: features of the environment out of :data:`ALL_FEATURES`; some may be missing.
            If no feature of the loss is among them, the key is ``"invariant"``.
    """
    invariant = has_invariant(tuple(names))
    positive = not set(POSITIVE_LOSS_FEATURES).isdisjoint(names)
    return ("both" if invariant else "positive") if positive else "invariant"


#: Names and descriptions of the features that are observed by default, i.e. unless
#: ``loss_features``, ``loss_dropout`` or ``observe_validation`` is set.
#: :data:`ALL_FEATURES` has all features.
FEATURES = {name: ALL_FEATURES[name] for name in observed_features("invariant")}

#: Features of the default set that are 0 where no loss is given.
LOSS_FEATURES = LOSS_FEATURE_SETS["invariant"]


@lru_cache
def forms_of(
    names: tuple[str, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Return offset, k, divisor and is_squashed ``[F]`` of features, see `_Feature`."""
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
def float_forms_of(names: tuple[str, ...]) -> list[tuple[float, float, float, bool]]:
    """Return the values of :func:`forms_of` as plain numbers, a tuple for each feature."""
    forms = forms_of(names, torch.float64, torch.device("cpu"))
    return [*zip(*(form.tolist() for form in forms), strict=True)]
