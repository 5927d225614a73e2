"""Translation of a preset's arguments to RLlib's PPO.

Presets have the arguments of Stable-Baselines3. Most have a counterpart with the same
meaning in RLlib (:data:`RENAMED`); others are refused (:func:`translate`). There remain
three differences: advantages are normalised over a rollout instead of a minibatch, Adam's
``eps`` is 1e-8 instead of 1e-5, and a minibatch has an additional row for each episode,
which the loss ignores.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy

from optenv.checks import suggestion

from ...utils.arguments import check_arguments

__all__ = ["OWN", "RENAMED", "Arguments", "translate"]

#: Names of arguments in Stable-Baselines3, with those of the same meaning in RLlib.
RENAMED = {
    "learning_rate": "lr",
    "n_epochs": "num_epochs",
    "gamma": "gamma",
    "gae_lambda": "lambda_",
    "clip_range": "clip_param",
    "ent_coef": "entropy_coeff",
    "vf_coef": "vf_loss_coeff",
    "max_grad_norm": "grad_clip",
}

#: Arguments that only RLlib has, with the values that correspond to Stable-Baselines3.
OWN: dict[str, Any] = {
    "use_kl_loss": False,
    "kl_coeff": 0.2,
    "kl_target": 0.01,
    "vf_clip_param": float("inf"),
}

#: Arguments on the sizes of rollouts, minibatches and network.
SIZES = ("n_steps", "batch_size", "policy_kwargs")

#: Arguments of the network that :mod:`agents.rl.rllib.module` supports, with defaults.
NETWORK: dict[str, Any] = {"net_arch": [64, 64], "log_std_init": 0.0}

#: Further arguments of a recurrent network, with their defaults.
RECURRENT: dict[str, Any] = {"lstm_hidden_size": 256, "memory": None}


class Arguments(NamedTuple):
    """Arguments of RLlib.

    Attributes:
        training: arguments of ``PPOConfig.training``.
        network: arguments of the model (:class:`agents.rl.rllib.module.ActorCritic`).
        rollout: number of control steps in a rollout, over all runs.
        fragment: number of control steps of each run in a rollout.
    """

    training: dict[str, Any]
    network: dict[str, Any]
    rollout: int
    fragment: int


def translate(arguments: Mapping[str, Any], num_envs: int, *, recurrent: bool) -> Arguments:
    """Translate the arguments of an algorithm.

    Args:
        arguments: arguments of a preset, with changes, by their names in Stable-Baselines3
            or in :data:`OWN`.
        num_envs: number of runs at once, over all processes.
        recurrent: True for RL².

    Raises:
        TypeError: RLlib has no argument of that meaning, or a value is of a wrong type.
        ValueError: a value is out of its range.

    Example:
        >>> given = {"n_steps": 40, "batch_size": 512, "learning_rate": 4e-4, "gamma": 1.0}
        >>> translate(given, num_envs=256, recurrent=False).training["lr"]
        0.0004
    """
    # 1. Fill in the defaults of Stable-Baselines3
    parameters = inspect.signature(PPO).parameters
    defaults = {name: parameters[name].default for name in (*RENAMED, *SIZES)} | OWN
    check_arguments("PPO of RLlib", arguments, defaults)
    chosen = {**defaults, **arguments}
    for name in (*RENAMED, *OWN):
        _check_number(name, chosen[name], like=defaults[name])

    # 2. Sizes. Minibatches of RL² are whole trials, and RLlib adds a row to each trial. The
    # last + 1 is needed because RLlib rounds the number of trials down
    n_steps, batch_size = chosen["n_steps"], chosen["batch_size"]
    for name in ("n_steps", "batch_size", "n_epochs"):
        if not isinstance(chosen[name], int) or chosen[name] < 1:
            raise ValueError(f"{name} must be a positive integer, got {chosen[name]!r}")
    rollout = n_steps * num_envs
    size = batch_size
    if recurrent:
        size = max(1, batch_size // n_steps) * (n_steps + 1) + 1
    training = {new: chosen[name] for name, new in RENAMED.items()}
    training |= {name: chosen[name] for name in OWN}
    training |= {"train_batch_size": rollout, "minibatch_size": min(size, rollout)}
    training["grad_clip_by"] = "global_norm"

    # 3. The network
    network = _network(chosen["policy_kwargs"] or {}, recurrent)
    if recurrent:  # a trial, and the row that RLlib adds for the last value
        network["max_seq_len"] = n_steps + 1
    return Arguments(training, network, rollout, n_steps)


def _network(given: Mapping[str, Any], recurrent: bool) -> dict[str, Any]:
    """Return the arguments of the network.

    Raises:
        TypeError: there is an argument that it does not have.
        ValueError: ``net_arch`` is not a list of widths, for actor and critic alike.
    """
    defaults = {**NETWORK, **(RECURRENT if recurrent else {})}
    for name in given:
        if name not in defaults:
            valid = inspect.signature(ActorCriticPolicy).parameters
            why = "RLlib's network has" if name in valid else "there is"
            raise TypeError(
                f"{why} no {name!r} among policy_kwargs; {suggestion(name, list(defaults))}"
            )
    network = {**defaults, **given}
    widths = network["net_arch"]
    if not isinstance(widths, list | tuple) or not all(
        isinstance(width, int) and width > 0 for width in widths
    ):
        raise ValueError(
            "net_arch must be a list of widths, of actor and critic alike, such as "
            f"[64, 64]; got {widths!r}"
        )
    return {**network, "net_arch": list(widths)}


def _check_number(name: str, value: Any, *, like: Any) -> None:
    """Refuse a value of another type than the default ``like``: a flag or a number.

    Raises:
        TypeError: the type differs.
    """
    if isinstance(like, bool):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
