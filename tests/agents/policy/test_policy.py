"""Policy files: export, round trip, and refusal of files that are not valid."""

from __future__ import annotations

import hashlib
import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from safetensors.torch import load_file, save_file
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize

from agents import export_policy, load_policy
from agents.policy.files import save_policy
from agents.policy.module import Policy
from optenv.sb3 import SB3VecEnv
from optenv.telemetry import FEATURE_VERSION, FEATURES
from tests.helpers.policies import random_policy


@pytest.fixture
def policy_path(tmp_path):
    """Stem of a policy on disk."""
    save_policy(random_policy(), tmp_path / "policy")
    return tmp_path / "policy"


def batch(env_id, **arguments):
    env = gym.make_vec(env_id, 4, autoreset_mode=AutoresetMode.DISABLED, **arguments)
    return SB3VecEnv(env)


class Projection(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, len(FEATURES))
        self.norm = torch.nn.LayerNorm(len(FEATURES))

    def forward(self, observations):
        return self.norm(observations)


NEWER = FEATURE_VERSION + 1
CONTINUOUS, DISCRETE = "optenv/LearningRate-v0", "optenv/DiscreteLearningRate-v0"
RULES = "optenv/UpdateRule-v0"
MODELS = {
    "ppo": lambda: PPO("MlpPolicy", VecMonitor(batch(CONTINUOUS)), seed=0),
    "ppo-discrete": lambda: PPO("MlpPolicy", batch(DISCRETE), seed=0),
    "ppo-single": lambda: PPO("MlpPolicy", make_vec_env(CONTINUOUS), seed=0),
    "ppo-relu": lambda: PPO(
        "MlpPolicy", batch(CONTINUOUS, rule="momentum", horizon=7), seed=0,
        policy_kwargs={"net_arch": [5], "activation_fn": torch.nn.ReLU},
    ),
    "dqn": lambda: DQN("MlpPolicy", batch(DISCRETE), seed=0),
    "qrdqn": lambda: QRDQN("MlpPolicy", batch(DISCRETE), seed=0),
    "rules": lambda: PPO("MlpPolicy", batch(RULES), seed=0),
    "qrdqn-rules": lambda: QRDQN("MlpPolicy", batch(RULES), seed=0),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MODELS))
