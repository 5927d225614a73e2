"""Extraction of networks from models of Stable-Baselines3.

A deterministic policy is a sequence of layers from the observation to the output, possibly
with an LSTM in front. :data:`NETWORKS` has a function for each policy class in
Stable-Baselines3 and sb3-contrib that returns these layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.utils import skip_init

__all__ = [
    "NETWORKS",
    "Network",
    "actor_network",
    "ars_network",
    "deterministic_actor_network",
    "q_network",
    "quantile_network",
    "squashed_actor_network",
]


class Network(NamedTuple):
    """Deterministic part of a model's policy.

    Attributes:
        layers: ``nn.Linear``, activation, ..., ``nn.Linear``, from the observation to the
            output: the mean of a continuous action, or one score for each discrete action.
            ``nn.Tanh`` at the end squashes a continuous action.
        lstm: LSTM whose output is the input of the first layer, alone or after the
            observation; None if there is none.
    """

    layers: list[nn.Module]
    lstm: nn.LSTM | None = None


def actor_network(model: Any) -> Network:
    """Return the actor of a model with an actor-critic policy, such as PPO or A2C.

    Raises:
        ValueError: the input of an LSTM is not the observation.
    """
    policy = model.policy
    features = _extractor_layers(policy.pi_features_extractor)
    lstm = getattr(policy, "lstm_actor", None)
    if lstm is not None and features:
        raise ValueError(
            "its LSTM sees the output of the features extractor "
            f"{type(policy.pi_features_extractor).__name__}; train with the default one, "
            "FlattenExtractor"
        )
    layers = [*features, *policy.mlp_extractor.policy_net, policy.action_net]
    if getattr(policy, "squash_output", False):
        layers.append(nn.Tanh())
    return Network(layers, lstm)


def squashed_actor_network(model: Any) -> Network:
    """Return the actor of SAC, TQC or CrossQ: the mean, squashed by ``tanh``."""
    actor = model.policy.actor
    features = _extractor_layers(actor.features_extractor)
    layers = [*features, *actor.latent_pi, actor.mu, nn.Tanh()]
    return Network(layers)


def deterministic_actor_network(model: Any) -> Network:
    """Return the actor of TD3 or DDPG, which ends with ``tanh``."""
    actor = model.policy.actor
    layers = [*_extractor_layers(actor.features_extractor), *actor.mu]
    return Network(layers)


def ars_network(model: Any) -> Network:
    """Return the network of an ARS model, which may be linear."""
    policy = model.policy
    layers = [*_extractor_layers(policy.features_extractor), *policy.action_net]
    return Network(layers)


def q_network(model: Any) -> Network:
    """Return the network of action values of a DQN model."""
    net = model.policy.q_net
    return Network([*_extractor_layers(net.features_extractor), *net.q_net])


def quantile_network(model: Any) -> Network:
    """Return the network of mean action values of a QR-DQN model."""
    net = model.policy.quantile_net
    *hidden, last = net.quantile_net
    mean = _mean_over_quantiles(last, net.n_quantiles)
    return Network([*_extractor_layers(net.features_extractor), *hidden, mean])


#: Functions from a model to its network, by the full name of its policy class. They are
#: keyed by name, so that sb3-contrib need not be installed.
NETWORKS: dict[str, Callable[[Any], Network]] = {
    "stable_baselines3.common.policies.ActorCriticPolicy": actor_network,
    "stable_baselines3.dqn.policies.DQNPolicy": q_network,
    "stable_baselines3.sac.policies.SACPolicy": squashed_actor_network,
    "stable_baselines3.td3.policies.TD3Policy": deterministic_actor_network,
    "sb3_contrib.ars.policies.ARSPolicy": ars_network,
    "sb3_contrib.common.maskable.policies.MaskableActorCriticPolicy": actor_network,
    "sb3_contrib.crossq.policies.CrossQPolicy": squashed_actor_network,
    "sb3_contrib.qrdqn.policies.QRDQNPolicy": quantile_network,
    "sb3_contrib.tqc.policies.TQCPolicy": squashed_actor_network,
}


def _extractor_layers(extractor: nn.Module) -> list[nn.Module]:
    """Return the layers of a features extractor, without ``nn.Flatten``.

    Raises:
        ValueError: the extractor does more than apply its layers one after the other.
    """
    layers = list(extractor.children())
    device = next((p.device for p in extractor.parameters()), None)
    width: Any = extractor._observation_space.shape  # type: ignore[union-attr]
    drawn = np.random.default_rng(0).uniform(-4, 4, (64, *width))
    observations = torch.from_numpy(drawn.astype(np.float32)).to(device)
    try:
        with torch.no_grad():
            expected = extractor(observations)
            found = nn.Sequential(*layers)(observations)
        same = torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    except (RuntimeError, TypeError):  # shapes do not fit
        same = False
    if not same:
        raise ValueError(
            f"the features extractor {type(extractor).__name__} does more than its layers, "
            f"one after the other ({[type(layer).__name__ for layer in layers]}); train "
            "with the default one, FlattenExtractor"
        )
    return [layer for layer in layers if not isinstance(layer, nn.Flatten)]


def _mean_over_quantiles(layer: nn.Linear, quantiles: int) -> nn.Linear:
    """Return a layer with the mean over quantiles of a layer's ``[quantiles, actions]``."""
    # skip_init, to draw nothing from the global generator
    mean = skip_init(nn.Linear, layer.in_features, layer.out_features // quantiles)
    state = layer.state_dict()
    mean.load_state_dict(
        {name: w.unflatten(0, (quantiles, -1)).mean(0) for name, w in state.items()}
    )
    return mean
