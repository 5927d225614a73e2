"""Controls of a policy: without what it has learned, or without its observations."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO

import optenv  # noqa: F401  registers the environments
from agents import Policy, export_policy, load_policy
from agents.evaluation import train
from agents.evaluation.arms.controls import (
    CONTROLS,
    OpenLoopPolicy,
    log_multipliers,
    noise,
    replay,
    untrained,
)
from agents.evaluation.arms.learned import learned_arm
from agents.evaluation.arms.select import PolicyArms, load_policy_arms
from agents.evaluation.runs.jobs import control_jobs
from agents.policy.files import save_policy
from tests.helpers.benchmark_rows import short
from tests.helpers.policies import random_policy

pytest.importorskip("sklearn")

#: Of one decision an update.
TASKS = [short("friedman", 15), replace(short("module-classifier", 10), horizon_factor=2.0)]
ACTIONS = pytest.mark.parametrize(
    "action",
    [
        {"kind": "continuous", "bound": 2.0, "start": -1.0, "schedule": "cosine"},
        {"kind": "discrete", "bound": 2.0},
    ],
    ids=["continuous", "discrete"],
)


def run(policy, task, seed=0, lr=1e-3):
    return train(learned_arm("ours", policy, lr=lr), task, seed, curve_points=0)


def logs(row, policy, task, lr=1e-3):
    """Log-multiplier at every update, from the learning rates in force."""
    factors = [
        policy.action.factor(t / task.announced_updates) for t in range(task.updates)
    ]
    rates = [rate for _, rate in row["lr_trace"]]
    return [math.log(r / (lr * f)) for r, f in zip(rates, factors, strict=True)]


@ACTIONS
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_shifts_of_a_run_reproduce_its_learning_rates(action, task):
    policy = random_policy(action=action)
    row = run(policy, task)
    assert len(row["shifts"]) == task.updates and np.std(row["shifts"]) > 0
    expected = logs(row, policy, task)
    assert log_multipliers(policy, row["shifts"]) == pytest.approx(expected, abs=1e-5)


@ACTIONS
def test_replay_is_the_mean_schedule_of_the_policy_on_every_task(action):
    policy = random_policy(action=action)
    rows = [run(policy, task, seed) for task in TASKS for seed in (0, 1)]
    same = replay(policy, [row["shifts"] for row in rows])
    traces = [logs(row, policy, TASKS[i // 2]) for i, row in enumerate(rows)]
    # Decisions that the shorter runs do not come to are averaged over the longer ones.
    mean = [np.mean([t[i] for t in traces if i < len(t)]) for i in range(15)]
    for task in TASKS:
        found = logs(run(same, task, seed=7), policy, task)
        assert found == pytest.approx(mean[: task.updates], abs=1e-5)
    assert np.ptp([trace[9] for trace in traces]) > 1e-3, "the policy looks at the run"


@ACTIONS
def test_noise_has_the_size_of_the_policys_shifts_and_is_clipped(action):
    policy = random_policy(action=action)
    runs = np.array([[0.1, -0.3, 0.0], [0.3, -0.3, 0.2], [0.2, -0.3, 0.1]])
    drawn = np.array([noise(policy, runs, seed).moves * 4.0 for seed in range(1000)])
    assert drawn.mean(0) == pytest.approx(runs.mean(0), abs=0.01)
    assert drawn.std(0) == pytest.approx(runs.std(0), abs=0.01)
    first, again, other = (noise(policy, runs, seed).fingerprint() for seed in (1, 1, 2))
    assert first == again != other
    wild = noise(policy, runs * 100, 0).moves * 4.0
    largest = 0.9 if action["kind"] == "continuous" else 1.5 * math.log(2.0)
    assert wild.abs().max() == pytest.approx(largest)


def test_an_open_loop_policy_does_the_same_on_every_run():
    policy = random_policy()
    open_loop = OpenLoopPolicy(policy, [0.5, -1.0])
    assert isinstance(pickle.loads(pickle.dumps(open_loop)), OpenLoopPolicy)
    for _ in range(2):  # the optimizer counts on a copy
        found = run(open_loop, short("friedman", 4))["shifts"]
        assert found == pytest.approx([0.5, -1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"shifts must lie in ±6, got \[7.0\]"):
        OpenLoopPolicy(policy, [7.0])
    for runs in ([], [[]]):
        with pytest.raises(ValueError, match="needs the decisions of the policy"):
            replay(policy, runs)


@pytest.mark.parametrize("kind", ["hyperparameters", "roles"])
def test_no_control_is_made_of_a_policy_that_sets_more_than_one_rate(kind, tmp_path):
    policy = random_policy(action={"kind": kind})
    path = save_policy(policy, tmp_path / "mine")
    with pytest.raises(ValueError, match=f"'{kind}'.*give --no-controls"):
        load_policy_arms([path], [1e-3], controls=True)
    assert load_policy_arms([path], [1e-3])
    for make in (replay, lambda *args: noise(*args, 0)):
        with pytest.raises(ValueError, match=f"one learning rate, got .* '{kind}'"):
            make(policy, [[0.1]])


@pytest.mark.parametrize(
    ("algorithm", "env_id", "arguments"),
    [
        (PPO, "optenv/LearningRate-v0", {"n_steps": 8, "batch_size": 8}),
        (DQN, "optenv/DiscreteLearningRate-v0", {"buffer_size": 10}),
    ],
    ids=["PPO", "DQN"],
)
def test_untrained_weights_are_distributed_like_initial_ones(
    algorithm, env_id, arguments, tmp_path
):
    model = algorithm("MlpPolicy", gym.make(env_id), seed=0, **arguments)
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    state = torch.get_rng_state()
    fresh, again, other = (untrained(policy, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    marks = [each.fingerprint() for each in (policy, fresh, again, other)]
    assert marks[1] == marks[2] and len(set(marks)) == 3
    for theirs, ours in zip(policy.parameters(), fresh.parameters(), strict=True):
        assert ours.shape == theirs.shape and not ours.requires_grad
        assert ours.abs().max() == pytest.approx(theirs.abs().max().item(), rel=0.5)
        # Three standard deviations of the ratio of norms of uniform numbers
        spread = 1.9 / ours.numel() ** 0.5
        assert ours.norm() == pytest.approx(theirs.norm().item(), rel=spread)


def test_controls_are_reported_as_baselines_and_start_like_the_policy():
    policy_arms = PolicyArms("mine", random_policy(), (1e-3, 1e-2))
    rows = [
        {**run(policy_arms.policy, task, seed, lr), "arm": policy_arms.name(lr)}
        for task in TASKS
        for lr in policy_arms.rates
        for seed in (0, 1)
    ]
    jobs = list(control_jobs(policy_arms, rows, TASKS, (0, 1)))
    assert len(jobs) == len(CONTROLS) * len(rows)
    names = {f"mine {kind} lr {lr:g}" for kind in CONTROLS for lr in policy_arms.rates}
    assert {job.arm.name for job in jobs} == names
    policies: dict[str, set[str]] = {}
    for job in jobs:
        given = job.arm.factory.keywords["policy"]
        assert isinstance(given, Policy)
        policies.setdefault(job.arm.name, set()).add(given.fingerprint())
    # Drawn anew for every task and seed, and one schedule for all of them.
    assert [len(policies[f"mine {kind} lr 0.01"]) for kind in CONTROLS] == [4, 4, 1]
    results = [train(*job) for job in pickle.loads(pickle.dumps(jobs[:3]))]
    assert not any(row["learned"] for row in results)
    assert {row["lr"] for row in results} == {1e-3}
    starts = {row["initial_validation_loss"] for row in results}
    assert starts == {rows[0]["initial_validation_loss"]}
    with pytest.raises(ValueError, match="needs the decisions of the policy"):
        list(control_jobs(policy_arms, [], TASKS, (0,)))
