"""Export of a Stable-Baselines3 model to a policy file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from optenv import actions
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
        ValueError: the model has no optenv environment; or a wrapper changes observations
            or actions; or its observations are not available to an optimizer; or its
            network is not one of linear layers with one activation function.

    Example:
        ::

            model = PPO("MlpPolicy", make_vec_env("optenv/LearningRate-v0"))
            model.learn(100_000)
            export_policy(model, "my_policy")
            optimizer = LearnedOptimizer(params, "my_policy", total_steps=1000)
    """
    # Only here: the package does without Stable-Baselines3, and whoever has a model has it
    from .algorithms import algorithm_of

    # 1. Check the environment
    env = model.get_env()
    if env is None:
        raise ValueError("the model has no environment; set_env() one of optenv's first")
    try:
        described = env.env_method("describe")[0]
    except AttributeError as error:
        raise ValueError(f"not an environment of optenv's: {env!r}") from error
    action, trials = actions.make(described["action"]), "runs" in described
    _check_features(described)
    _check_unwrapped(model, env, action, trials)
    check_reward(described)

    # 2. Read the network off the model
    algorithm = algorithm_of(model)
    assert algorithm.extract is not None
    layers, lstm = algorithm.extract(model)
    _check_memory(model, lstm, trials)
    linear = [cast(nn.Linear, layer) for layer in layers[::2]]
    activations = {type(layer) for layer in layers[1::2]}
    if len(layers) % 2 == 0 or not all(isinstance(layer, nn.Linear) for layer in linear):
        raise ValueError(
            "cannot export layers other than Linear, one activation, Linear, ..., got "
            f"{[type(layer).__name__ for layer in layers]}"
        )
    names = {cls: name for name, cls in ACTIVATIONS.items()}
    if len(activations) > 1 or not activations <= set(names):
        raise ValueError(
            f"cannot export activations {activations}; valid: {list(ACTIVATIONS)}"
        )
    width = model.observation_space.shape[0]
    memory = 0 if lstm is None else lstm.hidden_size
    ends = linear[0].in_features, linear[-1].out_features
    if ends != (width + memory, action.outputs):
        raise ValueError(
            f"cannot export a network from {ends[0]} inputs to {ends[1]} outputs; "
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
    return save_policy(policy, path)


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
            f"cannot export a policy that observes registered features {registered}: an "
            f"optimizer observes {', '.join(FEATURES)}"
        )


def _check_unwrapped(model: Any, env: Any, action: actions.Action, trials: bool) -> None:
    """Refuse models whose observations or actions are not those of an optenv environment.

    Args:
        model: model with a policy of Stable-Baselines3.
        env: its environment.
        action: the environment's action.
        trials: True if the environment's episodes are trials.
    """
    if getattr(env, "norm_obs", False):
        raise ValueError(
            "the model was trained on normalised observations, whose statistics a policy "
            "does not hold; use VecNormalize(..., norm_obs=False)"
        )
    valid = []
    for name in DTYPES:
        observations = observation_space(name, action)
        if trials:
            observations = trial_space(observations, action)
        valid.append((observations, action.space(DTYPES[name][1])))
    actual = (model.observation_space, model.action_space)
    if actual not in valid:
        raise ValueError(
            f"a wrapper changes observations or actions: the model's are {actual[0]} and "
            f"{actual[1]}, the environment's {valid[0][0]} and {valid[0][1]}"
        )
    if getattr(model.policy, "squash_output", False):
        raise ValueError("cannot export a policy with squash_output=True")


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
