"""Table of the algorithms that agents learn with.

An :class:`Algorithm` has all that is needed to build, train, resume and export models of a
class of Stable-Baselines3, or of a learner that unrolls (:mod:`agents.rl.unrolled`). An
algorithm from outside the package is added with :func:`register`, and a preset with its
name as ``"class"``; docs/extending_algorithm.md shows both.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stable_baselines3 import DQN, PPO

from optenv import actions
from optenv.checks import known

from .group_advantage import RECURRENT, REPLAY, ROLLOUT, Buffer
from .networks import NETWORKS, Network, actor_network, q_network, quantile_network
from .unrolled import UnrolledLR
from .unrolled_rule import UnrolledRule

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Network",
    "actor_network",
    "extractor_of",
    "get",
    "q_network",
    "quantile_network",
    "register",
]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One entry of the table of algorithms.

    Attributes:
        name: key in :data:`ALGORITHMS`, and ``"class"`` of its presets.
        cls: class like those of Stable-Baselines3, or
            :class:`~agents.rl.unrolled.UnrolledLR` or a subclass.
        buffer: kind of its experience buffer, one of
            :data:`~agents.rl.group_advantage.ROLLOUT`,
            :data:`~agents.rl.group_advantage.REPLAY` and
            :data:`~agents.rl.group_advantage.RECURRENT`; None for learners that unroll.
        extract: function that returns the network of a trained model, for export; None if
            the model writes its policy file itself.
        policy: policy class, or its name in ``cls.policy_aliases``.
        actions: classes of actions (:mod:`optenv.actions`) that it supports.
        trials: True if it learns on trials (:data:`optenv.TRIALS`), False if on single
            runs.
        averages: True if policies of several trainings can be averaged.
        resumable: True if a saved model can be resumed.
        signature: class whose constructor has the valid arguments; ``cls`` by default.

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
        """Policy class of its models; None for learners that unroll."""
        if isinstance(self.policy, type):
            return self.policy
        aliases: dict[str, type[Any]] = getattr(self.cls, "policy_aliases", {})
        return aliases.get(self.policy)


#: Algorithms by name, which is the ``"class"`` of a preset.
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
    known("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]


def extractor_of(model: Any) -> Callable[[Any], Network]:
    """Return the function that extracts the network of a Stable-Baselines3 model.

    It is taken from the entry in :data:`ALGORITHMS` of the model's class or its nearest
    base class. For a class that is not in the table (such as TRPO), it is taken from an
    algorithm with the same policy class, or from :data:`agents.rl.networks.NETWORKS`.

    Raises:
        ValueError: this kind of policy is not supported.
    """
    exported = [each for each in ALGORITHMS.values() if each.extract is not None]
    algorithm = _same_class(model, exported) or _same_policy(model, exported)
    if algorithm is not None and algorithm.extract is not None:
        return algorithm.extract
    for base in type(model.policy).__mro__:
        if (name := f"{base.__module__}.{base.__qualname__}") in NETWORKS:
            return NETWORKS[name]
    raise ValueError(
        f"{type(model).__name__} has a policy ({type(model.policy).__name__}) of a kind "
        "that a policy file does not hold; train with an algorithm of Stable-Baselines3 or "
        "sb3-contrib, or register one with its extract function "
        "(agents.rl.algorithms.register)"
    )


def _same_class(model: Any, table: list[Algorithm]) -> Algorithm | None:
    """Return the entry of the nearest base class of a model, if their policies agree."""
    for base in type(model).__mro__:
        for entry in table:
            expected = entry.policy_class
            if entry.cls is base and expected and isinstance(model.policy, expected):
                return entry
    return None


def _same_policy(model: Any, table: list[Algorithm]) -> Algorithm | None:
    """Return the first entry with the class of a model's policy, or its nearest base."""
    for base in type(model.policy).__mro__:
        for entry in table:
            if entry.policy_class is base:
                return entry
    return None


register(Algorithm(name="PPO", cls=PPO, buffer=ROLLOUT, extract=actor_network))
register(
    Algorithm(
        name="DQN",
        cls=DQN,
        buffer=REPLAY,
        extract=q_network,
        actions=(actions.Discrete, actions.BatchSize),
    )
)
register(
    Algorithm(
        name="UnrolledLR",
        cls=UnrolledLR,
        actions=(actions.Continuous,),
    )
)
register(
    Algorithm(
        name="UnrolledRule",
        cls=UnrolledRule,
        actions=(actions.Continuous,),
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
            actions=(actions.Discrete, actions.BatchSize),
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
