"""Gymnasium environments in which an agent controls the training of a neural network.

``import optenv`` registers them::

    import gymnasium as gym
    import optenv

    env = gym.make("optenv/LearningRate-v0")
    batch = gym.make_vec("optenv/LearningRate-v0", num_envs=256)

To add your own tasks, update rules, actions, rewards, kinds of change or environment ids,
use the function ``register`` of :mod:`~optenv.tasks`, :mod:`~optenv.rules`,
:mod:`~optenv.actions`, :mod:`~optenv.rewards`, :mod:`~optenv.changes` or
:mod:`~optenv.registration`; for features, :func:`optenv.telemetry.register_feature`.
"""

from . import (
    actions,
    changes,
    instances,
    recording,
    registration,
    rewards,
    rules,
    tasks,
    telemetry,
)
from .env import LearningRateEnv
from .freed_memory import keep_freed_memory
from .per_tensor import PerTensor
from .registration import ENVIRONMENTS, TRIALS, register_all
from .tasks import from_module
from .trials import TrialEnv, TrialVectorEnv
from .vector import LearningRateVectorEnv

__version__ = "0.2.0"

__all__ = [
    "ENVIRONMENTS",
    "TRIALS",
    "LearningRateEnv",
    "LearningRateVectorEnv",
    "PerTensor",
    "TrialEnv",
    "TrialVectorEnv",
    "actions",
    "changes",
    "from_module",
    "instances",
    "keep_freed_memory",
    "recording",
    "registration",
    "rewards",
    "rules",
    "tasks",
    "telemetry",
]

register_all()
