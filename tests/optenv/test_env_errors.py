"""Mistakes are refused at once, with a message that lists the valid values."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import optenv
from optenv import actions, rewards, rules, settings, tasks
from tests.helpers.small_runs import (
    ENV_IDS,
    MLP,
    assert_same,
    neutral_action,
    random_actions,
    rollout,
)

CONTINUOUS, DISCRETE = "optenv/LearningRate-v0", "optenv/DiscreteLearningRate-v0"
SHORT = {"tasks": MLP, "horizon": 3, "updates_per_step": 2}


@pytest.mark.parametrize("env_id", ENV_IDS)
@pytest.mark.parametrize(
    ("typo", "meant"),
    [("horizont", "horizon"), ("task", "tasks"), ("baselr", "base_lr"), ("Rule", "rule")],
)
def test_an_unknown_argument_is_refused_with_the_closest_one(
    env_id: str, typo: str, meant: str
) -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(TypeError, match=f"{typo!r}; did you mean {meant!r}") as error:
            make(env_id, **{typo: 1})
        # The words of Python, which TorchRL looks for.
        assert f"got an unexpected keyword argument {typo!r}" in str(error.value)
        for name in settings.Settings.__dataclass_fields__:
            assert name in str(error.value)


def test_an_unknown_argument_without_a_close_one_lists_the_valid_ones() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'qqq'; valid: tasks"):
        gym.make(CONTINUOUS, qqq=1)


@pytest.mark.parametrize("env_id", ENV_IDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("num_envs", 3), ("groups", 2), ("autoreset_mode", "Disabled"), ("rendered", 1)],
)
def test_arguments_of_batches_are_refused_and_not_listed_by_single_environments(
    env_id: str, name: str, value: Any
) -> None:
    with pytest.raises(TypeError, match=f"^{name} is an argument of gym.make_vec") as error:
        gym.make(env_id, **{name: value})
    assert f"{name}={value!r}" in str(error.value)
    with pytest.raises(TypeError, match=r"argument 'qqq'; valid: .*, render_mode") as error:
        gym.make(env_id, qqq=1)
    assert name not in str(error.value)


# Argument, value, error, and parts of its message (besides the value, if it is plain).
BAD_ARGUMENTS: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("tasks", "mnist", ValueError, [*tasks.SPLITS, *tasks.FAMILIES, *tasks.MORE_FAMILIES]),
    ("tasks", "digits/validation", ValueError, ["digits/test"]),
    ("tasks", [], ValueError, ["tasks is empty", "at least one"]),
    ("tasks", 3, TypeError, ["names or Task objects"]),
    ("tasks", ["digits", None], TypeError, ["None", "names or Task objects"]),
    ("tasks", {"width": 3}, TypeError, ["{'width': 3}", "spec", "instances"]),
    ("instances", "cnn/validation", ValueError, ["cnn/test"]),
    ("instances", "cnn/train/last", ValueError, ["family/split/number"]),
    ("instances", 3, TypeError, ["InstanceSet", ".jsonl"]),
    ("instances", [], ValueError, ["at least one instance"]),
    ("instance_order", "random", ValueError, list(settings.INSTANCE_ORDERS)),
    ("rule", "adamw", ValueError, list(rules.RULES)),
    ("rule", torch.optim.Adam, ValueError, list(rules.RULES)),
    ("action", "relative", ValueError, list(actions.ACTIONS)),
    ("action", {"kind": "box"}, ValueError, ["'box'", *actions.ACTIONS]),
    ("action", {"steps": 1.0}, TypeError, ["'steps'", "valid fields: bound", "step"]),
    (
        "action",
        {"kind": "continuous", "steps": 1.0},
        TypeError,
        ["'steps'", "step", "bound"],
    ),
    ("action", {"kind": "continuous", "bound": -1.0}, ValueError, ["-1.0", "positive"]),
    ("action", {"kind": "continuous", "start": 7.0}, ValueError, ["7.0", "±6.0"]),
    (
        "action",
        {"kind": "continuous", "schedule": "stairs"},
        ValueError,
        ["'stairs'", "cosine"],
    ),
    (
        "action",
        {"kind": "discrete", "multipliers": (0.5, 2.0)},
        ValueError,
        ["(0.5, 2.0)", "include 1.0"],
    ),
    (
        "action",
        {"kind": "discrete", "multipliers": (1.0, 0.5)},
        ValueError,
        ["(1.0, 0.5)", "increasing"],
    ),
    (
        "action",
        {"kind": "discrete", "multipliers": (-1.0, 1.0)},
        ValueError,
        ["(-1.0, 1.0)", "positive"],
    ),
    (
        "action",
        {"kind": "discrete", "multipliers": ("a", 1.0)},
        TypeError,
        ["('a', 1.0)", "numbers"],
    ),
    ("action", {"kind": "continuous", "step": float("nan")}, ValueError, ["step", "nan"]),
    ("action", {"kind": "continuous", "step": -1.0}, ValueError, ["-1.0", "positive"]),
    ("action", {"kind": "continuous", "step": "1"}, TypeError, ["step", "'1'", "number"]),
    ("action", {"kind": "continuous", "bound": "6"}, TypeError, ["bound", "'6'"]),
    ("action", {"kind": ["box"]}, ValueError, ["['box']", *actions.ACTIONS]),
    ("rule", ["adam"], ValueError, ["['adam']", *rules.RULES]),
    ("reward", ["train"], ValueError, ["['train']", *rewards.REWARDS]),
    ("objective", ["train"], ValueError, ["['train']", *rewards.OBJECTIVES]),
    ("dtype", ["float32"], ValueError, ["['float32']", *settings.DTYPES]),
    ("spacing", "2", ValueError, ["[1, 10]"]),
    ("device", None, ValueError, ["cannot use device"]),
    ("device", "meta", ValueError, ["cannot use device", "no values"]),
    ("action", 1.5, TypeError, ["name", "dict", "Action"]),
    ("horizon", 0, ValueError, ["positive integer"]),
    ("horizon", -3, ValueError, ["positive integer"]),
    ("horizon", 2.5, ValueError, ["positive integer"]),
    ("horizon", True, ValueError, ["positive integer"]),
    ("base_lr", True, TypeError, ["number", "pair"]),
    ("updates_per_step", 0, ValueError, ["positive"]),
    ("updates_per_step", 0.5, ValueError, ["at least 1"]),
    ("updates_per_step", (20, 10), ValueError, ["low <= high"]),
    ("updates_per_step", "10", TypeError, ["number", "pair"]),
    ("updates_per_step", (1, 2, 3), TypeError, ["number", "pair"]),
    ("max_work", 0, ValueError, ["positive", "None"]),
    ("max_work", "1e9", ValueError, ["positive", "None"]),
    ("base_lr", 0.0, ValueError, ["positive"]),
    ("base_lr", -1e-3, ValueError, ["positive"]),
    ("base_lr", float("nan"), ValueError, ["positive", "finite"]),
    ("base_lr", (1e-3, float("inf")), ValueError, ["finite"]),
    ("base_lr", "1e-3", TypeError, ["number", "pair"]),
    ("base_lr", 1e-50, ValueError, ["range of float32"]),
    ("base_lr", (1e-3, 1e300), ValueError, ["range of float32"]),
    ("spacing", 0.5, ValueError, ["[1, 10]"]),
    ("spacing", float("nan"), ValueError, ["[1, 10]"]),
    ("spacing", float("inf"), ValueError, ["[1, 10]"]),
    ("reward", "loss", ValueError, list(rewards.REWARDS)),
    ("reward", "both", ValueError, [*rewards.REWARDS, "objective='both'"]),
    ("objective", "test", ValueError, list(rewards.OBJECTIVES)),
    ("on_divergence", "stop", ValueError, list(settings.ON_DIVERGENCE)),
    ("device", "gpu", ValueError, ["cuda"]),
    ("dtype", "float16", ValueError, list(settings.DTYPES)),
    ("dtype", torch.float32, ValueError, list(settings.DTYPES)),
]


@pytest.mark.parametrize(("name", "value", "error", "says"), BAD_ARGUMENTS)
def test_a_bad_value_is_quoted_with_what_is_valid(
    name: str, value: Any, error: type[Exception], says: list[str]
) -> None:
    for make in (gym.make, gym.make_vec):
        with pytest.raises(error) as raised:
            make(CONTINUOUS, **{name: value})
        quoted = [] if isinstance(value, (dict, list)) else [repr(value)]
        for part in [*quoted, *says]:
            assert part in str(raised.value)


def test_a_rate_of_hundreds_of_digits_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"to 3.4e\+38, got 10+\.\.\.0+ \(401") as error:
        gym.make(CONTINUOUS, base_lr=10**400)
    assert len(str(error.value)) < 300


def test_unknown_render_modes_are_refused() -> None:
    for made in (optenv.LearningRateEnv, optenv.LearningRateVectorEnv):
        with pytest.raises(ValueError, match=r"None, 'ansi', 'rgb_array', got 'human'"):
            made(render_mode="human")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1, got 0"),
        ({"num_envs": 2.5}, TypeError, "num_envs must be an integer, got 2.5"),
        ({"num_envs": "3"}, TypeError, "num_envs must be an integer, got '3'"),
        ({"num_envs": True}, TypeError, "num_envs must be an integer, got True"),
        ({"num_envs": 4, "groups": 1.5}, TypeError, "groups must be an integer, got 1.5"),
        ({"num_envs": 4, "groups": True}, TypeError, "groups must be an integer, got True"),
        ({"rendered": True, "render_mode": "ansi"}, TypeError, "rendered .*, got True"),
        ({"num_envs": 4, "groups": 5}, ValueError, r"\[1, 4\], got 5"),
        ({"num_envs": 4, "groups": 0}, ValueError, r"\[1, 4\], got 0"),
        ({"autoreset_mode": "Never"}, ValueError, "Never"),
    ],
)
def test_a_batch_refuses_impossible_shapes(
    arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        gym.make_vec(CONTINUOUS, **arguments)


# Id, action of one environment, pattern of the message.
BAD_ACTIONS: list[tuple[str, Any, str]] = [
    (CONTINUOUS, np.array([1.5], np.float32), r"\[-1, 1\].*1\.5"),
    (CONTINUOUS, np.array([-2.0], np.float32), r"\[-1, 1\].*-2"),
    (CONTINUOUS, np.array([np.nan], np.float32), r"\[-1, 1\].*nan"),
    (CONTINUOUS, np.array([-np.inf], np.float32), r"\[-1, 1\].*inf"),
    (CONTINUOUS, np.zeros(2, np.float32), r"shape \(1,\), got \(2,\)"),
    (CONTINUOUS, 0.0, r"shape \(1,\), got \(\)"),
    (DISCRETE, 7, r"Discrete\(7\).*7"),
    (DISCRETE, -1, r"Discrete\(7\).*-1"),
    (DISCRETE, 3.0, r"Discrete\(7\).*3\.0"),
    (DISCRETE, True, r"Discrete\(7\).*True"),
    (DISCRETE, np.array([3]), r"shape \(\), got \(1,\)"),
]


@pytest.mark.parametrize(("env_id", "action", "says"), BAD_ACTIONS)
def test_a_bad_action_is_quoted_with_what_is_valid(
    env_id: str, action: Any, says: str
) -> None:
    # Without Gymnasium's own checker, which would raise first.
    env = gym.make(env_id, disable_env_checker=True, **SHORT)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=says):
        env.step(action)
    env.step(neutral_action(env))  # the run goes on


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_a_batch_refuses_actions_of_another_batch_size(env_id: str) -> None:
    env = gym.make_vec(env_id, 3, **SHORT)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"must have shape \(3,.*got \(2,"):
        env.step(neutral_action(env)[:2])


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_read_only_actions_are_accepted(env_id: str) -> None:
    env = gym.make_vec(env_id, 3, **SHORT)
    actions = random_actions(env.action_space, 3)
    expected = rollout(env, actions, seed=0)
    for action in actions:
        action.setflags(write=False)
    assert_same(rollout(env, actions, seed=0), expected)


@pytest.mark.parametrize(
    ("mask", "error", "says"),
    [
        ([True, False, True], TypeError, "bool array"),
        (np.array([1, 0, 1]), TypeError, "bool array"),
        (np.array([True, False]), ValueError, r"shape \(3,\)"),
        (np.array([False, False, False]), ValueError, "True in it"),
    ],
)
def test_a_bad_reset_mask_is_refused(mask: Any, error: type[Exception], says: str) -> None:
    env = gym.make_vec(CONTINUOUS, 3, autoreset_mode=AutoresetMode.DISABLED, **SHORT)
    env.reset(seed=0)
    with pytest.raises(error, match=says):
        env.reset(options={"reset_mask": mask})


def test_seeds_are_one_per_run() -> None:
    env = gym.make_vec(CONTINUOUS, 3, **SHORT)
    with pytest.raises(ValueError, match=r"one entry per run \(3\), got 2"):
        env.reset(seed=[1, 2])


def test_the_first_reset_is_of_all_runs() -> None:
    env = gym.make_vec(CONTINUOUS, 3, **SHORT)
    with pytest.raises(gym.error.ResetNeeded, match="all runs"):
        env.reset(options={"reset_mask": np.array([True, False, True])})
    env.reset(seed=0)
    env.reset(options={"reset_mask": np.array([True, False, True])})


def test_rendering_before_the_first_reset_is_refused() -> None:
    for made in (optenv.LearningRateEnv, optenv.LearningRateVectorEnv):
        env = made(render_mode="ansi", **SHORT)
        with pytest.raises(gym.error.ResetNeeded, match="render"):
            env.render()


def test_a_single_environment_that_has_ended_refuses_to_step() -> None:
    env = gym.make(CONTINUOUS, **SHORT)
    rollout(env, [neutral_action(env)] * 3, seed=0)
    with pytest.raises(ValueError, match=r"^the run has ended; call reset\(\)$"):
        env.step(neutral_action(env))


@pytest.mark.parametrize("batched", [False, True])
def test_unknown_options_of_reset_are_refused(batched: bool) -> None:
    env = gym.make_vec(CONTINUOUS, 2, **SHORT) if batched else gym.make(CONTINUOUS, **SHORT)
    valid = "valid: reset_mask, instance" if batched else "valid: instance"
    with pytest.raises(ValueError, match=rf"unknown option 'horizon' .*{valid}"):
        env.reset(seed=0, options={"horizon": 3})
    with pytest.raises(TypeError, match=r"must be a dict or None, got \['horizon'\]"):
        env.reset(seed=0, options=["horizon"])  # type: ignore[arg-type]
    env.reset(seed=0, options={})


def test_only_actions_that_can_be_clipped_name_the_wrapper_that_does() -> None:
    env = gym.make(CONTINUOUS, disable_env_checker=True, **SHORT)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"1\.5.*; gymnasium\.wrappers\.ClipAction"):
        env.step(np.array([1.5], np.float32))
    with pytest.raises(ValueError, match="nan") as raised:
        env.step(np.array([np.nan], np.float32))
    assert "ClipAction" not in str(raised.value)
    clipped = gym.wrappers.ClipAction(env)
    clipped.step(np.array([1.5], np.float32))


def test_a_rule_and_an_action_that_do_not_fit_are_told_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"^an action .* needs rule 'switching', got"):
        gym.make("optenv/UpdateRule-v0", rule="adam")
    with pytest.raises(ValueError, match=r"^rule 'switching' needs an action that chooses"):
        gym.make(CONTINUOUS, rule="switching")
