"""Batch sizes as actions: every control step has its share of a budget of examples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from optenv import actions, core, rules
from tests.helpers.small_runs import MLP, assert_identical, module_task, sample_runs

ID = "optenv/BatchSize-v0"
SHORT: dict[str, Any] = {
    "tasks": MLP, "horizon": 4, "updates_per_step": 8, "dtype": "float64",
}  # fmt: skip


def made(count: int, **arguments: Any) -> Any:
    mode = AutoresetMode.DISABLED
    return gym.make_vec(ID, count, autoreset_mode=mode, **{**SHORT, **arguments})


def test_updates_with_a_batch_size_are_those_of_a_task_with_that_size() -> None:
    data, params = sample_runs(MLP, 3)
    task, rule = replace(MLP, batch_size=20), rules.get("sgd")
    lr = torch.full((5, 3), 0.1, dtype=torch.float64)
    expected = core.advance(task, rule, data, core.start(task, rule, data, params), lr)
    start = core.start(task, rule, data, params)
    assert_identical(core.advance(MLP, rule, data, start, lr, batch_size=20), expected)


@pytest.mark.parametrize("task", [MLP, module_task()])
def test_runs_with_other_batch_sizes_do_not_change_a_run(task: Any) -> None:
    together, alone = made(4, tasks=task), made(1, tasks=task)
    together.reset(seed=5)
    alone.reset(seed=7)
    rng = np.random.default_rng(0)
    for _ in range(4):
        action = rng.integers(7, size=4)
        results = together.step(action)
        expected = alone.step(action[2:3])
        for ours, single in zip(results[:2], expected[:2], strict=True):
            np.testing.assert_allclose(ours[2:3], single, rtol=1e-9, atol=1e-9)
        assert results[4]["examples"][2] == expected[4]["examples"][0]
    run, other = (env.unwrapped.groups[0][1].state.run for env in (together, alone))
    torch.testing.assert_close(run.params[2:3], other.params, rtol=1e-9, atol=1e-9)


def test_the_gradient_of_every_run_is_that_of_a_batch_of_its_size() -> None:
    env = made(7)
    env.reset(seed=0)
    group = env.unwrapped.groups[0][1]
    for action in (np.arange(7), np.arange(7)[::-1]):
        sizes = env.step(action.copy())[4]["batch_size"]
        assert len(set(sizes)) == 6  # 1 and 2 are both 2 examples
        run = group.state.run
        for i, size in enumerate(sizes):
            rows = torch.tensor([i])
            data, params = group.data.of_runs(rows), run.params[rows]
            batch = data.batch(data.rows_from(run.drawn[rows] - size, int(size)))
            _, grad = core.loss_and_grad(MLP, params, batch)
            torch.testing.assert_close(run.grad[rows], grad, rtol=1e-12, atol=1e-12)


def test_every_control_step_has_the_same_number_of_examples() -> None:
    env = made(7)
    env.reset(seed=0)
    for step in range(1, 5):
        observation, *_, ended, _, info = env.step(np.arange(7))
        sizes, budget = info["batch_size"], step * 8 * MLP.batch_size
        assert sizes.tolist() == [2, 2, 4, 8, 16, 32, 64]
        assert (budget - sizes < info["examples"]).all()
        assert (info["examples"] <= budget).all() and ended.all() == (step == 4)
        np.testing.assert_allclose(8 * observation[:, 0], 8 * (2 * step / 4 - 1))
        np.testing.assert_allclose(3 * observation[:, -1], np.log2(sizes / 8))
    updates = env.unwrapped.groups[0][1].state.run.updates
    assert updates.tolist() == [128, 128, 64, 32, 16, 8, 4]


def test_examples_that_are_left_go_to_the_next_control_step() -> None:
    kind = actions.BatchSize(factors=(1.0, 3.0))
    env = made(1, updates_per_step=4, action=kind)
    env.reset(seed=0)
    seen = [int(env.step(np.array([1]))[4]["examples"][0]) for _ in range(4)]
    assert seen == [24, 48, 96, 120]  # of 32, 64, 96 and 128, in batches of 24
    # A batch is no larger than what there is.
    env = made(1, updates_per_step=2)
    env.reset(seed=0)
    assert env.step(np.array([6]))[4]["batch_size"] == 16


def test_the_task_s_own_batch_size_makes_the_run_of_a_constant_learning_rate() -> None:
    env, plain = made(3), gym.make_vec("optenv/LearningRate-v0", 3, **SHORT)
    env.reset(seed=0)
    plain.reset(seed=0)
    for _ in range(4):
        ours, theirs = env.step(np.full(3, 3)), plain.step(np.zeros((3, 1)))
        np.testing.assert_array_equal(ours[0][:, :-1], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_time_is_that_of_all_updates_with_batches_of_their_sizes() -> None:
    env, plain = made(7, reward="time"), made(7)
    env.reset(seed=0)
    plain.reset(seed=0)
    total, progress, spent = np.zeros(7), np.zeros(7), np.zeros(7)
    done, group = np.zeros(7), env.unwrapped.groups[0][1]
    actions_of_runs = (np.arange(7), np.full(7, 3), np.arange(7)[::-1], np.full(7, 6))
    for step, action in enumerate(actions_of_runs, 1):
        sizes = env.step(action.copy())
        total += sizes[1]
        progress += plain.step(action.copy())[1]
        updates = group.state.run.updates.numpy()
        factors = sizes[4]["batch_size"] / MLP.batch_size
        spent += (updates - done) * [
            rules.relative_cost("adam", MLP.num_params, MLP.work, factor)
            for factor in factors
        ]
        done = updates.copy()
        cost = spent / (8 * step)
        expected = np.where(progress > 0, progress / cost, progress)
        np.testing.assert_allclose(total, expected, rtol=1e-9)
    assert cost.max() > 1.2 * cost.min(), "nothing was tested"


def test_an_update_with_half_of_the_examples_costs_half_of_the_gradient() -> None:
    adam, sgd = rules.COSTS["adam"], rules.COSTS["sgd"]
    found = rules.relative_cost("adam", 10, 100.0, 0.5)
    assert found == pytest.approx((150 + 10 * adam) / (300 + 10 * sgd))


CHANGING: dict[str, Any] = {"changes": {"kinds": ["labels", "inputs"], "count": 2}}


def test_tasks_change_between_control_steps_whatever_the_batch_size() -> None:
    env = made(7, horizon=8, on_divergence="absorb", **CHANGING)
    env.reset(seed=3)
    group = env.unwrapped.groups[0][1]
    paid = np.zeros(7)
    for step in range(1, 9):
        before = group.state.run.updates
        observed = env.step((np.arange(7) + step) % 7)
        paid += observed[1]
        stages, updates = group.data.stages, group.state.run.updates
        # The last update was of the task of the step, and the next one is of the next.
        now = (group.change_steps <= step - 1).sum(1)
        later = (group.change_steps <= step).sum(1)
        assert stages.of_updates(before).tolist() == now.tolist()
        assert stages.of_updates(updates - 1).tolist() == now.tolist()
        if step < 8:
            assert stages.of_updates(updates).tolist() == later.tolist()
        assert observed[4]["changes"].tolist() == now.tolist()
        budget = step * 8 * MLP.batch_size
        assert (observed[4]["examples"] <= budget).all()
    assert np.isfinite(paid).all() and (now == 2).all()


def test_the_own_batch_size_makes_the_changing_run_of_a_constant_learning_rate() -> None:
    plain = gym.make_vec("optenv/LearningRate-v0", 3, **SHORT, **CHANGING)
    env = made(3, **CHANGING)
    env.reset(seed=0)
    plain.reset(seed=0)
    for _ in range(4):
        ours, theirs = env.step(np.full(3, 3)), plain.step(np.zeros((3, 1)))
        np.testing.assert_array_equal(ours[0][:, :-1], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
        for name in ("changes", "forgetting", "mean_loss"):
            np.testing.assert_array_equal(ours[4][name], theirs[4][name])


def test_changing_runs_of_a_trial_do_not_change_their_neighbours() -> None:
    arguments = {**SHORT, **CHANGING, "runs": 2, "base_lr": 0.01}
    together = gym.make_vec("optenv/BatchSizeTrial-v0", 3, **arguments)
    alone = gym.make_vec("optenv/BatchSizeTrial-v0", 1, **arguments)
    together.reset(seed=5)
    alone.reset(seed=6)
    rng = np.random.default_rng(0)
    for _ in range(8):
        action = rng.integers(7, size=3)
        ours, single = together.step(action), alone.step(action[1:2])
        np.testing.assert_allclose(ours[0][1:2], single[0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(ours[1][1:2], single[1], rtol=1e-8, atol=1e-8)


def test_the_batch_size_is_no_change_where_it_is_an_action() -> None:
    env = made(1, changes=1)
    assert env.unwrapped.settings.changes.left_out == ("batch_size",)
    env.reset(seed=0)
    kinds = env.unwrapped.groups[0][1].data.stages.kinds
    assert kinds and "BatchSize" not in [type(kind).__name__ for kind in kinds]
    with pytest.raises(ValueError, match=r"not be a change as well.*\['batch_size'\]"):
        made(1, changes="batch_size")
    with pytest.raises(ValueError, match=r"'labels' is left out, got kinds \['labels'\]"):
        made(1, changes={"kinds": "labels", "left_out": "labels"})


@pytest.mark.parametrize(
    ("factors", "error", "match"),
    [
        ((0.5, 2.0), ValueError, r"increasing and include 1\.0"),
        ((2.0, 1.0), ValueError, r"increasing and include 1\.0"),
        ((0.0, 1.0), ValueError, r"from 1/4096 to 4096, got \(0\.0, 1\.0\)"),
        ((1.0, "2"), TypeError, "factors must be a tuple of numbers"),
        (2.0, TypeError, "factors must be a tuple of numbers"),
    ],
)
def test_wrong_factors_are_refused(factors: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        actions.make({"kind": "batch-size", "factors": factors})
