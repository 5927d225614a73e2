"""Export of a Stable-Baselines3 model to a policy file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from optenv import actions
from optenv.per_tensor import policy_observation_space
from optenv.registration import TRIALS
from optenv.settings import DTYPES
from optenv.telemetry import FEATURES
from optenv.trials import trial_space
from optenv.vector import observation_space

from ..policy.files import save_policy
from ..policy.module import Policy
from ..policy.spec import ACTIVATIONS, PolicySpec

__all__ = ["check_reward", "export_policy"]


def export_policy(model: Any, path: str | Path) -> Path:
    """Write the policy of a Stable-Baselines3 model.

    Args:
        model: PPO, A2C, DQN or QRDQN model with an MLP policy, an
            :class:`~agents.recurrent.RL2` model, or a model of an algorithm that was
            added with :func:`agents.rl.algorithms.register`; trained on an optenv
            environment (single or batched, wrapped or not).
        path: path of the files; ``.safetensors`` and ``.json`` replace its suffix.

    Returns:
        Path of the weights.

    Raises:
        ValueError: the model has no optenv environment; or a wrapper may change
            observations or actions; or its observations are not available to an optimizer;
            or its network is not one of linear layers with one activation function; or the
            policy would not act as the model predicts. The message names the algorithm,
            and what to do. Nothing is written.

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


def _policy_of(model: Any) -> Policy:
    """Make the policy of a model; see :func:`export_policy`."""
    # Only here: the package does without Stable-Baselines3, and whoever has a model has it
    from .algorithms import algorithm_of

    # 1. Check algorithm and environment
    env = model.get_env()
    if env is None:
        raise ValueError("it has no environment; set_env() one of optenv's first")
    described = _describe(env)
    action, trials = actions.make(described["action"]), "runs" in described
    algorithm = algorithm_of(model)
    _check_features(described)
    _check_unwrapped(model, env, action, trials)
    check_reward(described)

    # 2. Read the network off the model
    assert algorithm.extract is not None
    layers, lstm = algorithm.extract(model)
    _check_memory(model, lstm, trials)
    linear = [cast(nn.Linear, layer) for layer in layers[::2]]
    activations = {type(layer) for layer in layers[1::2]}
    if len(layers) % 2 == 0 or not all(isinstance(layer, nn.Linear) for layer in linear):
        raise ValueError(
            "its layers must be Linear, one activation, Linear, ..., got "
            f"{[type(layer).__name__ for layer in layers]}; change policy_kwargs"
        )
    names = {cls: name for name, cls in ACTIVATIONS.items()}
    if len(activations) > 1 or not activations <= set(names):
        raise ValueError(
            "it has the activations "
            f"{', '.join(sorted(cls.__name__ for cls in activations))}; train with one of "
            f"{', '.join(cls.__name__ for cls in ACTIVATIONS.values())} as activation_fn"
        )
    width = model.observation_space.shape[0]
    memory = 0 if lstm is None else lstm.hidden_size
    ends = linear[0].in_features, linear[-1].out_features
    if ends != (width + memory, action.outputs):
        raise ValueError(
            f"its network leads from {ends[0]} inputs to {ends[1]} outputs; "
            f"expected: {width + memory} inputs and {action.outputs} outputs"
        )

    # 3. Describe it
    spec = PolicySpec.from_environment(
        described,
        hidden=[layer.out_features for layer in linear[:-1]],
        activation=names[activations.pop()] if activations else "tanh",
        memory=memory,
        algorithm=type(model).__name__,
        timesteps=int(model.num_timesteps),
        seed=model.seed,
    )

    # 4. Copy the weights, without those of features that were hidden in training (always 0)
    inputs = [*spec.columns, *range(width, width + memory)]  # the LSTM's output is last
    policy = Policy(spec)
    targets = [layer for layer in policy.members[0] if isinstance(layer, nn.Linear)]
    for i, (target, source) in enumerate(zip(targets, linear, strict=True)):
        state = source.state_dict()
        if i == 0:
            state = {**state, "weight": state["weight"][:, inputs]}
        target.load_state_dict(state)
    if lstm is not None:
        state = {name.removesuffix("_l0"): w for name, w in lstm.state_dict().items()}
        state["weight_ih"] = state["weight_ih"][:, spec.columns]
        policy.cells[0].load_state_dict(state)
    _check_predictions(model, policy)
    return policy


