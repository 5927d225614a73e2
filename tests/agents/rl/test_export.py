"""An exported policy acts as its model does in the environment, or is refused by name."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecMonitor,
    VecNormalize,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from agents import export_policy, load_policy
from optenv.sb3 import SB3VecEnv
from tests.helpers.small_runs import MLP

CONTINUOUS, DISCRETE = "optenv/LearningRate-v0", "optenv/DiscreteLearningRate-v0"
SHORT = {"tasks": MLP, "horizon": 3, "updates_per_step": 2}
PPO_ARGUMENTS = {"n_steps": 2, "batch_size": 2, "device": "cpu", "seed": 0}


class Scaled(gym.ObservationWrapper):
    def observation(self, observation):
        return 0.5 * observation


class Reversed(gym.ActionWrapper):
    def action(self, action):
        return -action


class Restarting(gym.Wrapper):
    def step(self, action):
        return self.env.step(action)


class Halved(gym.RewardWrapper):
    def reward(self, reward):
        return reward / 2


class Shifted(VecEnvWrapper):
    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observation, *rest = self.venv.step_wait()
        return observation.clip(-1, 1), *rest


class HalvedFeatures(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, space.shape[0])

    def forward(self, observations):
        return observations / 2


class Contrary(ActorCriticPolicy):
    def _predict(self, observation, deterministic=False):
        return -super()._predict(observation, deterministic)


def transformed(env):
    half = lambda observation: 0.5 * observation  # noqa: E731
    return gym.wrappers.TransformObservation(env, half, env.observation_space)


def replaced(env):
    step = env.step
    env.step = lambda action: step(-action)
    return env


def single(wrapper, env_id=CONTINUOUS):
    return DummyVecEnv([lambda: wrapper(gym.make(env_id, **SHORT))])


def batch(env_id=CONTINUOUS, **arguments):
    mode = AutoresetMode.DISABLED
    return gym.make_vec(env_id, 2, autoreset_mode=mode, **SHORT, **arguments)


def synchronous(*wrappers):
    return SB3VecEnv(
        gym.make_vec(
            CONTINUOUS, 2, vectorization_mode="sync", wrappers=wrappers,
            vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED}, **SHORT,
        )
    )  # fmt: skip


def refusal(model, tmp_path):
    """Return the message with which the export is refused, having written nothing."""
    with pytest.raises(ValueError, match=r"^cannot export this \w+ model: ") as raised:
        export_policy(model, tmp_path / "policy")
    assert not any(tmp_path.iterdir())
    return str(raised.value)


def assert_acts_alike(model, path):
    policy = load_policy(path)
    observation = np.random.default_rng(1).standard_normal((64, 25)).astype(np.float32)
    expected = model.predict(observation, deterministic=True)[0].clip(-1, 1)
    found = policy(torch.from_numpy(observation)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: single(Scaled), "Scaled"),
        (lambda: single(lambda env: Halved(Scaled(env))), "Scaled"),
        (lambda: single(Reversed), "Reversed"),
        (lambda: single(Restarting), "Restarting"),
        (lambda: single(transformed), "TransformObservation"),
        (lambda: single(replaced), "OrderEnforcing"),
        (lambda: Shifted(make_vec_env(CONTINUOUS, env_kwargs=SHORT)), "Shifted"),
        (lambda: VecMonitor(Shifted(SB3VecEnv(batch()))), "Shifted"),
        (lambda: synchronous(Scaled), "Scaled"),
        (
            lambda: SB3VecEnv(
                vector_wrappers.TransformObservation(batch(), lambda x: x / 2)
            ),
            "TransformObservation",
        ),
    ],
)
def test_a_wrapper_that_may_change_what_is_seen_or_done_is_refused_by_name(
    make, name, tmp_path
):
    model = PPO("MlpPolicy", make(), **PPO_ARGUMENTS)
    message = refusal(model, tmp_path)
    assert f"PPO model: {name} between" in message and "set_env" in message


def test_a_wrapper_in_another_process_is_refused_by_name(tmp_path):
    model = PPO(
        "MlpPolicy", SubprocVecEnv([lambda: Scaled(gym.make(CONTINUOUS, **SHORT))]),
        **PPO_ARGUMENTS,
    )  # fmt: skip
    try:
        assert "PPO model: Scaled between environment" in refusal(model, tmp_path)
    finally:
        model.get_env().close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: single(Halved),
        lambda: single(lambda env: gym.wrappers.TimeLimit(env, 2)),
        lambda: single(gym.wrappers.RecordEpisodeStatistics),
        lambda: VecCheckNan(VecMonitor(SB3VecEnv(batch()))),
        lambda: VecNormalize(SB3VecEnv(batch()), norm_obs=False),
        lambda: SB3VecEnv(vector_wrappers.RecordEpisodeStatistics(batch())),
        synchronous,
    ],
)
def test_behind_wrappers_that_change_neither_a_policy_is_exported(make, tmp_path):
    model = PPO("MlpPolicy", make(), **PPO_ARGUMENTS)
    assert_acts_alike(model, export_policy(model, tmp_path / "policy"))


def test_a_model_is_exported_for_the_environment_that_it_is_given(tmp_path):
    model = PPO("MlpPolicy", single(Restarting), **PPO_ARGUMENTS)
    model.set_env(single(lambda env: env))
    assert_acts_alike(model, export_policy(model, tmp_path / "policy"))


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_an_extractor_that_does_more_than_its_layers_is_refused_by_name(kind, tmp_path):
    env = single(lambda env: env, CONTINUOUS if kind is PPO else DISCRETE)
    given = {"features_extractor_class": HalvedFeatures}
    model = kind("MlpPolicy", env, policy_kwargs=given, device="cpu", seed=0)
    assert "features extractor HalvedFeatures does more" in refusal(model, tmp_path)


def test_a_policy_that_acts_otherwise_than_its_layers_is_refused_by_name(tmp_path):
    model = PPO(Contrary, single(lambda env: env), **PPO_ARGUMENTS)
    torch.nn.init.normal_(model.policy.action_net.weight)
    assert "random observations, its policy (Contrary) acts other" in refusal(
        model, tmp_path
    )


def test_environments_that_differ_are_refused_but_for_their_lengths(tmp_path):
    def pair(**changes):
        both = (SHORT, {**SHORT, **changes})
        return DummyVecEnv([lambda a=a: gym.make(CONTINUOUS, **a) for a in both])

    model = PPO("MlpPolicy", pair(rule="sgd"), **PPO_ARGUMENTS)
    assert "its environments differ in rule" in refusal(model, tmp_path)
    model = PPO("MlpPolicy", pair(updates_per_step=5), **PPO_ARGUMENTS)
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    assert policy.spec.total_updates == [6, 15]


def test_a_refusal_names_the_algorithm_and_what_to_do(tmp_path):
    class Unknown(BasePolicy):
        def _predict(self, observation, deterministic=False):
            raise NotImplementedError

    model = SAC("MlpPolicy", single(lambda env: env), buffer_size=10, device="cpu")
    model.policy = Unknown(model.observation_space, model.action_space)
    message = refusal(model, tmp_path)
    assert "this SAC model" in message and "a policy (Unknown) of a kind" in message
    assert "register one with its extract function" in message


def test_an_export_leaves_random_numbers_and_the_model_as_they_are(tmp_path):
    model = PPO("MlpPolicy", single(lambda env: env), **PPO_ARGUMENTS)
    model.policy.set_training_mode(True)
    before = torch.get_rng_state()
    export_policy(model, tmp_path / "policy")
    assert model.policy.training and torch.equal(torch.get_rng_state(), before)
