"""Open-loop arms on the same runs as a policy."""

from __future__ import annotations

import numpy as np
import open_loop
import pytest
import torch
from open_loop import Runs, compare, open_loop_returns, random_search

from agents.policy.files import load_policy
from agents.rl import factory, training
from agents.rl.presets import PRESETS
from optenv import actions
from optenv.rules import switching
from tests.helpers.policies import random_policy
from tests.helpers.small_runs import MLP

SMALL = {
    "tasks": MLP, "horizon": 6, "updates_per_step": 2, "action": {"bound": 3.0},
}  # fmt: skip
RUNS = Runs("optenv/DiscreteLearningRate-v0", SMALL, groups=3, of_each=2)
SPECS = {
    "continuous": {"kind": "continuous", "step": 1.0, "bound": 3.0},
    "discrete": {"kind": "discrete", "bound": 3.0},
    "rule": {"kind": "rule", "bound": 3.0, "multipliers": [0.5, 1.0, 2.0]},
}

every_action = pytest.mark.parametrize(
    "action", [actions.make(spec) for spec in SPECS.values()], ids=SPECS
)


def levels_of(action, schedule):
    """Return the log-multiplier after each action of a schedule."""
    level, levels = torch.full((1,), action.start), []
    for encoded in schedule:
        level = action.apply(torch.from_numpy(np.asarray(encoded)[None]), level)
        levels.append(level.item())
    return levels


@every_action
def test_a_schedule_follows_its_levels_as_closely_as_actions_can(action):
    wanted = [-1.0, -2.0, -2.0, 0.0, 2.0, 9.0, 9.0, 9.0, 9.0, 0.0]
    found = levels_of(action, open_loop.schedule_of(action, wanted))
    continuous = isinstance(action, actions.Continuous)
    reach = 1.0 if continuous else np.log(max(action.multipliers))
    position = action.start
    for level, own in zip(wanted, found, strict=True):
        assert abs(own - position) <= reach + 1e-6
        best = np.clip(level, position - reach, position + reach).clip(-3, 3)
        step = 0.0 if continuous else 0.35
        assert abs(own - best) <= step + 1e-6
        position = own


def test_a_schedule_of_rules_chooses_the_given_rules():
    action = actions.make(SPECS["rule"])
    asked = [0, 7, 3, 3]
    schedule = open_loop.schedule_of(action, [0.0] * 4, asked)
    names = [switching.NAMES[i] for i in action.choose(torch.from_numpy(schedule))]
    assert names == [switching.NAMES[i] for i in asked]
    assert levels_of(action, schedule) == [0.0] * 4


def test_shuffled_actions_are_a_permutation_at_each_step():
    taken = np.random.default_rng(0).integers(0, 7, (5, 50))
    act = open_loop.shuffled(taken, 1)
    mixed = np.stack([act(np.zeros((50, 3)), step) for step in range(5)])
    assert (np.sort(mixed, axis=1) == np.sort(taken, axis=1)).all()
    assert (mixed != taken).any()


@every_action
def test_replaying_a_schedule_gives_that_schedule(action):
    rng = np.random.default_rng(3)
    schedule = open_loop.random_schedule(action, 8, rng)
    taken = np.repeat(schedule[:, None], 5, axis=1)
    again = open_loop.replayed(action, taken)
    np.testing.assert_allclose(levels_of(action, again), levels_of(action, schedule))
    if isinstance(action, actions.RuleChoice):
        assert (again == schedule).all()


