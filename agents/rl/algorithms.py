"""Table of the algorithms that agents learn by.

An :class:`Algorithm` holds all that building, training, resuming and exporting need to
know about a class of Stable-Baselines3, or about a learner that unrolls
(:mod:`agents.rl.unrolled`). An algorithm from outside the package is added with
:func:`register`, and a preset with its name as ``"class"``; docs/extending_algorithm.md
shows both.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3 import DQN, PPO
from torch import nn

from optenv import actions

from .group_advantage import RECURRENT, REPLAY, ROLLOUT, Buffer
from .unrolled import UnrolledLR
from .unrolled_rule import UnrolledRule

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Network",
    "actor_network",
    "algorithm_of",
    "get",
    "q_network",
    "quantile_network",
    "register",
]


class Network(NamedTuple):
    """Deterministic part of a model's policy.

    Attributes:
        layers: ``nn.Linear``, activation, ..., ``nn.Linear``, from the observation to what
            the action is decoded from: the mean of a continuous action, or one score for
            each discrete action.
        lstm: LSTM whose output the first layer sees after the observation; None if there
            is none.
    """

    layers: list[nn.Module]
    lstm: nn.LSTM | None = None


def actor_network(model: Any) -> Network:
    """Return the actor of a model with an actor-critic policy, such as PPO or A2C."""
    policy = model.policy
    layers = [
        *_extractor_layers(policy.pi_features_extractor),
        *policy.mlp_extractor.policy_net,
        policy.action_net,
    ]
    return Network(_without_flatten(layers), getattr(policy, "lstm_actor", None))


def q_network(model: Any) -> Network:
    """Return the network of action values of a DQN model."""
    net = model.policy.q_net
    return Network(
        _without_flatten([*_extractor_layers(net.features_extractor), *net.q_net])
    )


def quantile_network(model: Any) -> Network:
    """Return the network of mean action values of a QR-DQN model."""
    net = model.policy.quantile_net
    *hidden, last = net.quantile_net
    return Network(
        _without_flatten(
            [
                *_extractor_layers(net.features_extractor),
                *hidden,
                _mean_over_quantiles(last, net.n_quantiles),
            ]
        )
    )


def _extractor_layers(extractor: nn.Module) -> list[nn.Module]:
    """Return the layers of a features extractor.

    Raises:
        ValueError: it does not compute what its layers, one after the other, do.
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
    return layers


def _without_flatten(layers: list[nn.Module]) -> list[nn.Module]:
    return [layer for layer in layers if not isinstance(layer, nn.Flatten)]


