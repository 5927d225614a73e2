"""Features registered from outside the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_new_name, suggestion
from .control import Control
from .features import ALL_FEATURES
from .history import History
from .statistics import Losses, Probe

__all__ = [
    "FeatureFunction",
    "check_features",
    "register_feature",
    "registered_features",
]

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


def registered_features(
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
