"""The ids under which Gymnasium finds the environments."""

from __future__ import annotations

import gymnasium as gym

#: id -> default arguments, of environments whose episodes are runs ...
ENVIRONMENTS: dict[str, dict[str, object]] = {
    "optenv/LearningRate-v0": {"action": "continuous"},
    "optenv/DiscreteLearningRate-v0": {"action": "discrete"},
    "optenv/UpdateRule-v0": {"action": "rule", "rule": "switching"},
}

#: ... and of those whose episodes are trials of several runs.
TRIALS: dict[str, dict[str, object]] = {
    "optenv/LearningRateTrial-v0": {"action": "continuous"},
    "optenv/DiscreteLearningRateTrial-v0": {"action": "discrete"},
    "optenv/UpdateRuleTrial-v0": {"action": "rule", "rule": "switching"},
}


def register_all() -> None:
    """Register every environment of :data:`ENVIRONMENTS` and :data:`TRIALS`."""
    kinds = (
        (ENVIRONMENTS, "optenv.env:LearningRateEnv", "optenv.vector:LearningRateVectorEnv"),
        (TRIALS, "optenv.trials:TrialEnv", "optenv.trials:TrialVectorEnv"),
    )
    for environments, entry_point, vector_entry_point in kinds:
        for name, arguments in environments.items():
            gym.register(
                name,
                entry_point=entry_point,
                vector_entry_point=vector_entry_point,
                kwargs=dict(arguments),
            )
