"""Presets: hyperparameters of the agents, as data.

:data:`PRESETS` has an entry for each agent:

- ``class``: its algorithm, a key of :data:`agents.rl.algorithms.ALGORITHMS`;
- ``env_id`` and ``env``: the environment and its arguments;
- ``num_envs`` and ``copies``: number of runs at once, and how many of them share a task;
- ``candidates`` and ``members``: number of trainings with different seeds, and how many of
  the best policies are averaged;
- ``timesteps``: number of control steps of a training, over all runs;
- ``algorithm``: arguments of the algorithm's class;
- ``base_lr`` (optional): base learning rate of the policy's optimizers, which replaces the
  usual one of the rule.

``ppo`` is for a first try that takes minutes. The policies in :data:`agents.SHIPPED` were
made by the presets of the same names, ``rl2`` in three trainings, each resumed from the
previous one (agents/policies/README.md). The experiments behind these numbers are in
docs/notes/policy-log.md.
"""

from __future__ import annotations

from typing import Any

#: Update rule of most policies; see :func:`optenv.rules.orthogonal_adam`.
RULE: dict[str, Any] = {"name": "orthogonal-adam", "beta2": 0.9999, "power": 0.9}

#: Training environment: all task families except quadratics, language models most often,
#: some of them reparametrised, with base learning rates over three and a half decades.
#: Losses are hidden in some runs, for users who give the optimizer none. Control steps are
#: dense early in the run, and the multiplier starts low, so that a base learning rate that
#: is far too high does not ruin the first updates.
TRAINING: dict[str, Any] = {
    "tasks": [
        "logistic",
        *["mlp-classification"] * 2,
        *["mlp-regression"] * 2,
        "digits",
        *["language"] * 3,
    ],
    "rule": RULE,
    "horizon": 40,
    "updates_per_step": (1.5, 320),  # runs of 60 to 12,800 updates
    "max_work": 1e9,  # only small networks have the longest runs
    "spacing": 1.7,
    "base_lr": (1e-5, 3e-2),
    "reparametrize": 0.4,
    "objective": "both",
    "loss_features": "invariant",
    "loss_dropout": 0.1,
    "on_divergence": "absorb",
    "action": {"start": -2.0, "schedule": "wsd", "bound": 8.0, "step": 1.0},
}

#: Runs of 60 to 640 updates, for a first try.
SHORT: dict[str, Any] = {**TRAINING, "updates_per_step": (1.5, 16)}

PPO: dict[str, Any] = {
    "class": "PPO",
    "env_id": "optenv/LearningRate-v0",
    "env": TRAINING,
    "num_envs": 256,
    "copies": 4,
    "candidates": 1,
    "members": 1,
    "timesteps": 204_800,
    "algorithm": {
        "n_steps": 40,
        "batch_size": 512,
        "n_epochs": 10,
        "learning_rate": 4e-4,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "ent_coef": 0.0,
        "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -1.0},
    },
}

DQN: dict[str, Any] = {
    "class": "DQN",
    "env_id": "optenv/DiscreteLearningRate-v0",
    "env": {
        **TRAINING,
        "loss_dropout": 0.3,  # with less, it fails in runs without losses
        "action": {
            "start": -2.0,
            "schedule": "wsd",
            "bound": 8.0,
            # Up to 6, since a base learning rate may be a thousand times too small
            "multipliers": (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 6.0),
        },
    },
    "num_envs": 256,
    "copies": 4,
    "candidates": 2,
    "members": 2,
    "timesteps": 204_800,
    "algorithm": {
        "buffer_size": 300_000,
        "learning_starts": 20_480,
        "batch_size": 512,
        "train_freq": 1,
        "gradient_steps": 16,
        "learning_rate": 3e-4,
        "n_steps": 5,
        "gamma": 1.0,
        "target_update_interval": 2_560,
        "exploration_fraction": 0.3,
        "exploration_final_eps": 0.02,
        "policy_kwargs": {"net_arch": [64, 64]},
    },
}

#: Environment in which actions choose one of eight update rules and a multiplier.
RULES: dict[str, Any] = {
    **SHORT,
    "rule": "switching",
    "action": {
        "start": -2.0,
        "schedule": "wsd",
        "bound": 8.0,
        "multipliers": (0.5, 1.0, 3.0),
    },
}