def test_all_arms_act_on_the_same_runs():
    policy = random_policy(action=SPECS["discrete"], horizon=6, spacing=1.0)
    first, second = (RUNS.returns(open_loop.learned(policy)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    fixed = open_loop.fixed(np.full(6, 3))
    keep, _ = RUNS.returns(fixed)
    assert keep.shape == (3,) and not np.array_equal(keep, first[0])
    other, _ = RUNS._replace(seed=99).returns(fixed)
    assert not np.array_equal(other, keep)


def test_the_best_constant_action_is_the_best_of_all():
    policy = random_policy(action=SPECS["discrete"], horizon=6, spacing=1.0)
    searched = open_loop.schedule_of(RUNS.action, [0.0] * 6)
    found = compare(RUNS, policy, open_loop_returns(RUNS, 6, searched))
    each = [RUNS.returns(open_loop.fixed(np.full(6, k)))[0].mean() for k in range(7)]
    assert found["best constant action"].mean() == max(each)
    np.testing.assert_array_equal(
        found["best of random schedules"],
        RUNS.returns(open_loop.fixed(searched))[0],
    )
    assert next(iter(found)) == "policy" and len(found) == 6


def test_random_search_spends_its_budget_and_returns_the_best():
    tried = []
    best = random_search(RUNS, 6, 6 * 6 * 5 + 3, seed=0, on_trial=lambda: tried.append(1))
    assert len(tried) == 5
    rng = np.random.default_rng(0)
    every = [open_loop.random_schedule(RUNS.action, 6, rng) for _ in range(5)]
    scores = [RUNS.returns(open_loop.fixed(s))[0].mean() for s in every]
    np.testing.assert_array_equal(best, every[int(np.argmax(scores))])
    with pytest.raises(ValueError, match=r"budget must be enough .* got 35"):
        random_search(RUNS, 6, 35, seed=0, on_trial=lambda: None)


def test_a_policy_that_cannot_act_on_the_runs_is_refused():
    with pytest.raises(ValueError, match=r"benchmarks/memory\.py evaluates it"):
        compare(RUNS, random_policy(memory=3), {})
    with pytest.raises(ValueError, match="the policy's action is Continuous"):
        compare(RUNS, random_policy(), {})
    with pytest.raises(ValueError, match=r"horizon is 7, that of the runs 6"):
        compare(RUNS, random_policy(action=SPECS["discrete"], horizon=7), {})
    with pytest.raises(ValueError, match=r"the action of the policy is 'hyperparameters'"):
        spec = {"kind": "hyperparameters", "bound": 3.0}
        runs = RUNS._replace(env_id="optenv/Hyperparameters-v0")
        compare(runs, random_policy(action=spec, horizon=6), {})


def test_the_action_of_runs_names_the_hyperparameters_of_their_rule():
    arguments = {**SMALL, "rule": {"name": "momentum", "momentum": 0.5}}
    runs = Runs("optenv/Hyperparameters-v0", arguments, groups=1, of_each=2)
    names = ("learning_rate", "momentum", "weight_decay", "clip", "average")
    assert runs.action.names == names
    assert runs.returns(lambda observed, _: np.zeros((2, 5)))[1].shape == (6, 2, 5)


@pytest.mark.slow
def test_an_agent_that_chooses_rules_beats_open_loop_arms(tmp_path):
    agent = "ppo-rules"
    env_id, steps = PRESETS[agent]["env_id"], 20_480
    own = {
        **factory.env_arguments(agent, env_id), "tasks": ["quadratic", "logistic"],
        "horizon": 20, "updates_per_step": 4, "spacing": 1.0, "max_work": None,
    }  # fmt: skip
    env = factory.make_env(env_id, 128, {**own, "groups": 8}, copies=4)
    overrides = {"n_steps": 20, "batch_size": 512}
    model = factory.make_model(agent, env, seed=0, overrides=overrides)
    training.learn(model, steps, tmp_path, progress=False)
    policy = load_policy(tmp_path / "policy")
    train = Runs(env_id, own, groups=8, seed=5_000)
    held_out = {**own, "tasks": ["quadratic/test", "logistic/test"]}
    test = Runs(env_id, held_out, groups=12, of_each=8, seed=10_000)
    searched = random_search(train, 20, steps, 0, lambda: None)
    found = compare(test, policy, open_loop_returns(test, 20, searched))
    for name, values in found.items():
        gain = found["policy"] - values
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        print(f"{agent} less {name}: {gain.mean():.3f} ±{1.96 * error:.3f}")
        assert name == "policy" or gain.mean() - 1.96 * error > 0
