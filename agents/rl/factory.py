"""Environment and model of a preset."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import optenv  # registers the environments
from optenv import registration
from optenv.checks import known
from optenv.sb3 import SB3VecEnv

from ..utils.arguments import check_arguments
from . import algorithms, checkpoints
from .algorithm_arguments import check_ranges, refuse_configured
from .algorithms import Algorithm
from .experience import check_experience
from .export import check_reward
from .group_advantage import LeaveOneOutReward, is_group_normalised, normalising_arguments
from .journal import Journal
from .presets import PRESETS
from .unrolled import UnrolledLR

__all__ = [
    "IDS",
    "algorithm_of_preset",
    "build",
    "check_fit",
    "checked_arguments",
    "configuration",
    "env_arguments",
    "make_env",
    "make_model",
    "make_unrolled",
    "preset",
    "remaining",
]

#: All environments by id, with their arguments: of single runs and of trials, for all tasks
#: and for one family of tasks.
IDS: dict[str, dict[str, object]] = registration.ALL

#: Arguments that only environments of trials have.
TRIAL_ARGUMENTS = ("runs", "previous_reward")

#: Arguments of ``gymnasium.make_vec`` that a training sets itself, with advice on what to
#: do instead.
ENV_CONFIGURED = {
    "autoreset_mode": "a training resets them itself",
    "id": "use --env",
    "num_envs": "use --num-envs",
    "rendered": "a training renders nothing",
    "render_mode": "a training renders nothing",
    "vector_kwargs": "give them one by one",
    "vectorization_mode": "a batch of runs is one process",
    "wrappers": "policies would not know what these change",
}

#: Environment of learners that unroll (:mod:`agents.rl.unrolled`).
UNROLLED_ID = "optenv/LearningRate-v0"

#: Arguments of learners that unroll that follow from other entries of a configuration.
UNROLLED_CONFIGURED = ("arguments", "groups", "size", "seed")


def preset(agent: str) -> dict[str, Any]:
    """Return the preset of an agent.

    Raises:
        ValueError: there is none; the message lists the valid names.
    """
    known("agent", agent, PRESETS)
    return PRESETS[agent]


def algorithm_of_preset(agent: str) -> Algorithm:
    """Return the algorithm of an agent.

    Raises:
        ValueError: there is no such agent, or no such algorithm.
    """
    return algorithms.get(preset(agent)["class"])


def env_arguments(agent: str, env_id: str) -> dict[str, Any]:
    """Return the arguments in a preset that an environment accepts.

    Arguments for another kind of action than the environment's, such as the multipliers of
    discrete actions, are left out, and so are the tasks if the id names a family.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        env_id: key of :data:`IDS`; for any other id all arguments are returned.

    Raises:
        ValueError: there is no such agent.
    """
    arguments = preset(agent)["env"]
    if env_id not in IDS:
        return dict(arguments)  # make_env refuses it
    kind = str(IDS[env_id]["action"])
    valid = optenv.actions.ACTIONS[kind].__dataclass_fields__
    action = {name: value for name, value in arguments["action"].items() if name in valid}
    foreign = set() if registration.is_trial(env_id) else set(TRIAL_ARGUMENTS)
    foreign |= {"tasks"} & IDS[env_id].keys()
    switches = (kind == "rule") != (arguments["rule"] == "switching")
    if switches or optenv.actions.ACTIONS[kind].is_update:
        foreign.add("rule")
    shared = {name: value for name, value in arguments.items() if name not in foreign}
    return {**shared, "action": action}


def configuration(agent: str, **changes: Any) -> dict[str, Any]:
    """Return a preset as a configuration for :func:`build`.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        **changes: entries to replace: ``env_id``, ``env_arguments``, ``num_envs``,
            ``copies``, ``timesteps``, or ``overrides`` of the algorithm's arguments.

    Raises:
        ValueError: there is no such agent.
    """
    env_id = changes.get("env_id", preset(agent)["env_id"])
    arguments = env_arguments(agent, env_id)
    return {**preset(agent), "env_arguments": arguments, "overrides": {}, **changes}


def make_env(
    env_id: str,
    num_envs: int,
    arguments: Mapping[str, Any],
    *,
    copies: int = 1,
    journal: bool = False,
) -> VecEnv:
    """Make a batched environment for Stable-Baselines3, with episode statistics.

    Args:
        env_id: a key of :data:`IDS`.
        num_envs: number of runs at once. If actions are on single tensors, each tensor of a
            run is a sub-environment (:class:`optenv.PerTensor`).
        arguments: arguments of the environment; an ``action`` without a kind gets the
            kind of the id.
        copies: number of runs of each task. From 2 on, rewards are relative to those of the
            other copies, see :class:`~agents.rl.group_advantage.LeaveOneOutReward`.
        journal: record how the runs can be made again, for checkpoints of a training, see
            :class:`~agents.rl.journal.Journal`.

    Raises:
        ValueError, TypeError: the id is unknown, or arguments are not valid.
    """
    if env_id not in IDS:
        valid = ", ".join([*optenv.ENVIRONMENTS, *optenv.TRIALS])
        families = ", ".join(registration.FAMILIES)
        raise ValueError(
            f"unknown environment {env_id!r}; valid: {valid}, and these with a family of "
            f"{families}, such as optenv/LearningRate-CNN-v0"
        )
    batch = gym.make_vec(
        env_id,
        num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED,
        **checked_arguments(arguments),
    )
    if batch.unwrapped.action.per_tensor:  # type: ignore[attr-defined]
        batch = optenv.PerTensor(batch)
    env = VecMonitor(SB3VecEnv(Journal(batch) if journal else batch))
    return LeaveOneOutReward(env, copies) if copies > 1 else env


def checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check and return arguments of an environment for ``gymnasium.make_vec``.

    Raises:
        ValueError: there is one that a training sets itself.
    """
    for name, instead in ENV_CONFIGURED.items():
        if name in arguments:
            raise ValueError(f"{name} is not an argument of the runs; {instead}")
    return dict(arguments)


