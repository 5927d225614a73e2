"""Every id is registered for single and vector environments, and makes what it names."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import time
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.envs.registration import ENV_ID_RE, EnvSpec

import optenv
from optenv import registration, settings, tasks
from tests.helpers.cpu_budget import slowdown
from tests.helpers.small_runs import assert_same, neutral_action, random_actions, rollout

FAMILIES = registration.FAMILIES
SHORT: dict[str, Any] = {"horizon": 2, "updates_per_step": 1}


def is_restricted(env_id: str) -> bool:
    """Return whether the control of an id is for some families alone."""
    control = env_id.split("/")[1].split("-")[0].removesuffix("Trial")
    return control in registration.FAMILIES_OF


#: An id of every family, of controls and trials in turn.
NAMES = [
    i.split("/")[1].removesuffix("-v0")
    for i in {**registration.ENVIRONMENTS, **registration.TRIALS}
    if not is_restricted(i)
]
COVERING = [
    f"optenv/{NAMES[i % len(NAMES)]}-{family}-v0" for i, family in enumerate(FAMILIES)
] + [i for i in registration.FAMILY_ENVIRONMENTS if is_restricted(i)]


def test_every_control_has_an_id_for_every_family_and_its_trials() -> None:
    count = 0
    for control in registration.CONTROLS:
        assert {f"optenv/{control}-v0", f"optenv/{control}Trial-v0"} <= {*registration.ALL}
        count += 2 * (1 + len(registration.FAMILIES_OF.get(control, FAMILIES)))
    assert len(registration.ALL) == count
    assert set(FAMILIES.values()) == {*tasks.FAMILIES, *tasks.MORE_FAMILIES}
    assert {"CNN", "MLPRegression", "VAE", "PolicyGradient"} <= set(FAMILIES)
    assert registration.ALL["optenv/UpdateRuleTrial-RNN-v0"]["tasks"] == "rnn"


def test_every_spec_names_classes_and_valid_arguments() -> None:
    for env_id, arguments in registration.ALL.items():
        spec = gym.spec(env_id)
        assert ENV_ID_RE.fullmatch(env_id) and spec.namespace == "optenv"
        trial = "Trial" in env_id
        for point, expected in (
            (spec.entry_point, optenv.TrialEnv if trial else optenv.LearningRateEnv),
            (
                spec.vector_entry_point,
                optenv.TrialVectorEnv if trial else optenv.LearningRateVectorEnv,
            ),
        ):
            module, name = str(point).split(":")
            assert getattr(importlib.import_module(module), name) is expected
        assert registration.is_trial(env_id) is trial
        settings.make(arguments)
        assert EnvSpec.from_json(spec.to_json()) == spec
        registered = {**arguments, "own_action": arguments["action"]}
        assert json.loads(spec.to_json())["kwargs"] == registered


@pytest.mark.parametrize("env_id", [*registration.ENVIRONMENTS, *registration.TRIALS])
def test_a_dict_without_a_kind_changes_fields_of_the_action_of_the_id(env_id: str) -> None:
    usual = gym.make(env_id).unwrapped.batch.action
    expected = dataclasses.replace(usual, schedule="wsd")
    for given in ({"schedule": "wsd"}, {"kind": usual.kind, "schedule": "wsd"}):
        env = gym.make(env_id, action=given)
        batch = gym.make_vec(env_id, 2, action=given)
        assert env.unwrapped.batch.action == batch.unwrapped.action == expected
    for make in (gym.make, gym.make_vec):
        with pytest.raises(
            TypeError, match=r"'scedule'; valid fields: bound, .*, schedule"
        ):
            make(env_id, action={"scedule": "wsd"})


def test_a_dict_without_a_kind_changes_fields_of_the_action_of_a_new_id() -> None:
    env_id, own = "mine/Stepping-v0", {"kind": "discrete", "multipliers": (0.5, 1.0)}
    registration.register(env_id, action=own)
    try:
        for make in (gym.make, gym.make_vec):
            env = make(env_id, action={"schedule": "wsd"}).unwrapped
            action = getattr(env, "batch", env).action
            assert action == optenv.actions.make({**own, "schedule": "wsd"})
    finally:
        del gym.registry[env_id]
    direct = optenv.LearningRateVectorEnv(action={"schedule": "wsd"})
    assert direct.action == optenv.actions.make({"kind": "continuous", "schedule": "wsd"})


@pytest.mark.parametrize("env_id", COVERING)
def test_an_id_of_a_family_runs_on_that_family(env_id: str) -> None:
    env = gym.make(env_id, **SHORT)
    steps = rollout(env, [neutral_action(env)] * 2, seed=0)
    family = FAMILIES[env_id.split("-")[1]]
    assert steps[0][1]["family"] == family and steps[0][1]["split"] == "train"
    # Numbers are those of the standard set of the id's family.
    instances = optenv.instances.make(f"{family}/train")
    most = env.unwrapped.batch.action.max_params or math.inf
    fitting = [i for i, each in enumerate(instances) if each.task.num_params <= most]
    number = fitting[3]
    _, info = env.reset(options={"instance": number})
    assert info["instance"] == f"{family}/train/{number}"


def test_specs_with_names_of_instances_make_the_same_environment_again() -> None:
    env_id = "optenv/DiscreteLearningRate-Quadratic-v0"
    chosen = {"instances": "quadratic/test", "instance_order": "draw", **SHORT}
    for make in (gym.make, gym.make_vec):
        env = make(env_id, **chosen)
        again = make(EnvSpec.from_json(env.spec.to_json()))
        actions = random_actions(env.action_space, 2)
        assert_same(rollout(again, actions, seed=1), rollout(env, actions, seed=1))


def test_specs_with_objects_say_why_they_cannot_be_written() -> None:
    chosen = optenv.instances.InstanceSet.sample("quadratic", 1)
    with pytest.raises(TypeError, match="InstanceSet is not JSON serializable"):
        gym.make("optenv/LearningRate-v0", instances=chosen).spec.to_json()
    task = tasks.MLP()
    written = gym.make("optenv/LearningRate-v0", tasks=task).spec.to_json()
    with pytest.raises(TypeError, match="not its type: give the name of a family"):
        gym.make(EnvSpec.from_json(written))


#: Seconds of CPU time that an environment may take to be made and reset.
LONGEST = 1.0


@pytest.mark.parametrize("control", registration.CONTROLS)
def test_every_id_is_made_and_reset_within_a_second(control: str) -> None:
    ids = [
        env_id
        for env_id in registration.ALL
        if env_id.split("/")[1].split("-")[0].removesuffix("Trial") == control
    ]
    for cached in (tasks.data.load_digits, tasks.images.photographs):
        cached.cache_clear()  # whichever test was first
    slow = {}
    for env_id in ids:
        begin = time.process_time()
        env = gym.make(env_id)
        env.reset(seed=0)
        env.close()
        taken = time.process_time() - begin
        if taken > LONGEST:
            slow[env_id] = taken
    assert ids
    if slow:  # on a machine that takes longer for everything, this may, too
        limit = LONGEST * slowdown()
        assert {env_id: taken for env_id, taken in slow.items() if taken > limit} == {}
