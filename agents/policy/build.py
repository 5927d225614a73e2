"""Policies built from a trained network and the description of its environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optenv import actions
from optenv.telemetry import OBSERVATION_BOUND, check_known_features

from .layers import JoinedLayers
from .module import Policy
from .normalisation import Normalisation
from .spec import PolicySpec, observation_width

__all__ = ["build", "count_differences"]

#: Number of random observations on which a policy is compared: steps in a row, and runs.
STEPS, RUNS = 4, 64

#: Largest difference between two actions that count as equal.
TOLERANCE = 1e-3

#: Share of the observations on which actions may differ: two scores may be equal up to
#: rounding.
MAX_DIFFERENT = 0.01


def build(
    described: Mapping[str, Any],
    network: JoinedLayers,
    *,
    lstm: nn.LSTM | None = None,
    normalisation: Normalisation | None = None,
    **provenance: Any,
) -> Policy:
    """Build a policy from a network that was trained on an environment.

    Args:
        described: ``describe()`` of the environment.
        network: layers from the observation to the output. With an LSTM, their input is its
            output, alone or after the observation.
        lstm: unidirectional LSTM whose input is the observation.
        normalisation: normalisation of all entries of the environment's observation; None
            for none.
        **provenance: ``algorithm``, ``timesteps`` and ``seed`` of the training.

    Raises:
        ValueError: network and environment do not fit, the LSTM is not supported, or the
            environment has a feature that is not registered here.
    """
    # 1. Check the names and the widths
    check_known_features(described["features"])
    action, trials = actions.make(described["action"]), "runs" in described
    width = observation_width(described["features"], action, trials)
    memory = 0 if lstm is None else lstm.hidden_size
    if lstm is not None:
        _check_lstm(lstm)
    inputs = {width + memory, memory or width}
    if network.inputs not in inputs or network.outputs != action.outputs:
        expected = " or ".join(map(str, sorted(inputs, reverse=True)))
        raise ValueError(
            f"its network leads from {network.inputs} inputs to {network.outputs} outputs; "
            f"expected: {expected} inputs and {action.outputs} outputs"
        )
    if normalisation is not None and len(normalisation.mean) != width:
        raise ValueError(
            f"its normalisation has {len(normalisation.mean)} means, but an observation "
            f"has {width} entries"
        )

    # 2. Describe it
    entries: dict[str, Any] = {}
    if lstm is not None and lstm.num_layers > 1:
        entries["memory_layers"] = lstm.num_layers
    if network.squashed and not action.is_index:
        entries["output"] = "tanh"
        if network.bound is not None:
            entries["output_bound"] = network.bound
    shape: dict[str, Any] = {
        "hidden": network.hidden,
        "activation": network.activation or "tanh",
        "memory": memory,
        "trials": trials,
    }
    spec = PolicySpec.from_environment(described, **shape, **entries, **provenance)
    if normalisation is not None:
        entries["normalisation"] = normalisation.select(spec.columns).to_json()
        spec = PolicySpec.from_environment(described, **shape, **entries, **provenance)

    # 3. Copy the weights, except for features that were hidden in training (always 0)
    policy = Policy(spec)
    targets = [layer for layer in policy.members[0] if isinstance(layer, nn.Linear)]
    for i, (target, (weight, bias)) in enumerate(zip(targets, network.linear, strict=True)):
        if i == 0:
            weight = _of_seen(weight, spec.columns, width, memory)
        target.load_state_dict({"weight": weight, "bias": bias})
    if lstm is not None:
        _copy_lstm(lstm, policy)
    return policy


def _check_lstm(lstm: nn.LSTM) -> None:
    """Refuse an LSTM that policies do not support.

    Raises:
        ValueError: it has two directions, or projects its output.
    """
    if lstm.bidirectional or lstm.proj_size:
        raise ValueError(
            f"its LSTM is {lstm}; a policy's has one direction and no projection "
            "(bidirectional=False, proj_size=0)"
        )


def _of_seen(weight: Tensor, columns: list[int], width: int, memory: int) -> Tensor:
    """Return the first layer's weight for the seen columns and the LSTM's output.

    Args:
        weight: weight ``[out, in]``, for inputs that are the observation, the LSTM's
            output, or both.
        columns: columns of an observation that the policy sees.
        width: width of an observation.
        memory: number of units of the LSTM.
    """
    if memory and weight.shape[1] == memory:  # the LSTM's output alone
        blank = weight.new_zeros(len(weight), len(columns))
        return torch.cat([blank, weight], dim=1)
    return weight[:, [*columns, *range(width, width + memory)]]


def _copy_lstm(lstm: nn.LSTM, policy: Policy) -> None:
    """Copy the weights of an LSTM into a policy's cells."""
    saved = lstm.state_dict()
    for layer, cell in enumerate(policy.cells):
        own = cell.state_dict()
        state = {
            name: saved.get(f"{name}_l{layer}", torch.zeros_like(value))  # without biases
            for name, value in own.items()
        }
        if layer == 0:
            state["weight_ih"] = state["weight_ih"][:, policy.columns]
        cell.load_state_dict(state)


def count_differences(
    policy: Policy,
    predict: Callable[[np.ndarray, bool], Any],
    dtype: Any = np.float32,
) -> tuple[int, int]:
    """Compare a policy with its model on random observations, over a few steps in a row.

    Args:
        policy: the policy.
        predict: function of the environment's observations ``[B, F]``, and of a flag that
            is True at the first step; it returns the model's actions ``[B, ...]``, clipped
            or not.
        dtype: data type of the observations.

    Returns:
        Number of observations with different actions, and number of all observations.

    Raises:
        ValueError: the model's actions have another shape than the policy's.
    """
    rng, on_trials = np.random.default_rng(0), policy.on_trials
    width = observation_width(policy.description["features"], policy.action, on_trials)
    observations = rng.standard_normal((STEPS, RUNS, width))
    observations[::2] = rng.uniform(-4, 4, observations[::2].shape)
    seen = np.zeros(width, np.bool_)  # features that were hidden in training are 0
    seen[policy.columns] = True
    observations = np.where(seen, observations, 0)
    observations = observations.clip(-OBSERVATION_BOUND, OBSERVATION_BOUND).astype(dtype)
    memory, different = policy.blank(RUNS), 0
    discrete = policy.action.is_index
    for step, observation in enumerate(observations):
        given = predict(observation.copy(), step == 0)
        expected = np.asarray(given, dtype=np.float64).reshape(RUNS, -1)
        with torch.no_grad():
            acted, memory = policy.remember(
                torch.from_numpy(observation.astype(np.float32)), memory
            )
        found = acted.numpy().reshape(RUNS, -1)
        if expected.shape != found.shape:
            raise ValueError(
                f"its prediction for {RUNS} observations has the shape "
                f"{np.shape(given)}; expected: {tuple(acted.shape)}"
            )
        if not discrete:
            expected = expected.clip(-1, 1)
        wrong = ~np.isclose(found, expected, rtol=0, atol=TOLERANCE)
        different += int(wrong.any(1).sum())
    return different, STEPS * RUNS
