"""From a Stable-Baselines3 model to a policy file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from optenv import actions
from optenv.settings import DTYPES
from optenv.vector import observation_space

from .policy import ACTIVATIONS, Policy, save_policy


def export_policy(model: Any, path: str | Path) -> Path:
    """Write the policy of a Stable-Baselines3 model.

    Args:
        model: a PPO, A2C or DQN model with an MLP policy, trained on an optenv
            environment (single or batched, wrapped or not).
        path: where to write; ``.safetensors`` and ``.json`` take the place of its suffix.

    Returns:
        Path of the weights.

    Raises:
        ValueError: the model has no environment of ours, one whose observations or
            actions a wrapper changes, or a network that cannot be exported.
    """
    env = model.get_env()
    if env is None:
        raise ValueError("the model has no environment; set_env() one of optenv's first")
    try:
        described = env.env_method("describe")[0]
    except AttributeError as error:
        raise ValueError(f"not an environment of optenv's: {env!r}") from error
    _check_unwrapped(model, env, actions.make(described["action"]))
    modules = _network(model)
    linear, hidden = modules[::2], {type(m) for m in modules[1::2]}
    if len(modules) % 2 == 0 or not all(isinstance(m, nn.Linear) for m in linear):
        raise ValueError(
            "cannot export layers other than Linear, one activation, Linear, ..., got "
            f"{[type(m).__name__ for m in modules]}"
        )
    known = {cls: name for name, cls in ACTIVATIONS.items()}
    if len(hidden) > 1 or not hidden <= set(known):
        raise ValueError(f"cannot export activations {hidden}; valid: {list(ACTIVATIONS)}")
    description = {
        **described,
        "layers": [len(described["features"]), *(m.out_features for m in linear)],
        "activation": known[hidden.pop()] if hidden else "tanh",
        "algorithm": type(model).__name__,
        "timesteps": int(model.num_timesteps),
        "seed": model.seed,
    }
    policy = Policy(description)
    own = [m for m in policy.members[0] if isinstance(m, nn.Linear)]
    for i, (mine, theirs) in enumerate(zip(own, linear, strict=True)):
        state = theirs.state_dict()
        if i == 0:  # features that were always 0 are left out
            state = {**state, "weight": state["weight"][:, policy.columns]}
        mine.load_state_dict(state)
    return save_policy(policy, path)


def _check_unwrapped(model: Any, env: Any, action: actions.Action) -> None:
    """Refuse models that see or do something else than our environments offer."""
    if getattr(env, "norm_obs", False):
        raise ValueError(
            "the model was trained on normalised observations, whose statistics a policy "
            "does not hold; use VecNormalize(..., norm_obs=False)"
        )
    own = [(observation_space(name), action.space(DTYPES[name][1])) for name in DTYPES]
    found = (model.observation_space, model.action_space)
    if found not in own:
        raise ValueError(
            f"a wrapper changes observations or actions: the model's are {found[0]} and "
            f"{found[1]}, the environment's {own[0][0]} and {own[0][1]}"
        )
    if getattr(model.policy, "squash_output", False):
        raise ValueError("cannot export a policy with squash_output=True")


def _network(model: Any) -> list[nn.Module]:
    """Layers from observation to action of an SB3 model, in order."""
    inner = model.policy
    if hasattr(inner, "q_net"):
        found = [*inner.q_net.features_extractor.children(), *inner.q_net.q_net]
    elif hasattr(inner, "mlp_extractor"):
        found = [
            *inner.pi_features_extractor.children(),
            *inner.mlp_extractor.policy_net,
            inner.action_net,
        ]
    else:
        raise ValueError(f"cannot export {type(inner).__name__}; valid: PPO, A2C, DQN, MLP")
    return [m for m in found if not isinstance(m, nn.Flatten)]
