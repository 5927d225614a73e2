"""RL²: memory that lasts for an episode, without a loop over time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_envs import Bandits
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import nn

from agents.rl.group_advantage import LEAST_SPREAD
from agents.rl.rl2 import RL2, LstmPolicy, chrono_initialise

PULLS, RUNS = 4, 8


def make_model(seed=0, kind=RL2, policy=LstmPolicy, **arguments):
    return kind(
        policy, Bandits(RUNS, PULLS), n_steps=PULLS, batch_size=PULLS * RUNS // 2,
        n_epochs=2, policy_kwargs={"lstm_hidden_size": 6, "net_arch": [5]}, seed=seed,
        device="cpu", **arguments,
    )  # fmt: skip


def parameters(model):
    return torch.cat([p.detach().reshape(-1) for p in model.policy.parameters()])


def sequences(starts, length=5, width=3, hidden=4, layers=1):
    """Return features, nonzero states, flags of episode starts, and an LSTM."""
    torch.manual_seed(0)
    lstm = nn.LSTM(width, hidden, num_layers=layers)
    count = len(starts)
    features = torch.randn(count * length, width)
    states = torch.randn(layers, count, hidden), torch.randn(layers, count, hidden)
    flags = torch.zeros(count, length)
    flags[:, 0] = torch.tensor(starts)
    return features, states, flags.reshape(-1), lstm


def with_gradients(process, features, states, flags, lstm):
    """Return outputs, and a list of memory, new states and gradients by all inputs."""
    leaves = [features.clone(), *(s.clone() for s in states)]
    for leaf in leaves:
        leaf.requires_grad_()
    output, after = process(leaves[0], (leaves[1], leaves[2]), flags, lstm)
    memory = output[:, -lstm.hidden_size :]
    weights = torch.linspace(-1, 2, memory.numel()).reshape(memory.shape)
    total = (weights * memory).sum() + sum(s.square().sum() for s in after)
    gradients = torch.autograd.grad(total, [*leaves, *lstm.parameters()])
    return output, [memory, *after, *gradients]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "starts", [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], ids=str
)
def test_sequences_equal_the_loop_of_sb3_contrib(starts, layers):
    given = sequences(starts, layers=layers)
    output, ours = with_gradients(LstmPolicy._process_sequence, *given)
    _, stock = with_gradients(RecurrentActorCriticPolicy._process_sequence, *given)
    for mine, theirs in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output[:, :3], given[0])  # the shortcut


def test_only_sequences_that_start_an_episode_reset_their_state():
    features, states, flags, lstm = sequences([1.0, 0.0], length=1)
    _, (hidden, _) = LstmPolicy._process_sequence(features, states, flags, lstm)
    other = tuple(s + 1.0 for s in states)
    _, (changed, _) = LstmPolicy._process_sequence(features, other, flags, lstm)
    torch.testing.assert_close(hidden[:, 0], changed[:, 0], rtol=0, atol=0)
    assert (hidden[:, 1] - changed[:, 1]).abs().max() > 1e-2
    blank = tuple(torch.zeros_like(s[:, :1]) for s in states)
    _, (fresh, _) = lstm(features[None, :1], blank)
    torch.testing.assert_close(hidden[:, 0], fresh[:, 0])


def collected(model, timesteps):
    """Return the last rollout, before it is shuffled for an update."""
    model.train = lambda: None
    model.learn(timesteps)
    return model.rollout_buffer


def test_memory_is_reset_in_a_rollout_where_a_trial_begins():
    model = make_model()
    model.n_steps = 2 * PULLS  # two trials
    model._setup_model()
    buffer = collected(model, 2 * PULLS * RUNS)
    assert (
        buffer.episode_starts[[0, PULLS]].all() and buffer.episode_starts.sum() == 2 * RUNS
    )
    policy = model.policy
    values, sampled = torch.tensor(buffer.values), torch.tensor(buffer.log_probs)
    for trial in (slice(0, PULLS), slice(PULLS, 2 * PULLS)):
        zero = torch.zeros(1, RUNS, 6)
        observations = torch.tensor(buffer.observations[trial]).swapaxes(0, 1)
        actions = torch.tensor(buffer.actions[trial]).swapaxes(0, 1).reshape(-1)
        flags = torch.zeros(RUNS, PULLS)
        states = type("States", (), {"pi": (zero, zero), "vf": (zero, zero)})
        with torch.no_grad():
            found, likely, _ = policy.evaluate_actions(
                observations.reshape(RUNS * PULLS, -1), actions, states, flags.reshape(-1)
            )
        torch.testing.assert_close(found.reshape(RUNS, PULLS).T, values[trial])
        torch.testing.assert_close(likely.reshape(RUNS, PULLS).T, sampled[trial])


def test_batches_reproduce_values_and_probabilities_of_the_rollout():
    """Values are recomputed from sequences that are cut and padded."""
    model = make_model()
    buffer = collected(model, PULLS * RUNS)
    seen = 0
    for batch in buffer.get(10):  # not a multiple of a trial
        with torch.no_grad():
            values, likely, _ = model.policy.evaluate_actions(
                batch.observations, batch.actions.long().flatten(), batch.lstm_states,
                batch.episode_starts,
            )  # fmt: skip
        mask = batch.mask > 0
        torch.testing.assert_close(likely[mask], batch.old_log_prob[mask])
        torch.testing.assert_close(values.flatten()[mask], batch.old_values[mask])
        seen += int(mask.sum())
    assert seen == PULLS * RUNS


def test_updates_equal_those_of_the_loop_of_sb3_contrib():
    class Looped(LstmPolicy):
        @staticmethod
        def _process_sequence(features, lstm_states, episode_starts, lstm):
            output, state = RecurrentActorCriticPolicy._process_sequence(
                features, lstm_states, episode_starts, lstm
            )
            return torch.cat([features, output], dim=1), state

    start, length = parameters(make_model()), 3 * PULLS * RUNS
    ours = make_model().learn(length)
    stock = make_model(kind=RecurrentPPO, policy=Looped).learn(length)
    torch.testing.assert_close(parameters(ours), parameters(stock), rtol=1e-3, atol=1e-5)
    assert (parameters(ours) - start).abs().max() > 1e-3


def test_trainings_with_one_seed_are_equal():
    first, second, other = (make_model(seed).learn(64) for seed in (0, 0, 1))
    assert torch.equal(parameters(first), parameters(second))
    assert not torch.allclose(parameters(first), parameters(other))


@pytest.mark.parametrize("group", [None, 4])
def test_a_saved_model_continues_as_the_original(tmp_path, group):
    model = make_model(group=group).learn(2 * PULLS * RUNS)
    model.save(tmp_path / "model")
    loaded = RL2.load(tmp_path / "model", env=Bandits(RUNS, PULLS), device="cpu")
    assert loaded.group == group and type(loaded.policy) is LstmPolicy
    assert type(loaded.rollout_buffer) is type(model.rollout_buffer)
    assert torch.equal(parameters(loaded), parameters(model))
    for resumed in (model, loaded):  # from here on with the same random numbers
        resumed.set_random_seed(5)
        resumed.learn(PULLS * RUNS)
    assert torch.equal(parameters(loaded), parameters(model))
    assert loaded.num_timesteps == model.num_timesteps == PULLS * RUNS


def test_rewards_are_divided_by_the_standard_deviation_of_their_group():
    plain = collected(make_model(), PULLS * RUNS)
    scaled = collected(make_model(group=4, gamma=1.0, gae_lambda=1.0), PULLS * RUNS)
    np.testing.assert_array_equal(plain.actions, scaled.actions)
    for group in (slice(0, 4), slice(4, 8)):
        rewards = plain.rewards[:, group]
        unit = rewards.sum(0).std() + LEAST_SPREAD
        np.testing.assert_allclose(scaled.rewards[:, group], rewards / unit, rtol=1e-5)
    assert not np.allclose(plain.rewards, scaled.rewards)
    # Returns are computed from the scaled rewards
    expected = scaled.rewards[::-1].cumsum(0)[::-1]
    np.testing.assert_allclose(scaled.returns, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group", [3, 1])
def test_groups_that_do_not_divide_the_runs_are_refused(group):
    with pytest.raises(ValueError, match=rf"num_envs \(8\), got {group}"):
        make_model(group=group)


def test_initial_memories_last_up_to_the_given_steps():
    lstm = nn.LSTM(3, 200, num_layers=2)
    chrono_initialise(lstm, 100)
    for layer in range(2):
        both = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        shut, kept = both.detach()[:200], both.detach()[200:400]
        lasting = 1 / (1 - torch.sigmoid(kept)) - 1  # steps
        assert 1 <= lasting.min() < 10 and 90 < lasting.max() <= 99
        torch.testing.assert_close(shut, -kept)
        others = getattr(lstm, f"bias_ih_l{layer}").detach()[400:]
        assert 0 < others.abs().max() < 200**-0.5  # as torch draws them


def test_a_policy_starts_with_memories_of_the_given_length(tmp_path):
    given = {"lstm_hidden_size": 6, "memory": 50}
    arguments = {"n_steps": PULLS, "batch_size": PULLS, "seed": 0, "device": "cpu"}
    model = RL2(LstmPolicy, Bandits(RUNS, PULLS), policy_kwargs=given, **arguments)
    for lstm in (model.policy.lstm_actor, model.policy.lstm_critic):
        assert (lstm.bias_ih_l0[6:12] >= 0).all() and not lstm.bias_hh_l0[:12].any()
    model.save(tmp_path / "model")
    loaded = RL2.load(tmp_path / "model", device="cpu")
    assert torch.equal(parameters(loaded), parameters(model))
    with pytest.raises(ValueError, match="at least 3 steps, got 2"):
        given["memory"] = 2
        RL2(LstmPolicy, Bandits(RUNS, PULLS), policy_kwargs=given, **arguments)
