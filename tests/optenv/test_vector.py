"""A batch of runs equals its single runs, whatever its size and their ends."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import optenv
from optenv import tasks
from tests.helpers.small_runs import (
    MLP,
    QUADRATIC,
    RULE_NAMES,
    assert_identical,
    assert_same,
    clone,
    leaves,
    module_task,
    neutral_action,
    random_actions,
    rollout,
)

ID = "optenv/LearningRate-v0"
# float64, so that rounding errors stay small over a few dozen updates.
SHORT = {"horizon": 4, "updates_per_step": 3, "dtype": "float64"}
TOLERANCE = {"rtol": 1e-6, "atol": 1e-7}
TASKS = {
    "mlp": MLP,
    "digits": tasks.MLP(source="digits", inputs=64, outputs=10, width=8, num_train=64),
    "quadratic": QUADRATIC,
    "shared": dataclasses.replace(MLP, data_seed=4),
    "module": module_task(),
    "cnn": module_task(convolutional=True),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
#: One task for each way to store examples: drawn per run, or shared by all runs.
few_tasks = pytest.mark.parametrize(
    "task",
    [TASKS["mlp"], TASKS["module"], TASKS["shared"]],
    ids=["mlp", "module", "shared"],
)
every_mode = pytest.mark.parametrize("mode", AutoresetMode)


def group_of(env: Any) -> Any:
    return getattr(env.unwrapped, "batch", env.unwrapped).groups[0][1]


@every_task
def test_sub_environments_start_like_single_environments(task: tasks.Task) -> None:
    arguments = {**SHORT, "tasks": task, "base_lr": (1e-4, 1e-1)}
    batch = gym.make_vec(ID, 3, **arguments)
    observation, _ = batch.reset(seed=20)
    runs = group_of(batch)
    for i in range(3):
        single = gym.make(ID, **arguments)
        first, _ = single.reset(seed=20 + i)
        run = group_of(single)
        np.testing.assert_array_equal(observation[i], first)
        assert_identical(runs.state.run.params[i], run.state.run.params[0])
        assert_identical(runs.state.base_lr[i], run.state.base_lr[0])
        assert_identical(runs.data.order[i], run.data.order[0])
        for examples in ("inputs", "targets"):
            ours = getattr(runs.data, examples)[runs.data.rows[i]]
            assert_identical(ours, getattr(run.data, examples)[run.data.rows[0]])
    assert len({tuple(p.tolist()) for p in runs.state.run.params}) == 3


def assert_same_starts(ours: Any, theirs: Any) -> None:
    """Assert equal resets: equal observations, and infos up to the losses' rounding."""
    assert_same(ours[0], theirs[0])
    assert_same(ours[1], theirs[1], **TOLERANCE)


@pytest.mark.parametrize("rule", RULE_NAMES)
@few_tasks
def test_a_batch_steps_like_single_environments(rule: str, task: tasks.Task) -> None:
    arguments = {**SHORT, "tasks": task, "rule": rule}
    batch = gym.make_vec(ID, 3, **arguments)
    singles = SyncVectorEnv([lambda: gym.make(ID, **arguments)] * 3)
    # Two whole runs: the second one continues the generators after an autoreset.
    assert_same_starts(batch.reset(seed=5), singles.reset(seed=5))
    for action in random_actions(batch.action_space, 10):
        assert_same(batch.step(action), singles.step(action), **TOLERANCE)


@every_task
def test_a_run_does_not_depend_on_the_size_of_its_batch(task: tasks.Task) -> None:
    small, large = (gym.make_vec(ID, n, tasks=task, **SHORT) for n in (2, 7))
    actions = random_actions(large.action_space, 10)
    few = rollout(small, [a[:2] for a in actions], seed=5)
    many = rollout(large, actions, seed=5)
    for (observation, reward, *_), (observations, rewards, *_) in zip(
        few[1:], many[1:], strict=True
    ):
        np.testing.assert_allclose(observation, observations[:2], **TOLERANCE)
        np.testing.assert_allclose(reward, rewards[:2], **TOLERANCE)


