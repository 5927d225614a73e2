"""Loss dropout and anytime runs: information that the environment hides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import nn

import optenv
from agents import LearnedOptimizer, export_policy, load_policy
from optenv import windows
from optenv.group.draws import draw_sees_loss
from optenv.sb3 import SB3VecEnv
from optenv.telemetry import FEATURES, LOSS_FEATURES
from tests.helpers.policies import random_policy
from tests.helpers.small_runs import MLP

LOSS = [list(FEATURES).index(name) for name in LOSS_FEATURES]
PROGRESS = [
    list(FEATURES).index(name)
    for name in ("progress", "elapsed", "remaining", "run_length")
]


def rollout(num_envs=4, steps=5, **arguments):
    """Observations ``[steps + 1, num_envs, F]`` and rewards of a run that holds still."""
    env = optenv.LearningRateVectorEnv(
        num_envs, tasks=MLP, horizon=8, updates_per_step=3, **arguments
    )
    seen, rewards = [env.reset(seed=0)[0]], []
    for _ in range(steps):
        observation, reward, *_ = env.step(np.zeros((num_envs, 1), np.float32))
        seen.append(observation)
        rewards.append(reward)
    return np.stack(seen), np.stack(rewards)


def test_loss_dropout_changes_neither_rewards_nor_other_features():
    (shown, rewards), (hidden, others) = rollout(), rollout(loss_dropout=1.0)
    assert not hidden[..., LOSS].any()
    assert shown[1:, :, LOSS].any(axis=(0, 1)).all()
    rest = [i for i in range(len(FEATURES)) if i not in LOSS]
    np.testing.assert_array_equal(hidden[..., rest], shown[..., rest])
    np.testing.assert_array_equal(others, rewards)


def test_a_policy_trained_without_losses_ignores_them_when_exported(
    tmp_path,
):
    env = optenv.LearningRateVectorEnv(
        4, tasks=MLP, loss_dropout=1.0, autoreset_mode="Disabled"
    )
    model = PPO("MlpPolicy", SB3VecEnv(env), seed=0)
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    assert not policy.sees_loss and len(policy.columns) == len(FEATURES) - len(LOSS)
    observation = np.random.default_rng(0).uniform(-4, 4, (64, len(FEATURES)))
    observation = observation.astype(np.float32)
    found = policy(torch.from_numpy(observation)).numpy()
    observation[:, LOSS] = 0.0
    expected, _ = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)

    def end(loss):
        p = nn.Parameter(torch.ones(3))
        optimizer = LearnedOptimizer([p], policy, total_steps=60)
        for step in range(60):
            p.grad = p.detach().cos() + step % 3
            optimizer.step(loss=loss(step))
        return p.detach()

    assert torch.equal(end(lambda step: None), end(lambda step: 2.0**-step))
    assert random_policy().sees_loss


def test_loss_dropout_hides_the_losses_of_whole_runs():
    seen = rollout(num_envs=200, steps=3, loss_dropout=0.3)[0]
    has_loss = seen[..., list(FEATURES).index("has_loss")]
    assert (has_loss == has_loss[0]).all()
    assert 0.6 < has_loss[0].mean() < 0.8


def test_without_loss_dropout_no_random_numbers_are_drawn_for_it():
    group = optenv.LearningRateVectorEnv(2, tasks=MLP).groups[0][1]
    keys = [np.random.default_rng(i) for i in range(3)]
    assert draw_sees_loss(group.setup, keys).all()
    assert [key.random() for key in keys] == [
        np.random.default_rng(i).random() for i in range(3)
    ]


def test_an_anytime_run_hides_its_progress():
    (known, rewards), (hidden, others) = rollout(), rollout(anytime=True)
    assert known[..., PROGRESS].any(axis=(0, 1)).all()
    assert not hidden[..., PROGRESS].any()
    np.testing.assert_array_equal(others, rewards)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss_dropout": 1.5}, ValueError, r"loss_dropout must be .* \[0, 1\], got 1.5"),
        ({"loss_dropout": True}, ValueError, "got True"),
        ({"anytime": 1}, TypeError, "anytime must be True or False, got 1"),
        (
            {"anytime": True, "action": {"kind": "continuous", "schedule": "wsd"}},
            ValueError,
            "anytime=True needs an action with schedule 'constant', .* got 'wsd'",
        ),
    ],
)
def test_invalid_settings_are_quoted(arguments, error, message):
    with pytest.raises(error, match=message):
        optenv.LearningRateVectorEnv(2, **arguments)


@pytest.mark.parametrize("spacing", [1.0, 1.7, 3.0])
def test_windows_of_an_anytime_run_equal_those_of_a_run_that_long(spacing):
    for horizon in (5, 20):
        length = round(horizon**spacing)
        opened = [u for u in range(length) if windows.opens_window(u, spacing)][:horizon]
        known = windows.boundaries(length, horizon, spacing)[:-1]
        # The length is rounded, which may move a window by an update.
        np.testing.assert_allclose(opened, known, atol=int(length != horizon**spacing))


def test_negative_update_counts_are_refused():
    with pytest.raises(ValueError, match="update must be at least 0, got -1"):
        windows.opens_window(-1)


def test_an_anytime_policy_needs_no_total_steps():
    policy = random_policy(anytime=True, spacing=2.0)
    p = nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([p], policy)
    rates = []
    for _ in range(50):
        p.grad = torch.randn(3, generator=torch.Generator().manual_seed(len(rates)))
        optimizer.step()
        rates.append(optimizer.param_groups[0]["effective_lr"])
    moved = [i for i in range(1, 50) if rates[i] != rates[i - 1]]
    assert set(moved) <= {i * i for i in range(8)} and len(moved) >= 4


def test_an_anytime_policy_warns_of_runs_far_longer_than_in_training():
    policy = random_policy(anytime=True, total_updates=[10, 20])
    with pytest.warns(UserWarning, match="total_steps=200 is far beyond"):
        LearnedOptimizer([nn.Parameter(torch.ones(3))], policy, total_steps=200)


@pytest.mark.parametrize("anytime", ["no", None, 1])
def test_anytime_is_a_bool_in_policy_files(anytime):
    with pytest.raises(ValueError, match="anytime must be True or False"):
        random_policy(anytime=anytime)
    with pytest.raises(ValueError, match="needs schedule 'constant', got True with 'wsd'"):
        random_policy(anytime=True, action={"kind": "continuous", "schedule": "wsd"})


def test_a_missing_total_steps_is_refused():
    with pytest.raises(ValueError, match="total_steps is missing"):
        LearnedOptimizer([nn.Parameter(torch.ones(3))], random_policy())


def test_the_default_lr_is_that_of_the_rule():
    for rule, lr in (("adam", 1e-3), ("momentum", 1e-2)):
        p = nn.Parameter(torch.ones(3))
        optimizer = LearnedOptimizer([p], random_policy(rule=rule), total_steps=5)
        assert optimizer.param_groups[0]["lr"] == lr
