"""Features registered from outside the package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_new_name, quoted, suggestion
from .control import Control
from .features import ALL_FEATURES
from .history import History
from .statistics import Losses, Probe

__all__ = [
    "FeatureFunction",
    "check_features",
    "check_known_features",
    "meaning_of",
    "register_feature",
    "registered_among",
    "registered_features",
]

#: Function that computes a feature ``[B]`` from the arguments of :func:`observe`.
FeatureFunction = Callable[[Probe, Losses, History, Control], Tensor]

#: Functions of the features registered from outside the package.
_REGISTERED: dict[str, FeatureFunction] = {}


def register_feature(name: str, function: FeatureFunction) -> FeatureFunction:
    """Make a feature available to environments that ask for it by name.

    An environment with ``features=(name, ...)`` appends the values to its observations, in
    the given order. Observations of other environments do not change. A policy file names
    the features that its policy observes: every process that loads the policy must first
    register them, under the same names.

    Args:
        name: name of the feature, not used by another one.
        function: function ``(probe, losses, history, control) -> [B]`` of the arguments of
            :func:`observe`. Its values should not depend on scales and be of the order of
            1; they are clipped to :data:`OBSERVATION_BOUND`, which also replaces the NaN of
            a run that has diverged. At the first observation of a run, NaN is an error. The
            function must not change its arguments, and must not keep a state between calls,
            which would not be saved with an optimizer. ``history`` is about the earlier
            windows: at the first observation of a run, its ``windows`` are 0. Where no loss
            is given, or all are hidden, the three numbers of ``losses`` are 0. An optimizer
            calls the function with tensors ``[1]`` on the CPU. The first line of its
            docstring is shown as its meaning by :meth:`agents.LearnedOptimizer.explain`.

    Returns:
        The function.

    Raises:
        TypeError: ``name`` is not a string, or ``function`` is not callable.
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
        TypeError: ``names`` is not a tuple or list of strings.
        ValueError: a name is not registered, or is given twice.
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


def registered_among(names: Sequence[Any]) -> tuple[str, ...]:
    """Return the names that are not in :data:`ALL_FEATURES`, in their order."""
    own = list(ALL_FEATURES)
    return tuple(name for name in names if name not in own)


def check_known_features(names: Sequence[Any]) -> None:
    """Refuse features of a policy that this process cannot compute.

    Args:
        names: names of features of the package and of registered ones.

    Raises:
        ValueError: a feature is neither of the package nor registered, or a registered one
            is given twice.
    """
    others, known = registered_among(names), list(_REGISTERED)
    if unknown := [name for name in others if name not in known]:
        raise ValueError(
            f"unknown features {quoted(unknown)}; valid: "
            f"{', '.join([*ALL_FEATURES, *known])}; register a feature from outside the "
            "package with optenv.telemetry.register_feature before a policy that observes "
            "it is loaded or used"
        )
    if len(set(others)) < len(others):
        raise ValueError(
            f"registered features must differ from each other, got {quoted(list(others))}"
        )


def meaning_of(name: str) -> str:
    """Return the first line of the docstring of a feature's function, or else its name."""
    function = _REGISTERED.get(name)
    text = inspect.getdoc(function) if inspect.isfunction(function) else None
    return text.partition("\n")[0] if text else name


def registered_features(
    names: Sequence[str], probe: Probe, losses: Losses, history: History, control: Control
) -> Tensor:
    """Compute registered features ``[B, len(names)]``.

    Raises:
        ValueError: a feature is not registered, has another shape, or is NaN at the first
            observation of a run whose statistics are finite.
    """
    check_known_features(names)  # they may come from another process
    shape, columns = control.log_multiplier.shape, []
    statistics = torch.stack([*probe, losses.mean])
    # An optimizer also restarts the history after a first gradient that was an outlier.
    is_first = (history.windows == 0) & (probe.step_sq == 0)
    sound = is_first & statistics.isfinite().all(0)
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
                "too if they are hidden or not given: avoid 0/0 and the logarithm of 0"
            )
        columns.append(column)
    return torch.stack(columns, dim=-1)
