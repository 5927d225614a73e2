"""From a Stable-Baselines3 model to a policy file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import nn

from optenv import actions
from optenv.registration import TRIALS
from optenv.settings import DTYPES
from optenv.trials import trial_space
from optenv.vector import observation_space

from ..policy.files import save_policy
from ..policy.module import Policy
from ..policy.spec import ACTIVATIONS, inputs


def export_policy(model: Any, path: str | Path) -> Path:
    """Write the policy of a Stable-Baselines3 model.

    Args:
        model: a PPO, A2C, DQN or QRDQN model with an MLP policy, or an
            :class:`~agents.recurrent.RL2` model, trained on an optenv environment (single
            or batched, wrapped or not).
        path: where to write; ``.safetensors`` and ``.json`` take the place of its suffix.

    Returns:
        Path of the weights.

    Raises:
        ValueError: the model has no environment of ours, one whose observations or
            actions a wrapper changes or whose observations an optimizer cannot make, or a
            network that cannot be exported.
    """
    env = model.get_env()
    if env is None:
        raise ValueError("the model has no environment; set_env() one of optenv's first")
    try:
        described = env.env_method("describe")[0]
    except AttributeError as error:
        raise ValueError(f"not an environment of optenv's: {env!r}") from error
    action, trials = actions.make(described["action"]), "runs" in described
    _check_unwrapped(model, env, action, trials)
    check_reward(described)
    modules, cell = _network(model), _memory(model, trials)
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
        **({} if cell is None else {"memory": cell.hidden_size}),
        "activation": known[hidden.pop()] if hidden else "tanh",
        "algorithm": type(model).__name__,
        "timesteps": int(model.num_timesteps),
        "seed": model.seed,
    }
    # What the policy saw that was always 0 is left out.
    columns, width = inputs(description), model.observation_space.shape[0]
    width_in: int = cast(nn.Linear, linear[0]).in_features
    kept = [*columns, *range(width, width_in)]  # the memory after them
    description["layers"] = [len(kept), *(m.out_features for m in linear)]
    policy = Policy(description)
    own = [m for m in policy.members[0] if isinstance(m, nn.Linear)]
    for i, (mine, theirs) in enumerate(zip(own, linear, strict=True)):
        state = theirs.state_dict()
        if i == 0:
            state = {**state, "weight": state["weight"][:, kept]}
        mine.load_state_dict(state)
    if cell is not None:
        state = {name.removesuffix("_l0"): w for name, w in cell.state_dict().items()}
        state["weight_ih"] = state["weight_ih"][:, columns]
        policy.cells[0].load_state_dict(state)
    return save_policy(policy, path)


def check_reward(described: dict[str, Any]) -> None:
    """Refuse trials whose previous rewards an optimizer could not show to a policy.

    Raises:
        ValueError: the environment that is ``described`` shows its own.
    """
    if described.get("previous_reward", "told") != "told":
        raise ValueError(
            "an optimizer does not know the previous reward that this environment shows; "
            "give it previous_reward='told'"
        )


def _check_unwrapped(model: Any, env: Any, action: actions.Action, trials: bool) -> None:
    """Refuse models that see or do something else than our environments offer."""
    if getattr(env, "norm_obs", False):
        raise ValueError(
            "the model was trained on normalised observations, whose statistics a policy "
            "does not hold; use VecNormalize(..., norm_obs=False)"
        )
    own = []
    for name in DTYPES:
        seen = observation_space(name, action)
        if trials:
            seen = trial_space(seen, action)
        own.append((seen, action.space(DTYPES[name][1])))
    found = (model.observation_space, model.action_space)
    if found not in own:
        raise ValueError(
            f"a wrapper changes observations or actions: the model's are {found[0]} and "
            f"{found[1]}, the environment's {own[0][0]} and {own[0][1]}"
        )
    if getattr(model.policy, "squash_output", False):
        raise ValueError("cannot export a policy with squash_output=True")


def _memory(model: Any, trials: bool) -> nn.LSTM | None:
    """The memory of a model that was trained on trials; other models have none."""
    cell: nn.LSTM | None = getattr(model.policy, "lstm_actor", None)
    if cell is None and not trials:
        return None
    from .rl2 import LstmPolicy  # not above: the package does without sb3-contrib

    own = isinstance(model.policy, LstmPolicy)
    layers = 0 if cell is None else cell.num_layers
    if cell is None or not trials or not own or cell.num_layers != 1:
        raise ValueError(
            "a policy of trials, and no other, must be an agents.recurrent.LstmPolicy with "
            f"one layer, got {type(model.policy).__name__} with {layers} layers "
            f"{'for' if trials else 'without'} trials; trials: {', '.join(TRIALS)}"
        )
    return cell


def _network(model: Any) -> list[nn.Module]:
    """Layers from observation to action of an SB3 model, in order."""
    inner = model.policy
    if hasattr(inner, "q_net"):
        found = [*inner.q_net.features_extractor.children(), *inner.q_net.q_net]
    elif hasattr(inner, "quantile_net"):
        net = inner.quantile_net
        *hidden, last = net.quantile_net
        found = [*net.features_extractor.children(), *hidden, _mean(last, net.n_quantiles)]
    elif hasattr(inner, "mlp_extractor"):
        found = [
            *inner.pi_features_extractor.children(),
            *inner.mlp_extractor.policy_net,
            inner.action_net,
        ]
    else:
        raise ValueError(
            f"cannot export {type(inner).__name__}; valid: PPO, A2C, DQN, QRDQN, RL2, MLP"
        )
    return [m for m in found if not isinstance(m, nn.Flatten)]


def _mean(layer: nn.Linear, quantiles: int) -> nn.Linear:
    """The layer whose outputs are the means over quantiles, ``[quantiles, actions]``."""
    mean = nn.Linear(layer.in_features, layer.out_features // quantiles)
    state = layer.state_dict()
    mean.load_state_dict(
        {name: w.unflatten(0, (quantiles, -1)).mean(0) for name, w in state.items()}
    )
    return mean
