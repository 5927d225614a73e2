"""The baseline of rewards is the same run under Adam with a cosine schedule, made once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import optenv
from optenv import baseline, core, tasks
from tests.helpers.small_runs import MLP, module_task, neutral_action, rollout

ID, TRIAL = "optenv/LearningRate-v0", "optenv/LearningRateTrial-v0"
SHORT: dict[str, Any] = {
    "tasks": MLP, "horizon": 5, "updates_per_step": 8, "spacing": 1.5, "dtype": "float64",
    "reward": "baseline",
}  # fmt: skip
THE_BASELINE: dict[str, Any] = {
    "rule": "adam", "base_lr": 1e-3, "action": {"kind": "continuous", "schedule": "cosine"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Empty the cache; return a list that grows by the number of runs trained."""
    monkeypatch.setattr(baseline, "_CACHE", {})
    counts: list[int] = []
    train = baseline._train

    def counted(task: Any, data: Any, params: Any, boundaries: Any) -> core.RunState:
        counts.append(len(params))
        return train(task, data, params, boundaries)

    monkeypatch.setattr(baseline, "_train", counted)
    return counts


def play(env: Any, seed: int | None = 0, steps: int = 5) -> Any:
    """Return the sum of the rewards of an episode whose actions are neutral."""
    return sum(step[1] for step in rollout(env, [neutral_action(env)] * steps, seed)[1:])


@pytest.mark.parametrize("task", [MLP, module_task()], ids=["own data", "shared data"])
@pytest.mark.parametrize("objective", ["validation", "both"])
def test_a_run_that_is_the_baseline_returns_zero(task: tasks.Task, objective: str) -> None:
    arguments = {**SHORT, **THE_BASELINE, "tasks": task, "objective": objective}
    for env in (gym.make(ID, **arguments), gym.make_vec(ID, 3, **arguments)):
        np.testing.assert_allclose(play(env), 0.0, atol=1e-12)
    arguments |= {"runs": 3}
    for env in (gym.make(TRIAL, **arguments), gym.make_vec(TRIAL, 3, **arguments)):
        np.testing.assert_allclose(play(env, steps=15), 0.0, atol=1e-12)


def test_runs_on_scaled_parameters_and_instances_have_their_own_baseline() -> None:
    arguments = {**SHORT, **THE_BASELINE, "reparametrize": 0.5, "base_lr": (1e-3, 1e-3)}
    np.testing.assert_allclose(play(gym.make_vec(ID, 4, **arguments)), 0.0, atol=1e-12)
    some = optenv.instances.InstanceSet.sample(MLP, 3)
    for groups in (1, 3):
        env = gym.make_vec(
            ID, 3, groups=groups, instances=some, **{**SHORT, **THE_BASELINE}
        )
        np.testing.assert_allclose(play(env), 0.0, atol=1e-12)


def test_the_return_is_the_distance_of_both_ends() -> None:
    faster = {**SHORT, "base_lr": 1e-2}
    plain = play(gym.make_vec(ID, 3, **{**faster, "reward": "log_loss"}))
    best = play(gym.make_vec(ID, 3, **{**SHORT, **THE_BASELINE, "reward": "log_loss"}))
    above = play(gym.make_vec(ID, 3, **faster))
    np.testing.assert_allclose(above, plain - best, atol=1e-12)
    assert (above > 0.01).all()


def test_a_run_is_trained_once_whatever_the_batch(trained: list[int]) -> None:
    batch = gym.make_vec(ID, 4, **SHORT)
    batch.reset(seed=0)
    batch.reset(seed=0)
    gym.make(ID, **SHORT).reset(seed=2)
    gym.make_vec(ID, 2, rule="sgd", base_lr=0.3, **SHORT).reset(seed=1)
    assert trained == [4]
    gym.make_vec(ID, 4, **SHORT).reset(seed=2)  # two of them are new
    assert trained == [4, 2]
    batch.step(neutral_action(batch))
    batch.reset(seed=0, options={"reset_mask": np.array([True, False, False, True])})
    assert trained == [4, 2]


@pytest.mark.parametrize(
    "changed",
    [
        {"objective": "validation"},
        {"updates_per_step": 9},
        {"dtype": "float32"},
        {"reparametrize": 0.5},
        {"tasks": module_task(loss="cross_entropy")},
    ],
    ids=["objective", "length", "dtype", "scale", "task"],
)
def test_runs_that_differ_are_trained_anew(
    trained: list[int], changed: dict[str, Any]
) -> None:
    for arguments in (SHORT, {**SHORT, **changed}):
        gym.make_vec(ID, 2, **arguments).reset(seed=0)
    assert trained == [2, 2]


def test_single_labels_and_the_loss_tell_tasks_apart(trained: list[int]) -> None:
    task = module_task()
    variants: list[Any] = [
        (task.targets, "cross_entropy"),
        (task.targets, lambda outputs, targets: outputs.square().mean()),
    ]
    for changed in range(5):  # most of which are not in the first batch
        targets = task.targets.clone()
        targets[changed] = (targets[changed] + 1) % 3
        variants.append((targets, "cross_entropy"))
    for targets, loss in variants:
        like = optenv.from_module(
            task.factory, task.inputs, targets, loss=loss, batch_size=8
        )
        arguments = {**SHORT, "tasks": like, "updates_per_step": 2}
        gym.make(ID, **arguments, objective="validation").reset(seed=0)
    assert trained == [1] * 7


def test_the_next_run_of_a_trial_is_trained_alone(trained: list[int]) -> None:
    env = gym.make_vec(TRIAL, 2, runs=2, on_divergence="absorb", **SHORT)
    play(env, steps=6)
    assert trained == [2, 2]


def test_the_cache_is_bounded(trained: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "CACHE_SIZE", 3)
    env = gym.make_vec(ID, 4, **SHORT)
    for seed in (0, 0, 10):  # run 0 is dropped, and those used last are kept
        env.reset(seed=seed)
        assert len(baseline._CACHE) == 3
    assert trained == [4, 1, 4]
