"""Batched control problems move as Gymnasium's do."""

from __future__ import annotations

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from optenv.tasks.dynamics import SYSTEMS, CartPole, Pendulum, Reaching

CONSTANTS = [(0.5, 0.1, 1.0), (0.3, 0.25, 0.6), (1.2, 0.8, 2.0)]


def test_cart_poles_equal_gymnasiums_step_by_step() -> None:
    system, rng = CartPole(), np.random.default_rng(0)
    noise = torch.from_numpy(rng.standard_normal((3, 4, 4)))
    state = system.start(noise)
    constants = torch.tensor(CONSTANTS, dtype=torch.float64).unsqueeze(1).expand(-1, 4, -1)
    actions = torch.from_numpy(rng.integers(2, size=(60, 3, 4, 1)))
    states, rewards = [state], []
    for action in actions:
        state, reward = system.step(state, action, constants)
        states.append(state)
        rewards.append(reward)
    lengths = []
    for run, episode in itertools.product(range(3), range(4)):
        env = gym.make("CartPole-v1").unwrapped
        env.reset(seed=0)
        half, pole, cart = CONSTANTS[run]
        env.length, env.masspole, env.masscart = half, pole, cart
        env.total_mass, env.polemass_length = pole + cart, pole * half
        env.state = states[0][run, episode, :4].numpy()
        terminated = False
        for step in range(60):
            if terminated:  # a reward of 0, and the state of the end
                assert rewards[step][run, episode] == 0
                assert system.lasts(states[step])[run, episode] == 0
                assert torch.equal(states[step][run, episode], states[-1][run, episode])
                continue
            _, reward, terminated, *_ = env.step(int(actions[step, run, episode, 0]))
            assert rewards[step][run, episode] == reward == 1.0
            ours = system.observe(states[step + 1])[run, episode].numpy()
            np.testing.assert_allclose(ours, env.state, rtol=1e-12, atol=1e-12)
        lengths.append(sum(reward[run, episode].item() for reward in rewards))
    assert min(lengths) < 30 and len(set(lengths)) > 4


def test_carts_start_as_gymnasiums() -> None:
    noise = torch.randn(2000, 5, 4, generator=torch.Generator().manual_seed(0))
    state = CartPole().start(noise)
    numbers = CartPole().observe(state)
    assert numbers.abs().max() <= 0.05
    assert numbers.std() == pytest.approx(0.1 / math.sqrt(12), rel=0.02)
    assert (CartPole().lasts(state) == 1).all()


def test_pendulums_equal_gymnasiums_step_by_step() -> None:
    system, rng = Pendulum(), np.random.default_rng(0)
    pairs = [(1.0, 1.0), (0.6, 1.4)]
    constants = torch.tensor(pairs, dtype=torch.float64).unsqueeze(1)
    start = system.start(torch.from_numpy(rng.standard_normal((2, 1, 2))))
    actions = rng.uniform(-1.5, 1.5, (80, 2, 1, 1))
    for run, (mass, length) in enumerate(pairs):
        env = gym.make("Pendulum-v1").unwrapped
        env.reset(seed=0)
        env.m, env.l = mass, length
        env.state, state = start[run, 0].numpy(), start
        for action in actions:
            observation, reward, *_ = env.step(2.0 * action[run, 0])
            state, ours = system.step(state, torch.from_numpy(action), constants)
            np.testing.assert_allclose(state[run, 0], env.state, rtol=1e-10, atol=1e-10)
            assert 4 * ours[run, 0].item() == pytest.approx(reward, rel=1e-9)
            seen = system.observe(state)[run, 0].numpy()
            np.testing.assert_allclose(seen, observation, rtol=1e-5, atol=1e-5)


def test_a_constant_force_moves_a_mass_as_in_the_closed_form() -> None:
    system = Reaching()
    noise = torch.randn(2, 3, 4, dtype=torch.float64)
    mass, friction = 2.0, 0.0
    constants = torch.tensor([mass, friction], dtype=torch.float64).expand(2, 3, 2)
    force = torch.tensor([1.0, -0.5], dtype=torch.float64).expand(2, 3, 2)
    start = state = system.start(noise)
    for step in range(1, 11):
        state, reward = system.step(state, force, constants)
        speed = step * 0.1 * force / mass
        place = start[..., :2] + 0.01 * force / mass * step * (step + 1) / 2
        torch.testing.assert_close(state[..., 2:4], speed)
        torch.testing.assert_close(state[..., :2], place)
        distance = (place - start[..., 4:]).square().sum(-1)
        torch.testing.assert_close(reward, -distance - 0.01 * 1.25)
    seen = system.observe(state)
    torch.testing.assert_close(seen[..., :2], start[..., 4:] - place)
    # Friction slows: without a force, the speed falls by a fixed factor.
    slowed, _ = system.step(state, 0 * force, constants + torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(slowed[..., 2:4], 0.975 * state[..., 2:4])


@pytest.mark.parametrize("name", SYSTEMS)
def test_physical_constants_of_the_splits_do_not_overlap(name: str) -> None:
    ranges = SYSTEMS[name].ranges
    assert set(ranges) == {"train", "test", "ood"}
    for index in range(len(SYSTEMS[name].constants)):
        pairs = sorted(bounds[index] for bounds in ranges.values())
        assert all(0 < low < high for low, high in pairs)
        for (_, high), (low, _) in itertools.pairwise(pairs):
            assert high <= low


@pytest.mark.parametrize("name", SYSTEMS)
def test_states_and_observations_have_the_sizes_that_a_system_says(name: str) -> None:
    system = SYSTEMS[name]
    state = system.start(torch.randn(2, 3, system.start_size))
    constants = torch.ones(2, 3, len(system.constants))
    after, reward = system.step(state, torch.zeros(2, 3, system.action_size), constants)
    assert after.shape == state.shape and reward.shape == (2, 3)
    assert system.observe(state).shape == (2, 3, system.observation_size)
    assert system.lasts(state).shape == (2, 3)
