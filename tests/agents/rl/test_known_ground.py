"""Bandits and tabular MDPs of known difficulty, and RL² on them (Duan et al., 2016)."""

from __future__ import annotations

from functools import partial
from itertools import product

import known_ground
import numpy as np
import pytest
from known_envs import Bandits, RandomMDPs
from known_learners import (
    PSRL,
    UCB1,
    Counting,
    Planning,
    Random,
    Recurrent,
    Thompson,
    plan,
    play,
)

PROBLEMS = [partial(Bandits, pulls=10), partial(RandomMDPs, episodes=3, states=4, steps=5)]
either = pytest.mark.parametrize("problem", PROBLEMS, ids=["bandits", "MDPs"])


def near(returns, expected):
    """Return whether the mean is as expected, within four standard errors."""
    difference = returns - expected
    return abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(returns))


def walk(env, seed, trials=1):
    """Return observations, rewards and flags of ended trials for random actions."""
    rng = np.random.default_rng(0)
    env.seed(seed)
    seen = [(env.reset(), None, None)]
    for _ in range(trials * env.horizon):
        actions = rng.integers(env.actions, size=env.num_envs)
        seen.append(env.step(actions)[:3])
    observations, rewards, dones = zip(*seen, strict=True)
    return np.array(observations), np.array(rewards[1:]), np.array(dones[1:])


def test_a_random_agent_earns_the_mean_of_the_prior():
    assert near(play(Bandits(4000, 10), Random, 0), 5.0)
    assert near(play(RandomMDPs(2000, 10), Random, 0), 100.0)


def test_the_best_arm_of_five_earns_five_sixths():
    assert near(play(Bandits(4000, 10), Planning, 0), 10 * 5 / 6)


def test_the_optimum_earns_the_value_of_its_plan():
    env = RandomMDPs(1000, 3, states=4, actions=3, steps=5)
    returns = play(env, Planning, 0)
    env.seed(0)
    env.reset()
    values = np.zeros((1000, 4))
    for _ in range(5):
        values = (env.means + (env.transitions * values[:, None, None]).sum(-1)).max(-1)
    assert near(returns, 3 * values[:, 0])
    assert returns.mean() > 15 + 5  # a random agent earns 15


def test_the_plan_is_the_best_of_all_policies():
    env = RandomMDPs(5, 1, states=2, actions=2, steps=2)
    env.reset()
    found = plan(env.transitions, env.means, 2)
    for i in range(5):
        transitions, means = env.transitions[i], env.means[i]

        def value(first, second, state, transitions=transitions, means=means):
            later = sum(transitions[state, first, s] * means[s, second[s]] for s in (0, 1))
            return means[state, first] + later

        pairs = list(product((0, 1), repeat=2))
        for state in (0, 1):
            best = max(value(a, second, state) for a in (0, 1) for second in pairs)
            chosen = value(found[0, i, state], tuple(found[1, i]), state)
            assert chosen == pytest.approx(best)


@either
def test_an_instance_lasts_for_a_trial(problem):
    env = problem(6)
    env.seed(1)
    env.reset()
    met = []
    for _ in range(2):
        for _ in range(env.horizon):
            met.append((env.means.copy(), env.transitions.copy()))
            env.step(np.zeros(6, int))
    for means, transitions in met[1 : env.horizon]:
        np.testing.assert_array_equal(means, met[0][0])
        np.testing.assert_array_equal(transitions, met[0][1])
    assert not np.isclose(met[0][0], met[env.horizon][0]).any()
    assert not np.isclose(met[0][0][0], met[0][0][1]).any()  # each trial its own


@either
def test_episodes_begin_in_state_0_under_a_flag_and_trials_end_together(problem):
    env = problem(6)
    observations, _, dones = walk(env, 0, trials=2)
    times = np.arange(2 * env.horizon + 1)
    begins = times % env.steps == 0
    np.testing.assert_array_equal(observations[:, :, -1], begins[:, None].repeat(6, 1))
    assert (observations[begins, :, 0] == 1).all()
    assert (observations[:, :, : env.states].sum(-1) == 1).all()
    ends = times[1:] % env.horizon == 0
    np.testing.assert_array_equal(dones, ends[:, None].repeat(6, 1))


@either
def test_the_previous_pair_and_reward_are_observed_until_the_trial_ends(problem):
    env = problem(6)
    observations, rewards, _ = walk(env, 0, trials=2)
    first = np.arange(2 * env.horizon + 1) % env.horizon == 0
    assert (observations[first, :, env.states : -1] == 0).all()
    later = ~first[1:]  # between episodes of a trial too
    states = observations[:-1, :, : env.states].argmax(-1)
    actions = np.random.default_rng(0).integers(env.actions, size=states.shape)
    pair, earned = np.split(observations[1:, :, env.states : -1], 2, axis=2)
    expected = (states * env.actions + actions)[..., None] == np.arange(pair.shape[2])
    np.testing.assert_array_equal(pair[later], expected[later])
    expected = expected * rewards[..., None]
    np.testing.assert_array_equal(earned[later], expected[later])


def test_states_and_rewards_follow_the_tables():
    env = RandomMDPs(20_000, 1, states=3, actions=2, steps=4)
    env.seed(0)
    env.reset()
    transitions, means = env.transitions[:, 0, 1], env.means[:, 0, 1]
    observation, rewards, _, _ = env.step(np.ones(20_000, int))
    for state in range(3):
        assert near(observation[:, state], transitions[:, state])
    assert near(rewards, means) and (rewards - means).std() == pytest.approx(1, abs=0.03)
    bandits = Bandits(20_000, 2)
    bandits.seed(0)
    bandits.reset()
    chances = bandits.means[:, 0, 2]
    assert near(bandits.step(np.full(20_000, 2))[1], chances)