#: Environment for policies with a memory: short runs of SGD with momentum, whose best
#: learning rate differs widely between tasks and only becomes clear late in a run.
REPEATED: dict[str, Any] = {
    **SHORT,
    "tasks": [
        "logistic",
        *["mlp-classification"] * 2,
        *["mlp-regression"] * 2,
        "digits",
        "language",
    ],
    "rule": "momentum",
    "horizon": 8,
    "updates_per_step": (2.5, 25),  # runs of 20 to 200 updates
    "spacing": 1.0,
    "base_lr": (1e-4, 3e-1),
    "reparametrize": 1.0,
    "action": {"start": 0.0, "schedule": "wsd", "bound": 8.0, "step": 4.0},
}

#: RL² on trials of three runs.
RL2: dict[str, Any] = {
    **PPO,
    "class": "RL2",
    "env_id": "optenv/LearningRateTrial-v0",
    "env": {**REPEATED, "runs": 3, "previous_reward": "told"},
    "timesteps": 737_280,
    "algorithm": {
        "n_steps": 24,
        "batch_size": 768,
        "n_epochs": 10,
        "learning_rate": 6e-4,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "ent_coef": 0.003,
        "policy_kwargs": {
            "net_arch": [64, 64],
            "log_std_init": -1.0,
            "lstm_hidden_size": 48,
            "memory": 24,
        },
    },
}

#: PPO on the same runs as single episodes: a policy without a memory, for comparison.
MEMORYLESS: dict[str, Any] = {
    **PPO,
    "env": REPEATED,
    "num_envs": 512,
    "timesteps": RL2["timesteps"],
    "algorithm": {**PPO["algorithm"], "n_steps": 8},
}

#: Learning by unrolling. Runs of large networks are short, since the graph of a whole
#: segment is kept in memory.
UNROLLED_LR: dict[str, Any] = {
    "class": "UnrolledLR",
    "env_id": "optenv/LearningRate-v0",
    "env": {**SHORT, "rule": {"name": "adam", "beta1": 0.8}, "max_work": 1e8},
    "num_envs": 128,
    "copies": 16,
    "candidates": 1,
    "members": 1,
    "timesteps": 102_400,
    "algorithm": {"segment": 5},
}

#: Entries that replace a preset's if RLlib trains it: rewards are the environment's, and
#: one policy is trained. RLlib supports presets of the classes ``PPO`` and ``RL2``; their
#: arguments are translated by :mod:`agents.rl.rllib.arguments`.
RLLIB: dict[str, Any] = {"copies": 1, "candidates": 1, "members": 1}

PRESETS: dict[str, dict[str, Any]] = {
    "ppo": {**PPO, "env": SHORT, "timesteps": 73_728},
    "default": {
        **PPO,
        "candidates": 2,
        "members": 2,
        "base_lr": 1e-2,
    },
    "gradient-only": {**PPO, "env": {**TRAINING, "loss_dropout": 1.0}},
    "anytime": {
        **PPO,
        "env": {
            **TRAINING,
            "anytime": True,
            "action": {**TRAINING["action"], "schedule": "constant"},
        },
        "algorithm": {**PPO["algorithm"], "gamma": 0.97},
    },
    "momentum": {
        **PPO,
        "env": {
            **TRAINING,
            "rule": "momentum",
            "base_lr": (1e-4, 3e-1),
            "reparametrize": 0.3,
        },
    },
    # A step costs hardly more than AdamW's; for beta1 see docs/notes/policy-log.md
    "adam": {**PPO, "env": {**TRAINING, "rule": {"name": "adam", "beta1": 0.8}}},
    "dqn": DQN,
    "ppo-discrete": {
        **PPO,
        "env_id": DQN["env_id"],
        "env": {**SHORT, "action": DQN["env"]["action"]},
        "timesteps": 122_880,
    },
    "ppo-rules": {
        **PPO,
        "env_id": "optenv/UpdateRule-v0",
        "env": RULES,
        "timesteps": 204_800,
    },
    "dqn-rules": {
        **DQN,
        "class": "QRDQN",
        "env_id": "optenv/UpdateRule-v0",
        "env": {**RULES, "loss_dropout": 0.3},
        "algorithm": {
            **DQN["algorithm"],
            "policy_kwargs": {"net_arch": [64, 64], "n_quantiles": 25},
        },
    },
    "rl2": RL2,
    "memoryless": MEMORYLESS,
    "unrolled-lr": UNROLLED_LR,
    "unrolled-rule": {
        **UNROLLED_LR,
        "class": "UnrolledRule",
        "env": {**UNROLLED_LR["env"], "rule": "network"},
        "algorithm": {"segment": 5, "rule_lr": 3e-3},
    },
}
