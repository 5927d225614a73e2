"""Gymnasium environments in which an agent controls the training of a neural network.

``import optenv`` registers them::

    import gymnasium as gym
    import optenv

    env = gym.make("optenv/LearningRate-v0")
    batch = gym.make_vec("optenv/LearningRate-v0", num_envs=256, tasks="train")
"""

from . import actions, rules, tasks, telemetry
from .env import LearningRateEnv
from .registration import ENVIRONMENTS, TRIALS, register_all
from .tasks import from_module
from .trials import TrialEnv, TrialVectorEnv
from .vector import LearningRateVectorEnv

__version__ = "0.1.0"

__all__ = [
    "ENVIRONMENTS",
    "TRIALS",
    "LearningRateEnv",
    "LearningRateVectorEnv",
    "TrialEnv",
    "TrialVectorEnv",
    "actions",
    "from_module",
    "rules",
    "tasks",
    "telemetry",
]

register_all()
