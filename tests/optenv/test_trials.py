"""Trials of several runs on one task."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import optenv
from optenv.telemetry import FEATURES, observed_features
from tests.helpers.small_runs import MLP, QUADRATIC

IDS = list(optenv.TRIALS)
SHORT = {"tasks": MLP, "horizon": 4, "updates_per_step": 2, "runs": 3}

every_id = pytest.mark.parametrize("env_id", IDS)


def batched(env_id, count=3, **arguments):
    mode = AutoresetMode.DISABLED
    return gym.make_vec(env_id, count, autoreset_mode=mode, **{**SHORT, **arguments})


def actions(env, seed=0):
    env.action_space.seed(seed)
    while True:
        yield env.action_space.sample()


def trial(env, seed=0):
    """Return observations, rewards, ends and infos of a whole trial."""
    observation, _ = env.reset(seed=seed)
    steps = [(observation, None, None, {})]
    for action in actions(env):
        observation, reward, terminated, _, info = env.step(action)
        steps.append((observation, reward, terminated, info))
        if np.all(terminated):
            return steps


@every_id
def test_trials_pass_the_checker_of_gymnasium(env_id):
    check_env(gym.make(env_id, **SHORT).unwrapped)


@every_id
def test_a_trial_ends_with_its_last_run(env_id):
    steps = trial(batched(env_id))
    assert len(steps) == 1 + 3 * 4
    assert [bool(step[2].any()) for step in steps[1:]] == [False] * 11 + [True]
    runs = [step[3]["run"].tolist() for step in steps[1:]]
    assert runs == [[i // 4] * 3 for i in range(12)]


@every_id
def test_the_beginning_of_each_run_is_marked(env_id):
    marks = [step[0][:, -1].tolist() for step in trial(batched(env_id))]
    assert marks == [[float(i in (0, 4, 8))] * 3 for i in range(13)]


@every_id
def test_the_first_observation_of_each_run_has_no_history(env_id):
    steps = trial(batched(env_id))
    progress, step_size = (
        list(FEATURES).index("progress"),
        list(FEATURES).index("step_size"),
    )
    for i in (0, 4, 8):
        assert (steps[i][0][:, progress] == -1).all()
        assert (steps[i][0][:, step_size] == 0).all()


def test_previous_action_and_reward_are_observed_across_runs():
    env = batched(IDS[0], previous_reward="given")
    env.reset(seed=0)
    for action, _ in zip(actions(env), range(11), strict=False):
        observation, reward, *_ = env.step(action)
        np.testing.assert_array_equal(observation[:, -3:-2], action)
        np.testing.assert_allclose(observation[:, -2], reward.clip(-4, 4), rtol=1e-6)


def test_by_default_trials_show_what_an_optimizer_can_tell():
    assert batched(IDS[0]).unwrapped.describe()["previous_reward"] == "told"


def test_trials_observe_discrete_actions_one_hot():
    env = batched(IDS[1])
    env.reset(seed=0)
    for action, _ in zip(actions(env), range(11), strict=False):
        observation, *_ = env.step(action)
        np.testing.assert_array_equal(observation[:, -9:-2], np.eye(7)[action])


def test_runs_of_a_trial_share_the_task_but_not_initial_parameters():
    env = batched(IDS[0], base_lr=(1e-4, 1e-2), reparametrize=0.5)
    env.reset(seed=0)
    group = env.unwrapped.groups[0][1]
    begun = [(group.data, group.state)]
    for i, action in zip(range(1, 9), actions(env), strict=False):
        env.step(action)
        if i % 4 == 0:
            begun.append((group.data, group.state))
    for data, state in begun[1:]:
        first, start = begun[0]
        assert torch.equal(data.inputs, first.inputs) and torch.equal(data.rows, first.rows)
        assert torch.equal(data.scale, first.scale)
        assert torch.equal(state.base_lr, start.base_lr)
        assert not torch.equal(data.order, first.order)
        assert (state.run.params != start.run.params).any(1).all()
        assert (state.run.updates == 0).all() and (state.log_multiplier == 0).all()


def test_the_first_run_of_a_trial_equals_a_single_run():
    trials = batched(IDS[0])
    arguments = {name: value for name, value in SHORT.items() if name != "runs"}
    mode = AutoresetMode.DISABLED
    runs = gym.make_vec("optenv/LearningRate-v0", 3, autoreset_mode=mode, **arguments)
    first, _ = trials.reset(seed=0)
    expected, _ = runs.reset(seed=0)
    for action, _ in zip(actions(trials), range(3), strict=False):
        np.testing.assert_array_equal(first[:, : len(FEATURES)], expected)
        first, reward, *_ = trials.step(action)
        expected, rewarded, *_ = runs.step(action)
        np.testing.assert_array_equal(reward, rewarded)


@every_id
def test_a_batch_of_trials_steps_like_single_trials(env_id):
    alone = gym.make(env_id, **SHORT)
    batch = batched(env_id)
    together, _ = batch.reset(seed=5)
    observation, _ = alone.reset(seed=6)
    done = False
    for action in actions(batch):
        np.testing.assert_allclose(together[1], observation, rtol=1e-4, atol=1e-4)
        if done:
            break
        together, _, ended, _, _ = batch.step(action)
        observation, _, done, _, _ = alone.step(action[1])
        assert done == ended[1]
    assert done


def test_a_diverged_run_is_followed_by_the_next_run_of_the_trial():
    env = batched(IDS[0], base_lr=1e4, rule="sgd", tasks=QUADRATIC)
    env.reset(seed=0)
    worst = np.ones((3, 1), np.float32)
    runs = [env.step(worst)[4]["run"].tolist() for _ in range(3)]
    assert runs == [[0] * 3, [1] * 3, [2] * 3]
    with pytest.raises(ValueError, match="have ended"):
        env.step(worst)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_trials_follow_each_other_under_autoreset(mode):
    env = gym.make_vec(IDS[0], 3, autoreset_mode=mode, **SHORT)
    env.reset(seed=0)
    ends = []
    for action, _ in zip(actions(env), range(27), strict=False):
        observation, _, terminated, _, _ = env.step(action)
        ends.append(bool(terminated.all()))
        if ends[-1] and mode is AutoresetMode.SAME_STEP:
            assert (observation[:, -1] == 1).all() and (observation[:, -3:-1] == 0).all()
    length = 12 + (mode is AutoresetMode.NEXT_STEP)
    assert [i for i, end in enumerate(ends) if end] == [11, 11 + length]


@pytest.mark.parametrize("runs", [0, -1, 1.5, "3"])
def test_runs_that_is_no_positive_integer_is_refused(runs):
    with pytest.raises(ValueError, match="runs"):
        gym.make(IDS[0], runs=runs)


@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_the_told_reward_is_the_decrease_of_the_log_mean_loss(hidden):
    arguments = {"previous_reward": "told", "loss_dropout": hidden, "dtype": "float64"}
    arguments["loss_features"] = "positive"
    env = batched(IDS[0], **arguments, base_lr=0.1, updates_per_step=3)
    before, _ = env.reset(seed=0)
    column, told = observed_features("positive").index("loss_vs_initial"), []
    for step, action in zip(range(1, 13), actions(env), strict=False):
        observation, *_ = env.step(action)
        told.append(observation[:, -2])
        if step % 4 and not hidden:  # within a run, a feature is half of it
            decrease = 2 * (before[:, column] - observation[:, column])
            np.testing.assert_allclose(observation[:, -2], decrease, atol=1e-9)
        before = observation
    assert (np.array(told) != 0).all() == (hidden == 0)
    assert (np.array(told) == 0).all() == (hidden == 1)


def test_an_unknown_previous_reward_is_refused_with_the_valid_ones():
    with pytest.raises(
        ValueError, match="unknown previous_reward 'true'; valid: given, told"
    ):
        gym.make(IDS[0], previous_reward="true")


def test_info_is_zero_for_runs_that_are_being_reset():
    """Here some runs diverge at once and are reset in the next step of the others."""
    env = gym.make_vec(
        "optenv/LearningRateTrial-v0", 16, tasks=MLP, rule="sgd", runs=1,
        base_lr=(1e-3, 1e6), updates_per_step=2,
    )  # fmt: skip
    env.reset(seed=0)
    idle = 0
    for _ in range(4):
        info = env.step(np.zeros(env.action_space.shape, np.float32))[-1]
        for name in ("loss", "lr", "diverged", "run"):
            idle += (~info[f"_{name}"]).sum()
            assert not info[name][~info[f"_{name}"]].any()
    assert idle > 4
