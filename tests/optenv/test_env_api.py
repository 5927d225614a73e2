"""Every registered environment fulfils Gymnasium's contract."""

from __future__ import annotations

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import optenv
from optenv import rules
from optenv.group import IDENTITY
from tests.helpers.small_runs import (
    ENV_IDS,
    ENV_RULE_PAIRS,
    MLP,
    QUADRATIC,
    RULE_NAMES,
    assert_same,
    module_task,
    neutral_action,
    random_actions,
    rollout,
)

SHORT = {"tasks": MLP, "horizon": 5, "updates_per_step": 3}

every_id = pytest.mark.parametrize("env_id", ENV_IDS)


@every_id
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_checkers_of_gymnasium_and_sb3_are_silent(env_id: str, dtype: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(env_id, dtype=dtype, **SHORT)
        check_env(env.unwrapped)
        # SB3 warns of every float64 Box action space, whatever the environment.
        if dtype == "float32":
            sb3_check_env(env.unwrapped)


@every_id
def test_make_vec_batches_the_spaces_of_make(env_id: str) -> None:
    env = gym.make(env_id, **SHORT)
    batch = gym.make_vec(env_id, num_envs=3, **SHORT)
    assert isinstance(batch, optenv.LearningRateVectorEnv)
    assert batch.single_observation_space == env.observation_space
    assert batch.single_action_space == env.action_space
    observation, _ = batch.reset(seed=0)
    assert batch.observation_space.contains(observation)
    assert observation.shape == (3, *batch.single_observation_space.shape)
    for action in random_actions(batch.action_space, 5):
        assert batch.observation_space.contains(batch.step(action)[0])


@every_id
def test_a_spec_round_trips_through_json(env_id: str) -> None:
    arguments = {"tasks": ["quadratic", "mlp-regression"], "base_lr": (1e-3, 1e-2)}
    single = gym.make(env_id, horizon=3, **arguments)
    batch = gym.make_vec(env_id, 3, horizon=3, autoreset_mode="SameStep", **arguments)
    for env, remake in ((single, gym.make), (batch, gym.make_vec)):
        again = remake(EnvSpec.from_json(env.spec.to_json()))
        actions = random_actions(env.action_space, 3)
        assert_same(rollout(again, actions, seed=1), rollout(env, actions, seed=1))


@every_id
@pytest.mark.parametrize("task", [MLP, QUADRATIC, module_task()])
def test_a_pickled_environment_continues_identically(
    env_id: str, task: optenv.tasks.Task
) -> None:
    arguments = {**SHORT, "tasks": task}
    for env in (gym.make(env_id, **arguments), gym.make_vec(env_id, 3, **arguments)):
        actions = random_actions(env.action_space, 9)
        rollout(env, actions[:2], seed=3)
        twin = pickle.loads(pickle.dumps(env))
        for action in actions[2:5]:
            assert_same(twin.step(action), env.step(action))
        # The generators were pickled as well, so the next run is the same, too.
        assert_same(rollout(twin, actions[5:]), rollout(env, actions[5:]))


@every_id
def test_one_seed_gives_one_trajectory(env_id: str) -> None:
    arguments = {"tasks": "train", "horizon": 4, "updates_per_step": (1, 5)}
    for make in (gym.make, lambda *a, **k: gym.make_vec(*a, num_envs=3, **k)):
        env, fresh = make(env_id, **arguments), make(env_id, **arguments)
        actions = random_actions(env.action_space, 4)
        first = rollout(env, actions, seed=11)
        assert_same(rollout(env, actions, seed=11), first)
        assert_same(rollout(fresh, actions, seed=11), first)
        for other in (rollout(env, actions), rollout(env, actions, seed=12)):
            assert not np.array_equal(other[1][0], first[1][0])


@pytest.mark.parametrize(("env_id", "rule"), ENV_RULE_PAIRS)
@pytest.mark.parametrize("on_divergence", ["end", "absorb"])
def test_observations_of_diverging_runs_are_finite_and_bounded(
    env_id: str, rule: str, on_divergence: str
) -> None:
    env = gym.make_vec(
        env_id, 8, tasks=MLP, rule=rule, horizon=4, updates_per_step=4,
        base_lr=(1.0, 1e12), on_divergence=on_divergence,
    )  # fmt: skip
    diverged = np.zeros(8, bool)
    for observation, *rest in rollout(env, random_actions(env.action_space, 4), seed=0):
        assert env.observation_space.contains(observation)
        assert np.isfinite(observation).all()
        if len(rest) == 4:
            assert np.isfinite(rest[0]).all()
            diverged |= rest[3]["diverged"]
    assert diverged.any()


@every_id
@pytest.mark.parametrize("base_lr", [1e6, 1e38])
def test_a_diverged_run_ends_with_its_loss_reported(env_id: str, base_lr: float) -> None:
    arguments = {**SHORT, "tasks": QUADRATIC, "updates_per_step": 1, "horizon": 9}
    rule = {"rule": "sgd", **optenv.ENVIRONMENTS[env_id]}["rule"]
    env = gym.make(env_id, rule=rule, base_lr=base_lr, **arguments)
    env.reset(seed=0)
    action = neutral_action(env)
    if env.unwrapped.batch.action.is_update:  # no learning rate matters to no update
        action = np.ones_like(action)
    _, reward, terminated, truncated, info = env.step(action)
    assert terminated and not truncated and reward < 0
    assert info["diverged"] is True
    # Infinite rather than NaN, which is not equal to itself.
    assert info["loss"] == np.inf if base_lr == 1e38 else 20 < info["loss"] < np.inf
    own = {"batch_size"} if env_id == "optenv/BatchSize-v0" else set()
    assert set(info) == {"loss", "lr", "diverged", "validation_loss", *IDENTITY, *own}


@every_id
def test_runs_end_at_the_horizon_and_not_before(env_id: str) -> None:
    env = gym.make(env_id, **SHORT)
    env.reset(seed=0)
    ends = [env.step(neutral_action(env))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(True, False)]
    with pytest.raises(ValueError, match="ended"):
        env.step(neutral_action(env))


@every_id
def test_step_before_reset_raises(env_id: str) -> None:
    for env in (gym.make(env_id, **SHORT), gym.make(env_id, **SHORT).unwrapped):
        with pytest.raises(gym.error.ResetNeeded):
            env.step(neutral_action(env))
    batch = gym.make_vec(env_id, 2, **SHORT)
    with pytest.raises(gym.error.ResetNeeded):
        batch.step(neutral_action(batch))


@every_id
def test_ansi_rendering_is_one_line_that_follows_the_run(env_id: str) -> None:
    env = gym.make(env_id, render_mode="ansi", **SHORT)
    env.reset(seed=0)
    lines = [env.render()]
    for _ in range(5):
        info = env.step(neutral_action(env))[4]
        lines.append(env.render())
        assert f"loss {info['loss']:.4g}" in lines[-1]
        assert f"lr {info['lr']:.3g}" in lines[-1]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        f"step {i}/5" for i in range(1, 6)
    ]
    assert not any("\n" in line for line in lines)
    silent = gym.make(env_id, **SHORT)
    silent.reset(seed=0)
    assert silent.unwrapped.render() is None


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_the_default_learning_rate_is_that_of_the_rule(rule: str) -> None:
    env = gym.make("optenv/LearningRate-v0", rule=rule, **SHORT)
    env.reset(seed=0)
    lr = env.step(neutral_action(env))[4]["lr"]
    assert lr == pytest.approx(rules.get(rule).default_lr)


def test_steps_in_inference_mode_are_those_outside() -> None:
    def rewards(mode: bool) -> list[float]:
        env = gym.make("optenv/LearningRate-v0", tasks=QUADRATIC, horizon=3)
        with torch.inference_mode(mode):
            env.reset(seed=0)
            return [float(env.step(np.zeros(1, np.float32))[1]) for _ in range(3)]

    assert rewards(True) == rewards(False)


def test_the_number_of_control_steps_is_known_from_the_first_reset_on() -> None:
    env = gym.make("optenv/LearningRate-v0", horizon=3).unwrapped
    with pytest.raises(gym.error.ResetNeeded, match="before num_steps"):
        _ = env.num_steps  # type: ignore[attr-defined]
    env.reset()
    assert env.num_steps == 3  # type: ignore[attr-defined]
