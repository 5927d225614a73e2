"""rl_zoo3 trains on the environments as they are, and its models are exported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import optenv  # noqa: F401 - registers the environments
from agents import export_policy, load_policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.training,
    pytest.mark.skipif(
        importlib.util.find_spec("rl_zoo3") is None, reason="rl_zoo3 is not installed"
    ),
]

ENV_ID = "optenv/LearningRate-v0"

#: The base learning rate is far too low: raising it always pays.
ARGUMENTS = {"horizon": 6, "updates_per_step": 3, "tasks": "quadratic", "base_lr": 1e-3}

HYPERPARAMETERS = f"""
hyperparams = {{
    "{ENV_ID}": {{
        "n_envs": 4, "n_timesteps": 1440, "policy": "MlpPolicy", "n_steps": 24,
        "batch_size": 96, "gamma": 1.0, "learning_rate": 0.01, "normalize": True,
    }}
}}
"""


def test_ppo_learns_and_its_policy_holds_the_normalisation(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(HYPERPARAMETERS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "rl_zoo3.train", "--algo", "ppo", "--env", ENV_ID),
            *("--gym-packages", "optenv", "--conf-file", "conf.py", "-f", "logs"),
            *("--eval-freq", "-1", "--device", "cpu", "--seed", "0", "--env-kwargs"),
            *(f"{name}:{value!r}" for name, value in ARGUMENTS.items()),
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "logs" / "ppo").iterdir()

    # 1. Actions of the first episodes are random
    returns = [
        np.loadtxt(path, delimiter=",", skiprows=2, usecols=0)
        for path in folder.glob("*.monitor.csv")
    ]
    assert len(returns) == 4
    first, last = (np.mean([row[part] for row in returns]) for part in
                   (slice(None, 8), slice(-8, None)))  # fmt: skip
    assert last > first + 0.3, (first, last)

    # 2. The export
    env = DummyVecEnv([lambda: gym.make(ENV_ID, **ARGUMENTS)])
    env = VecNormalize.load(str(next(folder.rglob("vecnormalize.pkl"))), env)
    model = PPO.load(folder / f"{ENV_ID.replace('/', '-')}.zip", env=env)
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    assert policy.normalisation is not None and policy.rule.name == "adam"
