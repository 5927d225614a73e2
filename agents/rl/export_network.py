"""Export of a network to a policy file, whatever program has trained it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optenv import actions

from ..policy.build import MAX_DIFFERENT, build, count_differences
from ..policy.files import save_policy
from ..policy.layers import JoinedLayers, join
from ..policy.normalisation import Normalisation
from .export import check_reward, describe

__all__ = ["export_network"]


def export_network(
    network: nn.Sequential | nn.Linear,
    env: Any,
    path: str | Path,
    *,
    predict: Callable[[np.ndarray], Any],
    normalisation: Normalisation | None = None,
    algorithm: str | None = None,
    timesteps: int | None = None,
    seed: int | None = None,
) -> Path:
    """Write a network that was trained on an environment as a policy file.

    Before anything is written, the policy is compared with ``predict`` on random
    observations.

    Args:
        network: layers from the observation ``[B, F]`` to the output. For a continuous
            action, the output is the mean action, which is clipped to [-1, 1] or squashed
            by a ``Tanh`` at the end. For a discrete action, it is one score for each
            choice, and the largest is chosen. If a continuous action has twice as many
            outputs as numbers, the first half are the means (the others are standard
            deviations).
        env: the environment, single or batched, wrapped or not; or its ``describe()``. The
            policy gets the observations of the bare environment; changes by wrappers must
            be part of ``predict``.
        path: path of the files, with or without the suffix ``.safetensors`` or ``.json``.
        predict: deterministic prediction of the trained agent: a function of float32
            observations ``[B, F]`` of the bare environment, before any normalisation. It
            returns the actions as an array or a tensor: ``[B, A]``, clipped or not, or
            indices ``[B]``.
        normalisation: statistics by which observations were normalised in training.
        algorithm: name of the algorithm, for the description.
        timesteps: control steps of the training, for the description.
        seed: seed of the training, for the description.

    Returns:
        Path of the weights.

    Raises:
        TypeError: ``network`` is not a sequence of layers, or ``predict`` not a function.
        ValueError: the environment is not one of optenv's, or its observations are not
            available to an optimizer; or policy files do not support the layers (see
            :class:`agents.policy.layers.JoinedLayers`), or they do not fit the environment;
            or the policy does not act as ``predict`` does. Nothing is written.

    Example:
        >>> import gymnasium as gym
        >>> import optenv
        >>> from torch import nn
        >>> actor = nn.Sequential(nn.Linear(25, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> path = export_network(
        ...     actor,
        ...     gym.make("optenv/LearningRate-v0"),
        ...     "my_policy",
        ...     predict=lambda observation: actor(torch.from_numpy(observation)),
        ... )
        >>> path.name
        'my_policy.safetensors'
    """
    if not isinstance(network, (nn.Sequential, nn.Linear)):
        raise TypeError(
            "network must be an nn.Sequential of layers or an nn.Linear, got "
            f"{type(network).__name__}"
        )
    if not callable(predict):
        raise TypeError(f"predict must be a function of observations, got {predict!r}")
    if normalisation is not None and not isinstance(normalisation, Normalisation):
        raise TypeError(
            f"normalisation must be an agents.Normalisation or None, got {normalisation!r}"
        )
    given = {"algorithm": algorithm, "timesteps": timesteps, "seed": seed}
    provenance: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    try:
        described = dict(env) if isinstance(env, Mapping) else describe(env)
        check_reward(described)
        policy = build(
            described,
            _means(join([network]), actions.make(described["action"])),
            normalisation=normalisation,
            **provenance,
        )
        _compare(policy, predict)
    except ValueError as error:
        raise ValueError(f"cannot export this network: {error}") from error.__cause__
    return save_policy(policy, path)


def _means(layers: JoinedLayers, action: actions.Action) -> JoinedLayers:
    """Return the layers without the outputs that are standard deviations."""
    count = action.outputs
    if action.is_index or layers.outputs != 2 * count:
        return layers
    weight, bias = layers.linear[-1]
    return layers._replace(linear=[*layers.linear[:-1], (weight[:count], bias[:count])])


def _compare(policy: Any, predict: Callable[[np.ndarray], Any]) -> None:
    """Refuse a policy that does not act as the trained agent predicts.

    Raises:
        ValueError: it does not.
    """

    def predicted(observation: np.ndarray, first: bool) -> Any:
        with torch.no_grad():
            action = predict(observation)
        return action.detach().cpu().numpy() if isinstance(action, Tensor) else action

    different, count = count_differences(policy, predicted)
    if different > MAX_DIFFERENT * count:
        raise ValueError(
            f"on {different} of {count} random observations, predict acts otherwise than "
            "the network does; predict must take observations of the bare environment and "
            "return the deterministic action, and normalisation must be that of the "
            "training"
        )
