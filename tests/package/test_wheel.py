"""The built wheel works without the checkout and without training libraries."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from agents.policy.files import save_policy
from tests.helpers.paths import ROOT
from tests.helpers.policies import random_policy

PROGRAM = """
import sys
from pathlib import Path

import gymnasium as gym
import torch

import agents
import optenv

for package in (agents, optenv):
    assert Path(package.__file__).is_relative_to(sys.argv[1]), package.__file__

env = gym.make("optenv/LearningRate-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
batch = gym.make_vec("optenv/DiscreteLearningRate-v0", num_envs=4, tasks="logistic")
batch.reset(seed=0)
batch.step(batch.action_space.sample())

for policy in ("policy", *agents.SHIPPED):
    torch.manual_seed(0)  # some seeds begin where there is nothing to gain
    model = torch.nn.Linear(3, 2)
    optimizer = agents.LearnedOptimizer(model.parameters(), policy, total_steps=50)
    first = last = None
    for _ in range(50):
        optimizer.zero_grad()
        last = model(torch.ones(4, 3)).square().mean()
        first = last.item() if first is None else first
        last.backward()
        optimizer.step(loss=last)
    assert last.item() < first, policy
assert "default" in agents.SHIPPED
loaded = [name for name in sys.modules if name.startswith(("stable_baselines3", "sb3"))]
assert not loaded, loaded
print("works")
"""


@pytest.mark.slow
def test_the_installed_wheel_needs_no_training_libraries(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"optenv/py.typed", "agents/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet"]
    subprocess.run([*pip, "--target", site, wheel], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    save_policy(random_policy(), elsewhere / "policy")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, site],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "works", done.stderr