@either
def test_a_seed_draws_the_trial_and_its_random_outcomes(problem):
    first, again, other = (walk(problem(6), seed, trials=2) for seed in (3, 3, 4))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.array_equal(first[1], other[1])
    env = problem(6)
    env.seed(3)
    env.reset()  # other actions, the same luck
    drawn = env.reward_noise.copy(), env.transition_noise.copy(), env.means.copy()
    play(env, Random, 3)
    env.seed(3)
    env.reset()
    again = env.reward_noise, env.transition_noise, env.means
    for one, same in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(one, same)


def test_returns_are_reported_where_trials_end():
    env = RandomMDPs(4, 2, steps=3)
    total = np.zeros(4)
    env.reset()
    for _ in range(6):
        _, rewards, _, infos = env.step(np.zeros(4, int))
        total += rewards
    reported = [info["episode"]["r"] for info in infos]
    np.testing.assert_allclose(reported, total, rtol=1e-5)
    assert all("terminal_observation" in info for info in infos)


@either
def test_learners_count_visits_rewards_and_transitions(problem):
    class Watched(Counting):
        def choose(self, begins):
            return self.env.script[self.time]

    env = problem(3)
    env.script = np.random.default_rng(0).integers(env.actions, size=(env.horizon, 3))
    env.seed(0)
    observation, learner = env.reset(), Watched(env)
    visits, earned = np.zeros(learner.visits.shape), np.zeros(learner.visits.shape)
    moves = np.zeros(learner.moves.shape)
    for time in range(env.horizon):
        learner(observation)
        np.testing.assert_array_equal(learner.visits, visits)
        np.testing.assert_allclose(learner.rewards, earned, rtol=1e-5)
        np.testing.assert_array_equal(learner.moves, moves)
        before = env.state
        observation, rewards, _, _ = env.step(env.script[time])
        for i in range(3):
            where = i, before[i], env.script[time][i]
            visits[where] += 1
            earned[where] += rewards[i]
            if (time + 1) % env.steps:
                moves[(*where, env.state[i])] += 1


def test_learners_are_between_random_and_optimal():
    env = Bandits(500, 100)
    ranks = [Random, Thompson, partial(UCB1, c=0.2), Planning]
    means = [play(env, learner, 0).mean() for learner in ranks]
    assert means == sorted(means) and means[1] - means[0] > 20
    env = RandomMDPs(200, 10)
    means = [play(env, learner, 0).mean() for learner in (Random, PSRL, Planning)]
    assert means == sorted(means) and means[1] - means[0] > 25


def test_thompson_and_psrl_draw_from_the_posterior():
    env = Bandits(4000, 3, arms=2)
    env.reset()
    thompson = Thompson(env)
    thompson.visits[:, 0, 0], thompson.rewards[:, 0, 0] = 4, 3
    # P(Beta(4, 2) > U) is the mean of Beta(4, 2).
    assert near(thompson.choose(begins=False) == 0, 4 / 6)
    mdps = RandomMDPs(4000, 1, states=2, actions=1)
    mdps.reset()
    psrl = PSRL(mdps)
    psrl.visits[:, 0, 0], psrl.rewards[:, 0, 0] = 3, 9
    psrl.moves[:, 0, 0] = [1, 3]
    transitions, means = psrl.believed()
    assert near(transitions[:, 0, 0, 0], 2 / 6)
    assert near(means[:, 0, 0], (1 + 9) / 4) and near(means[:, 1, 0], 1.0)
    assert means[:, 0, 0].std() == pytest.approx(0.5, rel=0.1)


def ahead(env, model, other):
    """Return the lower end of the interval of the paired difference on new instances."""
    learner = partial(Recurrent, model=model, deterministic=True)
    seed = known_ground.REPORT_SEED
    gain = play(env, learner, seed) - play(env, other, seed)
    error = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    print(f"ahead of {other.__name__} by {gain.mean():.2f} ±{error:.2f}")
    return gain.mean() - error


def test_a_short_training_is_reported_beside_the_baselines(capsys):
    env = Bandits(8, 10)
    recipe = {**known_ground.RECIPES["bandit-10"], "timesteps": 160, "trials": 4}
    model = known_ground.train(env, recipe, seed=0)
    found = known_ground.report("bandit-10", model, 200)
    printed = capsys.readouterr().out
    assert "160 steps" in printed and "Gittins" in printed
    for name, returns in found.items():
        assert f"{name} " in printed and f"{returns.mean():.2f} ±" in printed
        assert returns.shape == (200,)


@pytest.mark.slow
@pytest.mark.training
def test_rl2_learns_to_beat_thompson_sampling():
    """Train for about 45 seconds of CPU time."""
    recipe = {**known_ground.RECIPES["bandit-10"], "timesteps": 400_000}
    model = known_ground.train(Bandits(recipe["envs"], 10), recipe, seed=0)
    assert ahead(Bandits(4000, 10), model, Thompson) > 0.5


@pytest.mark.slow
@pytest.mark.training
def test_rl2_learns_to_beat_a_random_agent_in_mdps():
    """Train for 25 seconds of CPU time, on MDPs of 3 states and 2 actions."""
    small = partial(RandomMDPs, episodes=4, states=3, actions=2, steps=5)
    recipe = {**known_ground.RECIPES["mdp-10"], "timesteps": 250_000, "hidden": 48}
    model = known_ground.train(small(recipe["envs"]), recipe, seed=0)
    assert ahead(small(4000), model, Random) > 4
