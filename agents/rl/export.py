"""Export of a Stable-Baselines3 model to a policy file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optenv import actions
from optenv.per_tensor import policy_observation_space
from optenv.settings import DTYPES
from optenv.trials import trial_space
from optenv.vector import observation_space

from ..policy.build import MAX_DIFFERENT, build, count_differences
from ..policy.files import save_policy
from ..policy.layers import join
from ..policy.module import Policy
from ..policy.normalisation import Normalisation
from ..policy.spec import observed_by

__all__ = ["check_export", "check_reward", "describe", "export_policy"]


def export_policy(model: Any, path: str | Path) -> Path:
    """Write the policy of a Stable-Baselines3 model.

    Args:
        model: model of any algorithm of Stable-Baselines3 or sb3-contrib with an MLP
            policy, with or without an LSTM; or of an algorithm that was added with
            :func:`agents.rl.algorithms.register`. It was trained on an optenv environment
            (single or batched, wrapped or not). The statistics of a ``VecNormalize``
            become part of the policy.
        path: path of the files, with or without the suffix ``.safetensors`` or ``.json``.

    Returns:
        Path of the weights.

    Raises:
        ValueError: the model has no optenv environment; or a wrapper may change
            observations or actions; or its observations are not available to an optimizer;
            or its network does not consist of linear layers with one activation function;
            or the policy would not act as the model predicts. The message names the
            algorithm and gives advice. Nothing is written. :func:`check_export` tests this
            before the training.

    Example:
        ::

            model = PPO("MlpPolicy", make_vec_env("optenv/LearningRate-v0"))
            model.learn(100_000)
            export_policy(model, "my_policy")
            optimizer = LearnedOptimizer(params, "my_policy", total_steps=1000)
    """
    try:
        policy = _policy_of(model)
    except ValueError as error:
        raise ValueError(f"cannot export this {type(model).__name__} model: {error}") from (
            error.__cause__
        )
    return save_policy(policy, path)


def check_export(model: Any) -> None:
    """Check before a training that the model's policy can be exported after it.

    Args:
        model: new model of Stable-Baselines3 with its environment.

    Raises:
        ValueError: :func:`export_policy` would refuse the model; the message names the
            cause and gives advice.

    Example:
        ::

            model = SAC("MlpPolicy", make_vec_env("optenv/LearningRate-v0"))
            check_export(model)  # before hours of training
            model.learn(1_000_000)
    """
    try:
        _policy_of(model)
    except ValueError as error:
        raise ValueError(
            f"this {type(model).__name__} model could not be exported: {error}"
        ) from error.__cause__


def _policy_of(model: Any) -> Policy:
    """Make the policy of a model; see :func:`export_policy`."""
    # Imported here, since `import agents` does not need Stable-Baselines3
    from .algorithms import extractor_of

    # 1. Check algorithm and environment
    env = model.get_env()
    if env is None:
        raise ValueError("it has no environment; set_env() one of optenv's first")
    described = describe(env)
    action, trials = actions.make(described["action"]), "runs" in described
    if action.not_exported:
        raise ValueError(f"{action.not_exported} (action {action.kind!r})")
    extract = extractor_of(model)
    features = observed_by(described["features"])
    normaliser = _check_unwrapped(model, env, action, features, trials)
    check_reward(described)

    # 2. Extract the network of the model
    layers, lstm = extract(model)
    policy = build(
        described,
        join(layers),
        lstm=lstm,
        normalisation=_normalisation(normaliser),
        algorithm=type(model).__name__,
        timesteps=int(model.num_timesteps),
        seed=model.seed,
    )
    _check_predictions(model, policy, normaliser)
    return policy


def _normalisation(normaliser: Any) -> Normalisation | None:
    """Return the statistics of a ``VecNormalize``; None if there is none."""
    if normaliser is None:
        return None
    moments = normaliser.obs_rms
    return Normalisation(
        moments.mean, moments.var, float(normaliser.epsilon), float(normaliser.clip_obs)
    )


def describe(env: Any) -> dict[str, Any]:
    """Return the common description of the environments within an environment.

    They may differ only in the lengths of their runs.

    Args:
        env: environment of Gymnasium or of Stable-Baselines3, single or batched.

    Raises:
        ValueError: it is not one of optenv's, or the environments of a batch differ.
    """
    try:
        all_described = _descriptions(env)
    except (AttributeError, EOFError) as error:  # EOFError: in another process
        raise ValueError(
            f"not an environment of optenv's: {env!r}; set_env() one of these first"
        ) from error
    first = dict(all_described[0])
    lengths = [n for described in all_described for n in described["total_updates"]]
    for described in all_described:
        other = {**described, "total_updates": first["total_updates"]}
        if other != first:
            keys = [key for key in {**first, **other} if first.get(key) != other.get(key)]
            raise ValueError(
                f"its environments differ in {', '.join(keys)}, and a policy file "
                "describes one; train on environments with the same arguments"
            )
    return {**first, "total_updates": [min(lengths), max(lengths)]}


def _descriptions(env: Any) -> list[dict[str, Any]]:
    """Return ``describe()`` of all environments within an environment."""
    if hasattr(env, "env_method"):  # of Stable-Baselines3
        return list(env.env_method("describe"))
    base = env.unwrapped
    if hasattr(base, "call") and not hasattr(base, "describe"):  # single ones in a batch
        return list(base.call("describe"))
    return [base.describe()]


def check_reward(described: Mapping[str, Any]) -> None:
    """Refuse trials with a previous reward that is not available to an optimizer.

    Args:
        described: ``describe()`` of the environment.

    Raises:
        ValueError: observations contain the environment's reward instead of its estimate.
    """
    if described.get("previous_reward", "told") != "told":
        raise ValueError(
            "an optimizer does not know the previous reward that this environment shows; "
            "give it previous_reward='told'"
        )


def _check_unwrapped(
    model: Any, env: Any, action: actions.Action, features: Sequence[str], trials: bool
) -> Any:
    """Refuse models whose observations or actions are not those of an optenv environment.

    Args:
        model: model with a policy of Stable-Baselines3.
        env: its environment.
        action: the environment's action.
        features: names of the features that it observes.
        trials: True if the environment's episodes are trials.

    Returns:
        The wrapper that normalises observations; None if there is none.
    """
    from .export_wrappers import wrapping

    found = wrapping(env)
    if found.strangers:
        raise ValueError(
            f"not an environment of optenv's: {found.strangers[0]!r}; give it one made by "
            "gym.make, or by gym.make_vec in an optenv.sb3.SB3VecEnv"
        )
    valid = []
    for name in DTYPES:
        observations = observation_space(name, action, features)
        if trials:
            observations = trial_space(observations, action)
        observations = policy_observation_space(observations, action, trials)
        valid.append((observations, action.policy_space(DTYPES[name][1])))
    actual = (model.observation_space, model.action_space)
    if action.per_tensor and actual[1] == action.space(actual[1].dtype.type):
        raise ValueError(
            "it acts on all tensors of a run at once, so that it fits models of one size; "
            "train on batches in an optenv.PerTensor, of which every tensor is a "
            "sub-environment"
        )
    if found.changing or actual not in valid:
        names = ", ".join(found.changing) or "something"
        differ = (
            f" (the model's are {actual[0]} and {actual[1]}, the environment's "
            f"{valid[0][0]} and {valid[0][1]})"
        )
        raise ValueError(
            f"{names} between environment and model may change observations or actions"
            f"{'' if actual in valid else differ}, which an optimizer does not repeat; "
            "train without it, or, if it changes neither, set_env() the environment "
            "without it before the export"
        )
    if len(found.normalising) > 1:
        raise ValueError(
            f"its observations are normalised {len(found.normalising)} times; train with "
            "one VecNormalize"
        )
    return found.normalising[0] if found.normalising else None


def _check_predictions(model: Any, policy: Policy, normaliser: Any) -> None:
    """Refuse a policy that does not act as its model predicts.

    Both get the same random observations, over a few steps in a row.
    """
    state: Any = None

    def predict(observation: np.ndarray, first: bool) -> Any:
        nonlocal state
        if normaliser is not None:
            observation = normaliser.normalize_obs(observation)
        starts = np.full(len(observation), first)
        action, state = model.predict(observation, state, starts, deterministic=True)
        return action

    training = model.policy.training
    different, count = count_differences(policy, predict, model.observation_space.dtype)
    model.policy.set_training_mode(training)
    if different > MAX_DIFFERENT * count:
        raise ValueError(
            f"on {different} of {count} random observations, its policy "
            f"({type(model.policy).__name__}) acts otherwise than its layers do; train "
            "with a policy class of Stable-Baselines3 that is not changed"
        )
