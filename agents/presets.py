"""Hyperparameters of the agents, as data.

One entry per agent: the environment it learns in, the algorithm's own arguments (those
of the Stable-Baselines3 class, by their names), and how long it learns.
"""

from __future__ import annotations

from typing import Any

#: What all agents learn on: five families, lengths of 60 to 2,560 updates, base learning
#: rates over two decades around the rule's default, decisions dense early in the run.
#: The actions below start low, so that a base rate far too high does not spoil the first
#: updates, and move around a cosine, so that a policy needs not learn to anneal.
TRAINING_TASKS: dict[str, Any] = {
    "tasks": ["quadratic", "logistic", "mlp-classification", "mlp-regression", "digits"],
    "rule": "adam",
    "horizon": 40,
    "updates_per_step": (1.5, 64),
    "spacing": 1.7,
    "base_lr": (1e-4, 1e-2),
    "on_divergence": "absorb",
}

PRESETS: dict[str, dict[str, Any]] = {
    "ppo": {
        "class": "PPO",
        "env_id": "optenv/LearningRate-v0",
        "env": {**TRAINING_TASKS, "action": {"start": -2.0, "schedule": "cosine"}},
        "num_envs": 256,
        "copies": 1,
        "candidates": 1,
        "members": 1,
        "timesteps": 409_600,
        "algorithm": {
            "n_steps": 40,
            "batch_size": 2560,
            "n_epochs": 5,
            "learning_rate": 4e-4,
            "gamma": 1.0,
            "gae_lambda": 0.95,
            "ent_coef": 0.0,
            "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -0.7},
        },
    },
    "dqn": {
        "class": "DQN",
        "env_id": "optenv/DiscreteLearningRate-v0",
        "env": {**TRAINING_TASKS, "action": {"start": -2.0, "schedule": "cosine"}},
        "num_envs": 256,
        "copies": 1,
        "candidates": 1,
        "members": 1,
        "timesteps": 307_200,
        "algorithm": {
            "buffer_size": 300_000,
            "learning_starts": 20_480,
            "batch_size": 512,
            "train_freq": 1,
            "gradient_steps": 4,
            "learning_rate": 5e-4,
            "gamma": 1.0,
            "target_update_interval": 2_560,
            "exploration_fraction": 0.3,
            "exploration_final_eps": 0.02,
            "policy_kwargs": {"net_arch": [64, 64]},
        },
    },
}
