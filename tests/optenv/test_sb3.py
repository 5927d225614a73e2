"""The adapter to Stable-Baselines3 equals SB3's own over single environments."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from optenv.sb3 import SB3VecEnv
from tests.helpers.small_runs import ENV_IDS, MLP, assert_same

# float64: a batch and single environments round differently.
SHORT = {
    "tasks": MLP, "base_lr": (1e-2, 1e3),
    "horizon": 4, "updates_per_step": 3, "dtype": "float64",
}  # fmt: skip
TOLERANCE = {"rtol": 1e-6, "atol": 1e-7}


def batched(env_id: str, num_envs: int, **arguments: Any) -> SB3VecEnv:
    mode = AutoresetMode.DISABLED
    return SB3VecEnv(gym.make_vec(env_id, num_envs, autoreset_mode=mode, **arguments))


def cartpoles(num_envs: int) -> tuple[SB3VecEnv, DummyVecEnv]:
    """Make CartPole, where some episodes terminate and some are truncated."""
    batch = gym.make_vec(
        "CartPole-v1", num_envs, vectorization_mode="sync", max_episode_steps=14,
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
    )  # fmt: skip
    single = DummyVecEnv([lambda: gym.make("CartPole-v1", max_episode_steps=14)] * num_envs)
    return SB3VecEnv(batch), single


def assert_same_steps(ours: VecEnv, theirs: VecEnv, steps: int) -> dict[str, int]:
    """Assert that both return the same, and count terminations and truncations."""
    assert ours.num_envs == theirs.num_envs
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for env in (ours, theirs):
        env.seed(7)
    assert_same(ours.reset(), theirs.reset(), **TOLERANCE)
    assert ours.reset_infos == theirs.reset_infos
    count = {"terminated": 0, "truncated": 0}
    ours.action_space.seed(0)
    for _ in range(steps):
        actions = np.stack([ours.action_space.sample() for _ in range(ours.num_envs)])
        result = ours.step(actions)
        assert_same(result, theirs.step(actions), **TOLERANCE)
        assert ours.reset_infos == theirs.reset_infos
        for done, info in zip(result[2], result[3], strict=True):
            assert ("terminal_observation" in info) == done
            count["truncated"] += done and info["TimeLimit.truncated"]
            count["terminated"] += done and not info["TimeLimit.truncated"]
    return count


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_the_adapter_equals_dummy_vec_env(env_id: str) -> None:
    singles = DummyVecEnv([lambda: gym.make(env_id, **SHORT)] * 5)
    count = assert_same_steps(batched(env_id, 5, **SHORT), singles, steps=14)
    assert count["terminated"] > 15 and count["truncated"] == 0


def test_the_adapter_equals_dummy_vec_env_on_truncated_episodes() -> None:
    count = assert_same_steps(*cartpoles(4), steps=60)
    assert count["terminated"] > 3 and count["truncated"] > 3


def test_a_second_reset_continues_the_generators_like_dummy_vec_env() -> None:
    ours = batched(ENV_IDS[0], 3, **SHORT)
    theirs = DummyVecEnv([lambda: gym.make(ENV_IDS[0], **SHORT)] * 3)
    for env in (ours, theirs):
        env.seed(1)
        env.reset()
    assert_same(ours.reset(), theirs.reset(), **TOLERANCE)
    actions = np.zeros((3, 1))
    assert_same(ours.step(actions), theirs.step(actions), **TOLERANCE)


def test_infos_of_vector_wrappers_are_split_too() -> None:
    batch = gym.make_vec(ENV_IDS[0], 3, autoreset_mode=AutoresetMode.DISABLED, **SHORT)
    env = SB3VecEnv(RecordEpisodeStatistics(batch))
    env.seed(0)
    env.reset()
    totals, lengths = np.zeros(3), np.zeros(3, int)
    ended = 0
    for _ in range(8):
        _, rewards, dones, infos = env.step(np.zeros((3, 1)))
        totals, lengths = totals + rewards, lengths + 1
        for i in np.flatnonzero(dones):
            assert infos[i]["episode"]["r"] == pytest.approx(totals[i], rel=1e-5)
            assert infos[i]["episode"]["l"] == lengths[i]
            totals[i], lengths[i], ended = 0, 0, ended + 1
        assert not any("episode" in infos[i] for i in np.flatnonzero(~dones))
    assert ended >= 6


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_autoreset_modes_that_lose_an_observation_are_refused(mode: AutoresetMode) -> None:
    env = gym.make_vec(ENV_IDS[0], 2, autoreset_mode=mode, **SHORT)
    with pytest.raises(ValueError, match=rf"DISABLED.*got.*{mode.name}"):
        SB3VecEnv(env)


@pytest.mark.parametrize("vectorization", [None, "sync"])
def test_the_message_on_another_mode_has_the_line_that_works(
    vectorization: str | None,
) -> None:
    env = gym.make_vec(ENV_IDS[1], 2, vectorization_mode=vectorization)
    with pytest.raises(ValueError, match="does not reset itself: ") as error:
        SB3VecEnv(env)
    line = str(error.value).split("itself: ")[1].split(", got")[0]
    made = eval(line, {"gym": gym})
    assert made.spec.id == ENV_IDS[1] and type(made) is type(env)
    assert SB3VecEnv(made).num_envs == 2


def test_attributes_and_methods_of_the_batch_are_available() -> None:
    env = batched(ENV_IDS[0], 3, **SHORT)
    assert env.get_attr("num_envs") == [3, 3, 3]
    assert env.get_attr("num_envs", indices=1) == [3]
    assert env.env_method("describe", indices=[0, 2]) == [env.env.describe()] * 2
    assert env.env_is_wrapped(gym.Wrapper) == [False] * 3


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_ppo_learns_on_the_adapter(env_id: str) -> None:
    env = VecMonitor(batched(env_id, 4, **{**SHORT, "dtype": "float32"}))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(64)
    assert model.num_timesteps == 64
    assert any(
        not old.equal(new)
        for old, new in zip(before, model.policy.parameters(), strict=True)
    )
    assert {episode["l"] for episode in model.ep_info_buffer} >= {4}


def test_a_single_environment_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs a VectorEnv, as make_vec gives, got"):
        SB3VecEnv(gym.make(ENV_IDS[0]))  # type: ignore[arg-type]


def test_attributes_and_methods_are_found_behind_wrappers_and_in_single_runs() -> None:
    mode, expected = AutoresetMode.DISABLED, batched(ENV_IDS[0], 2, **SHORT).env.describe()
    wrapped = SB3VecEnv(RecordEpisodeStatistics(batched(ENV_IDS[0], 2, **SHORT).env))
    single = gym.make_vec(
        ENV_IDS[0], 2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode},
        **SHORT,
    )  # fmt: skip
    for env in (wrapped, SB3VecEnv(single)):
        assert env.env_method("describe") == [expected] * 2
        assert env.env_method("describe", indices=[1]) == [expected]
        assert env.get_attr("render_mode") == [None, None]
        with pytest.raises(AttributeError):
            env.get_attr("nothing")
    assert SB3VecEnv(single).get_attr("batch")[0].num_envs == 1