def make_model(
    agent: str,
    env: VecEnv,
    *,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> BaseAlgorithm:
    """Make a preset's model of Stable-Baselines3.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        env: environment, see :func:`make_env`.
        seed: seed of the algorithm and of the environments.
        overrides: arguments of the algorithm's class that replace the preset's.
        resume: path of a ``model.zip`` to continue from. Its next tasks are drawn from the
            seed and the number of steps that it has made.
        defaults: arguments of a saved configuration, which replace the preset's.

    Raises:
        ValueError: the agent is unknown; or its algorithm does not support the
            environment's action; or ``train_freq`` is in episodes; or the model to continue
            from was trained on another kind of rewards; or Stable-Baselines3 does not
            accept the arguments.
        TypeError: the class does not have an argument in ``overrides``, or one that must be
            a number is none.
    """
    # 1. Collect the arguments: the preset's, the saved model's, the overrides
    saved = None if resume is None else _saved_attributes(resume)
    algorithm = algorithm_of_preset(agent)
    name, overrides = algorithm.cls.__name__, dict(overrides or {})
    valid = inspect.signature(algorithm.signature or algorithm.cls).parameters
    of_class = {key: parameter.default for key, parameter in valid.items()}
    preset_arguments = preset(agent)["algorithm"]
    changed = _differing(defaults or {}, preset_arguments)
    refuse_configured(overrides)
    check_arguments(name, {**changed, **overrides}, of_class)
    arguments = {
        **{key: of_class[key] for key in ("n_steps", "gamma") if key in of_class},
        **(preset_arguments if defaults is None else defaults),
        **(_return_arguments(saved) if saved is not None else {}),
        **overrides,
    }
    check_ranges(arguments)

    # 2. Check that algorithm and environment fit
    buffer = algorithm.buffer
    if buffer is None:
        raise ValueError(
            f"agent {agent!r} is not an algorithm of Stable-Baselines3; use build()"
        )
    check_fit(agent, env)
    _check_train_freq({**(saved or {}), **overrides}.get("train_freq"))

    # 3. Adapt the arguments to the environment
    if buffer.whole_episodes and "batch_size" in arguments:  # few runs, a small rollout
        rollout = arguments["n_steps"] * env.num_envs
        arguments["batch_size"] = min(arguments["batch_size"], rollout)
    relative = isinstance(env, LeaveOneOutReward)
    if isinstance(env, LeaveOneOutReward):
        arguments |= normalising_arguments(env, arguments, buffer)

    limit = env.get_attr("settings")[0].max_memory
    check_experience({**(saved or {}), **arguments}, env, max_memory=limit)

    # 4. Make the model, or load it
    try:
        if resume is None or saved is None:
            made = algorithm.cls(
                algorithm.policy, env, seed=seed, device="cpu", **arguments
            )
            return _without_folder(made)
        renewed = (
            {key: arguments[key] for key in buffer.resumed} if relative else buffer.reset
        )
        model = algorithm.cls.load(
            resume, env=env, device="cpu", seed=seed, **{**overrides, **renewed}
        )
    except Exception as error:
        source = f"{arguments}" if resume is None else f"{str(resume)!r}"
        raise ValueError(f"cannot make a {name} model of {source}: {error}") from error
    if is_group_normalised(saved) != relative:
        raise ValueError(
            f"the model of {str(resume)!r} was trained on rewards that are "
            f"{'absolute' if relative else 'relative to copies'}; "
            f"give {'1 copy' if relative else 'at least 2 copies'} to go on"
        )
    if seed is not None:  # other tasks than those that the model began with
        model.set_random_seed(seed + model.num_timesteps)
    return _without_folder(model)


def _without_folder(model: BaseAlgorithm) -> BaseAlgorithm:
    """Return the model with a logger that does not create a folder, if it logs nothing.

    By default, Stable-Baselines3 creates an empty folder in the temporary folder.
    """
    if not model.verbose and model.tensorboard_log is None:
        model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _differing(
    arguments: Mapping[str, Any], preset_arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that are not the preset's."""
    return {
        name: value
        for name, value in arguments.items()
        if name not in preset_arguments or preset_arguments[name] != value
    }


def check_fit(agent: str, env: VecEnv) -> dict[str, Any]:
    """Refuse an environment that does not fit an agent.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        env: see :func:`make_env`.

    Returns:
        ``describe()`` of the environment.

    Raises:
        ValueError: the agent's algorithm does not support its action, or its observation
            contains something that is not available to an optimizer.
    """
    described: dict[str, Any] = env.env_method("describe")[0]
    _check_action(agent, env, described)
    _check_trials(agent, described)
    check_reward(described)
    return described


def _check_action(agent: str, env: VecEnv, described: Mapping[str, Any]) -> None:
    """Refuse an environment whose action the agent's algorithm does not support."""
    algorithm = algorithm_of_preset(agent)
    if isinstance(optenv.actions.make(described["action"]), algorithm.actions):
        return
    kinds = " or ".join(cls.kind for cls in algorithm.actions)
    known = optenv.TRIALS if algorithm.trials else optenv.ENVIRONMENTS
    fitting = [
        env_id
        for env_id, given in known.items()
        if issubclass(optenv.actions.ACTIONS[str(given["action"])], algorithm.actions)
    ]
    raise ValueError(
        f"agent {agent!r} needs a {kinds} action, got {env.action_space}; "
        f"use env {' or '.join(map(repr, fitting))}"
    )


def _check_trials(agent: str, described: Mapping[str, Any]) -> None:
    """Refuse trials if the algorithm is for single runs, and single runs if for trials."""
    trials, wanted = "runs" in described, algorithm_of_preset(agent).trials
    if trials != wanted:
        known = optenv.TRIALS if wanted else optenv.ENVIRONMENTS
        raise ValueError(
            f"agent {agent!r} is {'' if wanted else 'not '}for trials; "
            f"use env {' or '.join(known)}"
        )


def _check_train_freq(value: Any) -> None:
    """Refuse rollouts that are counted in episodes: their number of steps is not known.

    Args:
        value: ``train_freq`` as an argument of Stable-Baselines3, or as an attribute of a
            saved model; None if it is not given.
    """
    unit = value[1] if isinstance(value, tuple) and len(value) == 2 else "step"
    if getattr(unit, "value", unit) == "episode":
        raise ValueError(
            f"train_freq must be a number of control steps, got {tuple(value)!r}: a "
            "training with rollouts of episodes would end, and be saved, at other numbers "
            "of control steps than those asked for"
        )


def _saved_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a saved model.

    Raises:
        ValueError: the file is not a saved model.
    """
    try:
        saved, _, _ = load_from_zip_file(path, device="cpu")
    except Exception as error:
        raise ValueError(f"cannot go on with {str(path)!r}: {error}") from error
    return saved or {}


def _return_arguments(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved model's ``n_steps`` and ``gamma``.

    Args:
        saved: attributes of the model. With n-step returns, they are arguments of its
            replay buffer.
    """
    values = {**saved, **(saved.get("replay_buffer_kwargs") or {})}
    return {name: values[name] for name in ("n_steps", "gamma") if name in values}


def make_unrolled(
    agent: str,
    config: Mapping[str, Any],
    *,
    seed: int | None = None,
    resume: Path | None = None,
) -> UnrolledLR:
    """Make a preset's learner that unrolls.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        config: see :func:`build`; ``copies`` must divide ``num_envs``.
        seed: seed of the learner and its tasks; 0 by default.
        resume: see :func:`make_model`.

    Raises:
        ValueError, TypeError: an argument is unknown or not valid, or the file does not
            hold a learner of the same kind and size.
    """
    env_id, overrides = config["env_id"], config["overrides"]
    num_envs, copies = config["num_envs"], config["copies"]
    if env_id != UNROLLED_ID:
        raise ValueError(
            f"{'cannot be unrolled:' if env_id in IDS else 'unknown'} environment "
            f"{env_id!r}; valid: {UNROLLED_ID}"
        )
    learner = algorithm_of_preset(agent).cls
    defaults = {
        name: parameter.default
        for cls in (UnrolledLR, learner)
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in (*UNROLLED_CONFIGURED, "unrolled")
    }
    for name in ("groups", "size"):
        if name in overrides:
            raise TypeError(
                f"{name!r} follows from num_envs ({num_envs}) and copies ({copies}), "
                "runs of each task; give these"
            )
    preset_arguments = preset(agent)["algorithm"]
    given = config.get("algorithm", preset_arguments)
    changed = _differing(given, preset_arguments)
    check_arguments(learner.__name__, {**changed, **overrides}, defaults)
    if num_envs % copies:
        raise ValueError(f"num_envs ({num_envs}) must be a multiple of copies ({copies})")
    made: UnrolledLR = learner(
        config["env_arguments"],
        groups=num_envs // copies,
        size=copies,
        seed=0 if seed is None else seed,
        **{**given, **overrides},
    )
    if resume is None:
        return made
    state = checkpoints.read(resume)
    try:
        if state is None or "learner" not in state.numbers:
            raise ValueError("it holds no learner that unrolls")
        return made.continued(state.under("learner"))
    except ValueError as error:
        raise ValueError(f"cannot go on with {str(resume)!r}: {error}") from error


def build(
    agent: str,
    config: Mapping[str, Any],
    *,
    seed: int | None = None,
    resume: Path | None = None,
) -> BaseAlgorithm | UnrolledLR:
    """Make an agent's model together with its environment.

    Args:
        agent: key of :data:`~agents.rl.presets.PRESETS`.
        config: ``env_id``, ``env_arguments``, ``num_envs``, ``copies`` (see
            :func:`make_env`) and ``overrides`` (see :func:`make_model`); optionally
            ``algorithm``, which replaces the preset's arguments. :func:`configuration`
            makes it from a preset.
        seed: see :func:`make_model`.
        resume: see :func:`make_model`.

    Raises:
        ValueError, TypeError: see :func:`make_env`, :func:`make_model` and
            :func:`make_unrolled`.
    """
    algorithm = algorithm_of_preset(agent)
    if resume is not None and not algorithm.resumable:
        raise ValueError(f"agent {agent!r} cannot go on from a model; leave out --resume")
    if algorithm.buffer is None:
        return make_unrolled(agent, config, seed=seed, resume=resume)
    env = make_env(
        config["env_id"], config["num_envs"], config["env_arguments"],
        copies=config["copies"], journal=True,
    )  # fmt: skip
    return make_model(
        agent, env, seed=seed, overrides=config["overrides"], resume=resume,
        defaults=config.get("algorithm"),
    )  # fmt: skip


def remaining(model: Any, timesteps: int) -> int:
    """Return the number of control steps that are left for a model.

    Args:
        model: new or resumed model, of any engine.
        timesteps: number of control steps in all, over all runs.

    Raises:
        ValueError: none are left, or the training would end before learning starts.
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