def masked(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace the masked-out entries of the ``info`` of a step by None."""

    def mask(info: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for key, value in info.items():
            if key.startswith("_"):
                out[key] = value
            elif isinstance(value, dict):
                out[key] = mask(value)
            else:
                out[key] = np.where(info[f"_{key}"], value, None)
        return out

    return (*result[:-1], mask(result[-1]))


@every_mode
@few_tasks
def test_autoreset_equals_that_of_sync_vector_env(
    mode: AutoresetMode, task: tasks.Task
) -> None:
    arguments: dict[str, Any] = {
        **SHORT, "tasks": task, "rule": "sgd", "base_lr": (1e-2, 1e4),
    }  # fmt: skip
    batch = gym.make_vec(ID, 6, autoreset_mode=mode, **arguments)
    singles = SyncVectorEnv([lambda: gym.make(ID, **arguments)] * 6, autoreset_mode=mode)
    assert batch.metadata["autoreset_mode"] is mode
    assert_same_starts(batch.reset(seed=2), singles.reset(seed=2))
    ends = []
    for action in random_actions(batch.action_space, 16):
        ours, theirs = masked(batch.step(action)), masked(singles.step(action))
        assert_same(ours, theirs, **TOLERANCE)
        done = ours[2]
        ends.append(done)
        if mode is AutoresetMode.DISABLED and done.any():
            reset = [e.reset(options={"reset_mask": done.copy()}) for e in (batch, singles)]
            (first, info), (other, other_info) = reset
            ours, theirs = masked((first[done], info)), masked((other[done], other_info))
            assert_same_starts(ours, theirs)
    # Out of phase: some steps end only some of the runs, and each row ends several.
    partial = [done for done in ends if done.any() and not done.all()]
    assert len(partial) >= 3
    assert np.sum(ends, axis=0).min() >= 3


def test_without_autoreset_ended_runs_refuse_to_step() -> None:
    env = gym.make_vec(ID, 3, tasks=MLP, autoreset_mode=AutoresetMode.DISABLED, **SHORT)
    rollout(env, [neutral_action(env)] * 4, seed=0)
    with pytest.raises(ValueError, match=r"runs \[0, 1, 2\] have ended.*reset_mask"):
        env.step(neutral_action(env))
    env.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ValueError, match=r"runs \[1\] have ended"):
        env.step(neutral_action(env))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(neutral_action(env))


@every_task
def test_a_masked_reset_does_not_change_the_other_runs(task: tasks.Task) -> None:
    env = gym.make_vec(ID, 3, tasks=task, **SHORT)
    rollout(env, [neutral_action(env)] * 2, seed=0)
    group = group_of(env)
    before = clone(group.state)
    examples = [e.clone() for e in group.data.batch(group.data.rows * 0 + 3)]
    env.reset(options={"reset_mask": np.array([False, True, False])})
    others = [0, 2]
    for old, new in zip(before, leaves(group.state), strict=True):
        assert_identical(new[others], old[others])
    for old, new in zip(examples, group.data.batch(group.data.rows * 0 + 3), strict=True):
        assert_identical(new[others], old[others])
    assert not (before[0][1] == group.state.run.params[1]).all()
    assert group.steps.tolist() == [2, 0, 2]


@few_tasks
def test_inactive_runs_are_not_changed_by_a_step(task: tasks.Task) -> None:
    envs = [gym.make_vec(ID, 3, tasks=task, **SHORT) for _ in range(2)]
    for env in envs:
        env.reset(seed=0)
    masked_group, group = (group_of(env) for env in envs)
    active = np.array([True, False, True])
    before = clone(masked_group.state)
    action = torch.tensor([[0.5], [1.0], [-0.5]], dtype=torch.float64)
    masked_group.step(action, active)
    group.step(action)
    for old, new, all_moved in zip(
        before, leaves(masked_group.state), leaves(group.state), strict=True
    ):
        assert_identical(new[1], old[1])
        torch.testing.assert_close(new[active], all_moved[active])
    assert masked_group.steps.tolist() == [1, 0, 1]


def test_a_mixed_batch_redraws_structures_when_whole_groups_end() -> None:
    env = gym.make_vec(ID, 6, tasks="train", groups=3, horizon=2, updates_per_step=1)
    env.reset(seed=0)
    drawn = [[group.task for _, group in env.groups]]
    ended = np.zeros(6, bool)
    for action in random_actions(env.action_space, 12):
        observation, _, terminated, _, _ = env.step(action)
        assert env.observation_space.contains(observation)
        if ended.all():
            drawn.append([group.task for _, group in env.groups])
        ended = terminated
    assert len(drawn) == 5
    assert len({task for batch in drawn for task in batch}) == 15


def test_a_group_keeps_its_structure_while_any_of_its_runs_goes_on() -> None:
    env = gym.make_vec(ID, 4, tasks="train", groups=2, horizon=2, updates_per_step=1)
    env.reset(seed=0)
    before = [group.task for _, group in env.groups]
    env.reset(options={"reset_mask": np.array([True, True, True, False])})
    after = [group.task for _, group in env.groups]
    assert after[0] != before[0]
    assert after[1] == before[1]


@few_tasks
def test_absorbing_divergence_keeps_runs_in_phase_and_their_returns(
    task: tasks.Task,
) -> None:
    returns = {}
    for on_divergence in ("end", "absorb"):
        env = gym.make_vec(
            ID, 8, tasks=task, rule="sgd", base_lr=(1e-3, 1e4),
            on_divergence=on_divergence, **SHORT,
        )  # fmt: skip
        env.reset(seed=3)
        total, running = np.zeros(8), np.ones(8, bool)
        lengths = np.zeros(8, int)
        for action in random_actions(env.action_space, 4):
            _, reward, terminated, _, _ = env.step(action)
            total += reward * running
            lengths += running
            running &= ~terminated
        assert not running.any()
        returns[on_divergence] = total
        early = lengths < 4
        assert (
            early.any() and not early.all() if on_divergence == "end" else not early.any()
        )
    np.testing.assert_allclose(returns["absorb"], returns["end"], **TOLERANCE)


def test_a_masked_reset_seeds_no_other_runs() -> None:
    arguments: dict[str, Any] = {**SHORT, "tasks": MLP}
    mode = AutoresetMode.DISABLED
    batch = gym.make_vec(ID, 3, autoreset_mode=mode, **arguments)
    singles = SyncVectorEnv([lambda: gym.make(ID, **arguments)] * 3, autoreset_mode=mode)
    losses = []
    for env in (batch, singles):
        env.reset(seed=0)
        mask = np.array([False, True, False])
        env.reset(seed=50, options={"reset_mask": mask})
        env.reset()
        losses.append(env.step(neutral_action(batch))[4]["loss"])
    np.testing.assert_allclose(*losses, **TOLERANCE)


def test_a_seeded_reset_of_one_group_does_not_depend_on_what_was_before() -> None:
    mask = np.array([False, False, True, True])
    structures = []
    for resets in (1, 3):
        env = gym.make_vec(
            ID, 4, tasks="train", groups=2, horizon=2, autoreset_mode=AutoresetMode.DISABLED
        )
        for seed in range(resets):
            env.reset(seed=seed)
        info = env.reset(seed=50, options={"reset_mask": mask})[1]
        structures.append(info["structure"][2:].tolist())
    assert structures[0] == structures[1]


def test_seeds_may_be_a_list_or_a_tuple() -> None:
    env = gym.make_vec(ID, 3, tasks=MLP, **SHORT)
    actions = [neutral_action(env)] * 2
    expected = rollout(env, actions, seed=5)
    for seed in ([5, 6, 7], (5, 6, 7)):
        assert_same(rollout(env, actions, seed=seed), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments", [{"tasks": ["quadratic", "logistic"]}, {"instances": "quadratic"}]
)
def test_a_random_state_begins_the_same_runs_in_another_batch(arguments) -> None:
    arguments = {"num_envs": 3, "groups": 2, "horizon": 4, **arguments}
    first = optenv.LearningRateVectorEnv(**arguments)
    with pytest.raises(gym.error.ResetNeeded, match="before random_state"):
        first.random_state()
    first.reset(seed=5)
    first.reset()
    state = json.loads(json.dumps(first.random_state()))
    expected = [first.reset()[0], first.reset()[0]]
    other = optenv.LearningRateVectorEnv(**arguments)
    other.set_random_state(state)
    for observation in expected:
        np.testing.assert_array_equal(other.reset()[0], observation)
    assert other.random_state() == first.random_state()
    with pytest.raises(ValueError, match="of 3 runs, not of 2"):
        optenv.LearningRateVectorEnv(2).set_random_state(state)
