"""Checks of the arguments of Stable-Baselines3's algorithms, and of the size of networks.

The algorithms themselves check few of their arguments: most meaningless values lead to an
error of Python or torch after the first rollout, or are silently accepted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

from optenv.checks import is_number, quoted

from ..policy.spec import MAX_WEIGHTS

__all__ = ["check_ranges", "refuse_configured"]

#: Arguments of algorithms that a training sets itself, with advice on what to do instead.
CONFIGURED = {
    "_init_setup_model": "the model is always set up",
    "device": "the small networks of agents are trained on the CPU",
    "env": "give --env",
    "policy": "it follows from the agent",
    "seed": "give --seed",
    "tensorboard_log": "logs are written to the folder of --out",
}


class _Range(NamedTuple):
    """Valid numbers, from ``least`` to ``most``; ``open`` excludes ``least`` itself."""

    least: float
    most: float = math.inf
    whole: bool = False
    open: bool = False
    none: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether a value is in the range, or None if that is valid."""
        if value is None:
            return self.none
        if not is_number(value) or (self.whole and not isinstance(value, Integral)):
            return False
        above = value > self.least if self.open else value >= self.least
        return bool(above and value <= self.most and math.isfinite(value))

    def __str__(self) -> str:
        """Describe the valid numbers."""
        kind = "a whole number" if self.whole else "a number"
        bound = f"{'above' if self.open else 'of at least'} {self.least:g}"
        most = "" if self.most == math.inf else f", at most {self.most:g}"
        return f"{kind} {bound}{most}{', or None' if self.none else ''}"


_COUNT = _Range(1, whole=True)
_POSITIVE = _Range(0, open=True)
_SHARE = _Range(0, 1)

#: Ranges by argument. Functions, such as learning-rate schedules, are not checked.
RANGES: dict[str, _Range] = {
    "batch_size": _COUNT,
    "buffer_size": _COUNT,
    "clip_range": _POSITIVE,
    "clip_range_vf": _POSITIVE._replace(none=True),
    "exploration_final_eps": _SHARE,
    "exploration_fraction": _SHARE,
    "exploration_initial_eps": _SHARE,
    "gae_lambda": _SHARE,
    "gamma": _SHARE,
    "gradient_steps": _Range(-1, whole=True),
    "learning_rate": _Range(0),
    "learning_starts": _Range(0, whole=True),
    "max_grad_norm": _POSITIVE._replace(none=True),
    "n_epochs": _COUNT,
    "n_steps": _COUNT,
    "stats_window_size": _COUNT,
    "target_kl": _POSITIVE._replace(none=True),
    "target_update_interval": _COUNT,
    "tau": _Range(0, 1, open=True),
    "vf_coef": _Range(0),
}

#: Ranges by argument of the policy.
NETWORK: dict[str, _Range] = {
    "lstm_hidden_size": _COUNT,
    "n_lstm_layers": _COUNT,
    "n_quantiles": _COUNT,
    "log_std_init": _Range(-20, 20),
}


def refuse_configured(given: Mapping[str, Any]) -> None:
    """Refuse arguments of an algorithm that a training sets itself.

    Raises:
        ValueError: there is one.
    """
    for name, instead in CONFIGURED.items():
        if name in given:
            raise ValueError(
                f"{name}={quoted(given[name])} is no argument to change of the algorithm: "
                f"{instead}"
            )


def check_ranges(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of an algorithm that are out of range, and too large networks.

    Args:
        arguments: arguments of the algorithm's class; those without an entry in
            :data:`RANGES` are left to the class.

    Raises:
        TypeError: ``policy_kwargs`` is no dict.
        ValueError: a number is out of its range, or the network has more weights than a
            policy file may have.
    """
    _check(arguments, RANGES, "")
    network = arguments.get("policy_kwargs")
    if network is None:
        return
    if not isinstance(network, Mapping):
        raise TypeError(f"policy_kwargs must be a dict, got {quoted(network)}")
    _check(network, NETWORK, "policy_kwargs: ")
    _check_size(network)


def _check(given: Mapping[str, Any], ranges: Mapping[str, _Range], where: str) -> None:
    for name, valid in ranges.items():
        if name in given and not callable(given[name]) and not valid.holds(given[name]):
            raise ValueError(f"{where}{name} must be {valid}, got {quoted(given[name])}")


def _check_size(network: Mapping[str, Any]) -> None:
    """Refuse layers that have more weights than a policy may have."""
    layers = network.get("net_arch")
    stacks = layers.values() if isinstance(layers, Mapping) else [layers]
    for sizes in stacks:
        if not isinstance(sizes, (list, tuple)):
            continue
        for size in sizes:
            if not _COUNT.holds(size):
                raise ValueError(
                    f"policy_kwargs: sizes of net_arch must be {_COUNT}, got {quoted(size)}"
                )
        weights = sum(a * b for a, b in itertools.pairwise(sizes)) + sum(sizes)
        _refuse(weights, f"net_arch={quoted(sizes)}")
    hidden = network.get("lstm_hidden_size", 0)
    _refuse(4 * hidden * hidden, f"lstm_hidden_size={quoted(hidden)}")


def _refuse(weights: int, what: str) -> None:
    if weights > MAX_WEIGHTS:
        raise ValueError(
            f"policy_kwargs: {what} makes more than {weights:,} weights; a policy has at "
            f"most {MAX_WEIGHTS:,}"
        )