def _describe(env: Any) -> dict[str, Any]:
    """Describe the environments of a model, which must agree but for their lengths."""
    try:
        all_described: list[dict[str, Any]] = env.env_method("describe")
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


def check_reward(described: Mapping[str, Any]) -> None:
    """Refuse trials that show a previous reward that an optimizer does not know.

    Args:
        described: ``describe()`` of the environment.

    Raises:
        ValueError: the environment shows its own reward instead of the estimated one.
    """
    if described.get("previous_reward", "told") != "told":
        raise ValueError(
            "an optimizer does not know the previous reward that this environment shows; "
            "give it previous_reward='told'"
        )


def _check_features(described: Mapping[str, Any]) -> None:
    """Refuse observations with features from outside the package."""
    registered = [name for name in described["features"] if name not in FEATURES]
    if registered:
        raise ValueError(
            f"it observes the registered features {registered}, and an optimizer only "
            f"{', '.join(FEATURES)}; train without them"
        )


def _check_unwrapped(model: Any, env: Any, action: actions.Action, trials: bool) -> None:
    """Refuse models whose observations or actions are not those of an optenv environment.

    Args:
        model: model with a policy of Stable-Baselines3.
        env: its environment.
        action: the environment's action.
        trials: True if the environment's episodes are trials.
    """
    from .export_wrappers import wrapping

    if getattr(env, "norm_obs", False):
        raise ValueError(
            "the model was trained on normalised observations, whose statistics a policy "
            "does not hold; use VecNormalize(..., norm_obs=False)"
        )
    found = wrapping(env)
    if found.strangers:
        raise ValueError(
            f"not an environment of optenv's: {found.strangers[0]!r}; give it one made by "
            "gym.make, or by gym.make_vec in an optenv.sb3.SB3VecEnv"
        )
    valid = []
    for name in DTYPES:
        run_space = observation_space(name, action)
        observations = policy_observation_space(run_space, action)
        if trials:
            observations = trial_space(observations, action)
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
    if getattr(model.policy, "squash_output", False):
        raise ValueError(
            "it squashes its actions (squash_output=True), and an optimizer clips them; "
            "train without squash_output"
        )


def _check_memory(model: Any, lstm: nn.LSTM | None, trials: bool) -> None:
    """Refuse an LSTM of another form than RL²'s, on single runs, or none on trials."""
    if lstm is None and not trials:
        return
    from .rl2 import LstmPolicy  # only here: PPO and DQN do without sb3-contrib

    layers = 0 if lstm is None else lstm.num_layers
    if layers != 1 or not trials or not isinstance(model.policy, LstmPolicy):
        raise ValueError(
            "a policy of trials, and no other, must be an agents.recurrent.LstmPolicy with "
            f"one layer, got {type(model.policy).__name__} with {layers} layers "
            f"{'for' if trials else 'without'} trials; trials: {', '.join(TRIALS)}"
        )


def _check_predictions(model: Any, policy: Policy) -> None:
    """Refuse a policy that does not act as its model predicts.

    Both see the same random observations, those of a few steps in a row.
    """
    rng, (steps, count) = np.random.default_rng(0), (4, 64)
    space = model.observation_space
    observations = rng.standard_normal((steps, count, *space.shape))
    observations[::2] = rng.uniform(-4, 4, observations[::2].shape)
    # Features that were hidden in training are 0
    seen = np.zeros(space.shape, np.bool_)
    seen[policy.columns] = True
    observations = np.where(seen, observations, 0).clip(space.low, space.high)
    observations = observations.astype(space.dtype)
    memory, state, different = policy.blank(count), None, 0
    training = model.policy.training
    for step, observation in enumerate(observations):
        expected, state = model.predict(
            observation, state, np.full(count, step == 0), deterministic=True
        )
        given = torch.from_numpy(observation.astype(np.float32))
        with torch.no_grad():
            acted, memory = policy.remember(given, memory)
        wrong = ~np.isclose(acted.numpy(), expected, rtol=0, atol=1e-3)
        different += int(wrong.reshape(count, -1).any(1).sum())
    model.policy.set_training_mode(training)
    # Two scores may be equal but for rounding
    if different > 0.01 * steps * count:
        raise ValueError(
            f"on {different} of {steps * count} random observations, its policy "
            f"({type(model.policy).__name__}) acts otherwise than its layers do; train "
            "with a policy class of Stable-Baselines3 that is not changed"
        )
