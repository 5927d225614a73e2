"""The ids under which Gymnasium finds the environments."""

from __future__ import annotations

import gymnasium as gym

#: id -> default arguments.
ENVIRONMENTS: dict[str, dict[str, object]] = {
    "optenv/LearningRate-v0": {"action": "continuous"},
    "optenv/DiscreteLearningRate-v0": {"action": "discrete"},
}


def register_all() -> None:
    """Register every environment of :data:`ENVIRONMENTS`."""
    for name, arguments in ENVIRONMENTS.items():
        gym.register(
            name,
            entry_point="optenv.env:LearningRateEnv",
            vector_entry_point="optenv.vector:LearningRateVectorEnv",
            kwargs=dict(arguments),
        )