def _mean_over_quantiles(layer: nn.Linear, quantiles: int) -> nn.Linear:
    """Return the layer whose outputs are means over quantiles, ``[quantiles, actions]``."""
    mean = nn.Linear(layer.in_features, layer.out_features // quantiles)
    state = layer.state_dict()
    mean.load_state_dict(
        {name: w.unflatten(0, (quantiles, -1)).mean(0) for name, w in state.items()}
    )
    return mean


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One entry of the table of algorithms.

    Attributes:
        name: key in :data:`ALGORITHMS`, and ``"class"`` of its presets.
        cls: class of Stable-Baselines3's kind, or :class:`~agents.rl.unrolled.UnrolledLR`
            or a subclass.
        buffer: kind of its experience buffer, one of
            :data:`~agents.rl.group_advantage.ROLLOUT`,
            :data:`~agents.rl.group_advantage.REPLAY` and
            :data:`~agents.rl.group_advantage.RECURRENT`; None for learners that unroll.
        extract: returns the network of a trained model for export; None if the model
            writes its policy file itself.
        policy: policy class, or its name in ``cls.policy_aliases``.
        actions: classes of actions (:mod:`optenv.actions`) that it can take.
        trials: True if it learns on trials (:data:`optenv.TRIALS`), False if on single
            runs.
        averages: True if policies of several trainings can be averaged.
        resumable: True if a saved model can be resumed.
        signature: class whose constructor names the valid arguments; ``cls`` by default.

    Example:
        >>> from stable_baselines3 import A2C
        >>> from agents.rl.group_advantage import ROLLOUT
        >>> Algorithm(name="A2C", cls=A2C, buffer=ROLLOUT, extract=actor_network).trials
        False
    """

    name: str
    cls: type[Any]
    buffer: Buffer | None = None
    extract: Callable[[Any], Network] | None = None
    policy: str | type[Any] = "MlpPolicy"
    actions: tuple[type[actions.Action], ...] = (actions.Action,)
    trials: bool = False
    averages: bool = True
    resumable: bool = True
    signature: type[Any] | None = None

    @property
    def policy_class(self) -> type[Any] | None:
        """Class of its models' policies; None for learners that unroll."""
        if isinstance(self.policy, type):
            return self.policy
        aliases: dict[str, type[Any]] = getattr(self.cls, "policy_aliases", {})
        return aliases.get(self.policy)


#: Algorithms by name, that is by the ``"class"`` of a preset.
ALGORITHMS: dict[str, Algorithm] = {}


def register(algorithm: Algorithm) -> Algorithm:
    """Add an algorithm to :data:`ALGORITHMS`.

    Returns:
        The algorithm.

    Raises:
        ValueError: another algorithm has its name.
    """
    if ALGORITHMS.get(algorithm.name, algorithm) != algorithm:
        raise ValueError(
            f"algorithm {algorithm.name!r} is already registered, with class "
            f"{ALGORITHMS[algorithm.name].cls.__name__}; give another name"
        )
    ALGORITHMS[algorithm.name] = algorithm
    return algorithm


def get(name: str) -> Algorithm:
    """Return the algorithm of a name.

    Raises:
        ValueError: there is none; the message lists the valid names.
    """
    if name not in ALGORITHMS:
        raise ValueError(
            f"unknown algorithm {name!r}; valid algorithms: {', '.join(ALGORITHMS)}"
        )
    return ALGORITHMS[name]


def algorithm_of(model: Any) -> Algorithm:
    """Return the algorithm by which a model of Stable-Baselines3 can be exported.

    It is the one of the model's class or of its nearest base class; for a class that is
    not in the table (TRPO, say), the one with the same policy class.

    Raises:
        ValueError: no algorithm has this kind of policy.
    """
    exported = [each for each in ALGORITHMS.values() if each.extract is not None]
    for base in type(model).__mro__:
        for algorithm in exported:
            expected = algorithm.policy_class
            if algorithm.cls is base and expected and isinstance(model.policy, expected):
                return algorithm
    for base in type(model.policy).__mro__:
        for algorithm in exported:
            if algorithm.policy_class is base:
                return algorithm
    raise ValueError(
        f"{type(model).__name__} has a policy ({type(model.policy).__name__}) of a kind "
        "that a policy file does not hold; train with one of "
        f"{', '.join(algorithm.name for algorithm in exported)}, or with an algorithm that "
        "has the same policies, such as A2C"
    )


register(Algorithm(name="PPO", cls=PPO, buffer=ROLLOUT, extract=actor_network))
register(
    Algorithm(
        name="DQN",
        cls=DQN,
        buffer=REPLAY,
        extract=q_network,
        actions=(actions.Discrete,),
    )
)
register(
    Algorithm(
        name="UnrolledLR",
        cls=UnrolledLR,
        actions=(actions.Continuous,),
        resumable=False,
    )
)
register(
    Algorithm(
        name="UnrolledRule",
        cls=UnrolledRule,
        actions=(actions.Continuous,),
        resumable=False,
        averages=False,  # each learns an update rule of its own
    )
)


def _register_contrib() -> None:
    """Register the algorithms that need sb3-contrib."""
    from sb3_contrib import QRDQN, RecurrentPPO

    from .rl2 import RL2, LstmPolicy

    register(
        Algorithm(
            name="QRDQN",
            cls=QRDQN,
            buffer=REPLAY,
            extract=quantile_network,
            actions=(actions.Discrete,),
        )
    )
    register(
        Algorithm(
            name="RL2",
            cls=RL2,
            buffer=RECURRENT,
            extract=actor_network,
            policy=LstmPolicy,
            trials=True,
            signature=RecurrentPPO,
        )
    )


# PPO and DQN models can be exported without sb3-contrib
if importlib.util.find_spec("sb3_contrib") is not None:
    _register_contrib()
