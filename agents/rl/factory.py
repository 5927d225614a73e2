"""Environment and model of a preset, for Stable-Baselines3."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import optenv  # registers the environments
from optenv.sb3 import SB3VecEnv

from ..utils.arguments import check_arguments
from .export import check_reward
from .group_advantage import RelativeReward, scales_by_group, scaling_buffer
from .presets import PRESETS
from .rl2 import RL2, LstmPolicy
from .unrolled import UnrolledLR
from .unrolling import UNROLLED, build_unrolled

#: By the name of its class: an algorithm, and the buffer that it learns from.
ALGORITHMS: dict[str, tuple[type[BaseAlgorithm], str]] = {
    "PPO": (PPO, "rollout"),
    "DQN": (DQN, "replay"),
    "QRDQN": (QRDQN, "replay"),
    "RL2": (RL2, "recurrent"),
}

#: All environments: those whose episodes are runs, and those of trials.
IDS: dict[str, dict[str, object]] = {**optenv.ENVIRONMENTS, **optenv.TRIALS}


#: Arguments that only environments of trials have.
OF_TRIALS = ("runs", "previous_reward")


def preset(agent: str) -> dict[str, Any]:
    """Preset called ``agent``.

    Raises:
        ValueError: there is none; the message lists the valid names.
    """
    if agent not in PRESETS:
        raise ValueError(f"unknown agent {agent!r}; valid agents: {', '.join(PRESETS)}")
    return PRESETS[agent]


def env_arguments(agent: str, env_id: str) -> dict[str, Any]:
    """The preset's arguments of the environment, as far as ``env_id`` knows them.

    What a preset says of its kind of action, such as its multipliers, means nothing to an
    environment with another kind.

    Raises:
        ValueError: there is no such agent.
    """
    arguments = preset(agent)["env"]
    if env_id not in IDS:
        return dict(arguments)  # make_env says so
    kind = str(IDS[env_id]["action"])
    known = optenv.actions.ACTIONS[kind].__dataclass_fields__
    action = {name: value for name, value in arguments["action"].items() if name in known}
    foreign = set() if env_id in optenv.TRIALS else set(OF_TRIALS)
    if (kind == "rule") != (arguments["rule"] == "switching"):
        foreign.add("rule")
    own = {name: arguments[name] for name in arguments if name not in foreign}
    return {**own, "action": action}


def make_env(
    env_id: str, num_envs: int, arguments: Mapping[str, Any], *, copies: int = 1
) -> VecEnv:
    """Batched environment for Stable-Baselines3, with episode statistics.

    Args:
        env_id: one of :data:`optenv.ENVIRONMENTS` or :data:`optenv.TRIALS`.
        num_envs: runs at once.
        arguments: of the environment; an ``action`` without a kind gets the id's.
        copies: runs of each task; from 2 on, rewards are relative to the others', see
            :class:`~agents.rl.group_advantage.RelativeReward`.

    Raises:
        ValueError, TypeError: an unknown id, or arguments that are not valid.
    """
    if env_id not in IDS:
        raise ValueError(f"unknown environment {env_id!r}; valid: {', '.join(IDS)}")
    if "num_envs" in arguments:
        raise ValueError("num_envs is not an argument of the runs; use --num-envs")
    action = arguments.get("action", {})
    if isinstance(action, dict):
        action = {"kind": IDS[env_id]["action"], **action}
    batch = gym.make_vec(
        env_id,
        num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED,
        **{**arguments, "action": action},
    )
    env = VecMonitor(SB3VecEnv(batch))
    return RelativeReward(env, copies) if copies > 1 else env


def make_model(
    agent: str,
    env: VecEnv,
    *,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: Path | None = None,
) -> BaseAlgorithm:
    """Model of a preset on ``env``.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        env: see :func:`make_env`.
        seed: of the algorithm and the environments.
        overrides: replace arguments of the algorithm's class.
        resume: ``model.zip`` to go on from, on tasks that the seed and the steps that it
            has made decide.

    Raises:
        ValueError: unknown agent, an action space that its algorithm cannot drive, a model
            to go on from that was trained on rewards of another kind, or what
            Stable-Baselines3 does not accept.
        TypeError: an override that the class does not take, or no number where it takes
            one.
    """
    saved = None if resume is None else _saved(resume)
    arguments = {
        **preset(agent)["algorithm"],
        **(_returns(saved) if saved is not None else {}),
        **(overrides or {}),
    }
    algorithm, buffer = ALGORITHMS[preset(agent)["class"]]
    own_class = RecurrentPPO if algorithm is RL2 else algorithm  # which names them
    valid = inspect.signature(own_class).parameters
    defaults = {name: parameter.default for name, parameter in valid.items()}
    check_arguments(algorithm.__name__, overrides or {}, defaults)
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    if buffer == "replay" and not discrete:
        raise ValueError(
            f"agent {agent!r} needs a discrete action, got {env.action_space}; "
            "use env 'optenv/DiscreteLearningRate-v0'"
        )
    described = env.env_method("describe")[0]
    trials = "runs" in described
    if trials != (buffer == "recurrent"):
        known = optenv.TRIALS if buffer == "recurrent" else optenv.ENVIRONMENTS
        raise ValueError(
            f"agent {agent!r} is {'not ' if trials else ''}for trials; "
            f"use env {' or '.join(known)}"
        )
    check_reward(described)
    if buffer != "replay":  # a small batch of runs
        rollout = arguments["n_steps"] * env.num_envs
        arguments["batch_size"] = min(arguments["batch_size"], rollout)
    if isinstance(env, RelativeReward):
        arguments |= scaling_buffer(env, arguments, buffer)
    try:
        if resume is None or saved is None:
            network = LstmPolicy if buffer == "recurrent" else "MlpPolicy"
            return algorithm(network, env, seed=seed, device="cpu", **arguments)
        own = dict(overrides or {})
        if isinstance(env, RelativeReward):
            names = ("n_steps", f"{buffer}_buffer_kwargs", "group")
            own |= {name: arguments[name] for name in names if name in arguments}
        elif buffer == "replay":
            # It would take the buffer that it made for n-step returns for the user's.
            own |= {"replay_buffer_class": None, "replay_buffer_kwargs": {}}
        model = algorithm.load(resume, env=env, device="cpu", seed=seed, **own)
    except Exception as error:
        what = f"{arguments}" if resume is None else f"{str(resume)!r}"
        raise ValueError(
            f"cannot make a {algorithm.__name__} model of {what}: {error}"
        ) from error
    relative = scales_by_group(saved)
    if relative != isinstance(env, RelativeReward):
        raise ValueError(
            f"the model of {str(resume)!r} was trained on rewards that are "
            f"{'relative to copies' if relative else 'absolute'}; "
            f"give {'at least 2 copies' if relative else '1 copy'} to go on"
        )
    if seed is not None:  # not the tasks once more that the model began with
        model.set_random_seed(seed + model.num_timesteps)
    return model


def _saved(path: Path) -> dict[str, Any]:
    """Attributes of a saved model.

    Raises:
        ValueError: it is none.
    """
    try:
        saved, _, _ = load_from_zip_file(path, device="cpu")
    except Exception as error:
        raise ValueError(f"cannot go on with {str(path)!r}: {error}") from error
    return saved or {}


def _returns(saved: Mapping[str, Any]) -> dict[str, Any]:
    """How a saved model computes returns, wherever its class keeps that."""
    found = {**saved, **(saved.get("replay_buffer_kwargs") or {})}
    return {name: found[name] for name in ("n_steps", "gamma") if name in found}


def build(
    agent: str,
    config: Mapping[str, Any],
    *,
    seed: int | None = None,
    resume: Path | None = None,
) -> BaseAlgorithm | UnrolledLR:
    """Model of a preset on an environment of its own.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        config: ``env_id``, ``env_arguments``, ``num_envs``, ``copies`` (see
            :func:`make_env`) and ``overrides`` (see :func:`make_model`).
        seed, resume: see :func:`make_model`.

    Raises:
        ValueError, TypeError: as those two do.
    """
    if preset(agent)["class"] in UNROLLED:
        if resume is not None:
            raise ValueError(
                f"agent {agent!r} cannot go on from a model; leave out --resume"
            )
        return build_unrolled(preset(agent), config, seed)
    env = make_env(
        config["env_id"], config["num_envs"], config["env_arguments"],
        copies=config["copies"],
    )  # fmt: skip
    return make_model(agent, env, seed=seed, overrides=config["overrides"], resume=resume)


def remaining(model: BaseAlgorithm | UnrolledLR, timesteps: int) -> int:
    """Control steps that ``model`` still has to make, of ``timesteps`` in all.

    Raises:
        ValueError: none, or too few for the algorithm to begin to learn.
    """
    left = timesteps - model.num_timesteps
    if left < 1:
        raise ValueError(
            f"the model has made {model.num_timesteps:,} control steps, so that none of "
            f"{timesteps:,} are left; give more timesteps"
        )
    first = getattr(model, "learning_starts", 0)
    if timesteps <= first:
        raise ValueError(
            f"timesteps must exceed learning_starts ({first:,}), got {timesteps:,}"
        )
    return left