def test_an_exported_policy_acts_like_its_model(name, tmp_path):
    model = MODELS[name]()
    path = export_policy(model, tmp_path / "policy.safetensors")
    policy = load_policy(path)
    width = model.observation_space.shape[0]
    observation = np.random.default_rng(0).uniform(-4, 4, (64, width))
    observation = observation.astype(np.float32)
    expected, _ = model.predict(observation, deterministic=True)
    found = policy(torch.from_numpy(observation)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_description_names_the_environment_and_the_network(tmp_path):
    model = MODELS["ppo-relu"]()
    export_policy(model, tmp_path / "policy")
    text = json.loads((tmp_path / "policy.json").read_text())
    assert text["feature_version"] == FEATURE_VERSION
    assert text["features"] == list(FEATURES)
    assert (text["rule"], text["horizon"], text["spacing"]) == ("momentum", 7, 1.0)
    assert text["action"]["kind"] == "continuous"
    assert text["layers"] == [len(FEATURES), 5, 1]
    assert (text["activation"], text["algorithm"]) == ("relu", "PPO")


@pytest.mark.parametrize("suffix", ["", ".json", ".safetensors"])
def test_a_policy_is_found_by_either_file_or_their_stem(policy_path, suffix):
    assert isinstance(load_policy(f"{policy_path}{suffix}"), Policy)


def test_saving_a_loaded_policy_writes_identical_files(policy_path, tmp_path):
    save_policy(load_policy(policy_path), tmp_path / "again")
    for suffix in (".json", ".safetensors"):
        first = policy_path.with_name(policy_path.name + suffix)
        assert first.read_bytes() == (tmp_path / f"again{suffix}").read_bytes()


def edit(path, **changes):
    file = path.with_name(path.name + ".json")
    text = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in text.items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"feature_version": FEATURE_VERSION + 1},
            f"feature version {FEATURE_VERSION + 1}",
        ),
        ({"rule": "adamw"}, "unknown rule 'adamw'; valid rules: sgd"),
        ({"features": ["loss"]}, r"unknown features \['loss'\]; valid: progress"),
        (
            {"action": {"kind": "magic"}},
            "unknown action 'magic'; valid actions: cont",
        ),
        ({"action": {"kind": "continuous", "size": 1}}, "valid fields: bound"),
        ({"activation": "softmax"}, "unknown activation 'softmax'; valid: tanh"),
        ({"total_updates": [10]}, r"two positive integers, got \[10\]"),
        ({"horizon": 0}, "horizon must be an integer, at least 1"),
        ({"spacing": None}, "'spacing' is None; required"),
        ({"features": [["loss"]]}, r"unknown features \[\['loss'\]\]; valid: progress"),
        ({"action": {"kind": ["magic"]}}, r"unknown action \['magic'\]; valid actions"),
        (
            {"action": {"kind": "continuous", "step": float("nan")}},
            "action: step must be .*nan",
        ),
        ({"layers": [25, True, 1]}, r"layers must be integers .*\[25, True, 1\]"),
        (
            {"layers": [25, 10**20, 1]},
            r"layers must be integers in \[1, 16384\], got \[25, 10{20}, 1\]",
        ),
        ({"layers": [3, 1]}, r"layers \[3, 1\] do not lead from 25 inputs to 1"),
        ({"sha256": "0" * 64}, "has sha256"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_description_that_is_not_valid_is_refused(policy_path, changes, message):
    edit(policy_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_policy(policy_path)


def test_a_folder_of_results_loads_its_policy(policy_path):
    found, expected = load_policy(policy_path.parent), load_policy(policy_path)
    assert found.fingerprint() == expected.fingerprint()


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_missing_file_is_named(policy_path, suffix):
    policy_path.with_name(policy_path.name + suffix).unlink()
    with pytest.raises(FileNotFoundError, match=f"policy{suffix} does not exist"):
        load_policy(policy_path)


def test_a_file_that_is_not_json_is_refused(policy_path):
    policy_path.with_name("policy.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="not a policy description"):
        load_policy(policy_path)


def replace_weights(path, content: bytes):
    path.with_name("policy.safetensors").write_bytes(content)
    edit(path, sha256=hashlib.sha256(content).hexdigest())


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code from the file was run",))


def test_loading_never_runs_code_from_the_file(policy_path):
    replace_weights(policy_path, pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="cannot load policy"):
        load_policy(policy_path)


def test_non_finite_weights_are_refused(policy_path, tmp_path):
    weights = load_file(policy_path.with_name("policy.safetensors"))
    weights["networks.0.0.bias"][0] = torch.nan
    save_file(weights, tmp_path / "bad")
    replace_weights(policy_path, (tmp_path / "bad").read_bytes())
    with pytest.raises(ValueError, match="not finite"):
        load_policy(policy_path)


def test_a_model_of_another_environment_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not an environment of optenv's"):
        export_policy(PPO("MlpPolicy", make_vec_env("CartPole-v1")), tmp_path / "policy")


@pytest.mark.parametrize("path", [".", "/", ""])
def test_a_path_without_a_name_is_no_policy(path):
    with pytest.raises(FileNotFoundError, match=f"no policy at '{path}'"):
        load_policy(path)


def test_a_loaded_policy_is_float32_whatever_the_default_type(policy_path):
    expected = load_policy(policy_path)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = load_policy(policy_path)
    finally:
        torch.set_default_dtype(torch.float32)
    for own, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert own.dtype == torch.float32 and torch.equal(own, other)


def test_numpy_numbers_in_an_action_can_be_exported(tmp_path):
    multipliers = np.geomspace(0.5, 2, 3).astype(np.float32)
    for env_id, action in (
        (DISCRETE, {"kind": "discrete", "multipliers": multipliers}),
        (CONTINUOUS, {"kind": "continuous", "step": np.float32(0.5)}),
    ):
        model = PPO("MlpPolicy", batch(env_id, action=action))
        export_policy(model, tmp_path / "policy")
    assert load_policy(tmp_path / "policy").action.step == 0.5


def wrapped(wrapper):
    return make_vec_env(lambda: wrapper(gym.make(CONTINUOUS)))


@pytest.mark.parametrize(
    ("make", "arguments", "says"),
    [
        (
            lambda: VecNormalize(VecNormalize(batch(CONTINUOUS))),
            {},
            "observations are normalised 2 times",
        ),
        (lambda: wrapped(gym.wrappers.NormalizeObservation), {}, r"Box\(-inf, inf, .*25"),
        (
            lambda: wrapped(lambda env: gym.wrappers.RescaleAction(env, -2, 2)),
            {},
            r"model's are .* Box\(-2\.0, 2\.0",
        ),
        (lambda: VecFrameStack(make_vec_env(CONTINUOUS), 2), {}, r"model's .*\(50,\)"),
        (
            lambda: make_vec_env(CONTINUOUS),
            {"policy_kwargs": {"features_extractor_class": Projection}},
            r"one activation, .* got \['LayerNorm', 'Linear', 'Tanh'",
        ),
    ],
    ids=["normalised twice", "normalised single", "rescaled", "stacked", "projected"],
)
def test_a_model_that_a_policy_cannot_represent_is_refused(make, arguments, says, tmp_path):
    model = PPO("MlpPolicy", make(), n_steps=2, batch_size=2, **arguments)
    with pytest.raises(ValueError, match=says):
        export_policy(model, tmp_path / "policy")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["default", "anytime", "dqn", "rl2"])
def test_a_policy_prints_what_it_is_in_two_lines(name):
    policy = load_policy(name)
    shown = repr(policy)
    assert shown.startswith(f"Policy {name!r} (algorithm: ") and shown.count("\n") == 1
    assert ("anytime," in shown) == policy.anytime
    assert policy.anytime or f"horizon: {policy.description['horizon']}" in shown
    for each in (
        policy.description["algorithm"], f"rule: {policy.rule.name},",
        f"action: {policy.action.kind}, schedule: {policy.action.schedule},",
        f"parameters: {sum(p.numel() for p in policy.parameters()):,}",
        f"fingerprint: {policy.fingerprint()[:12]}",
    ):  # fmt: skip
        assert each in shown


def test_a_policy_without_a_name_prints_none():
    assert repr(random_policy()).startswith("Policy (algorithm: unknown, rule: adam")
