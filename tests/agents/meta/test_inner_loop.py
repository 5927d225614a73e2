"""The inner loop of meta-learners: its rules, and gradients through it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from agents import meta
from agents.meta.families.episodes import Episodes, Examples, Family
from agents.meta.inner import FixedRule, unroll
from agents.meta.learned_rates import HypergradientRule, PerParameterRule, PerStepRule
from agents.meta.meta_lstm import LstmRule, signed_log
from optenv import core, rules
from optenv.tasks.stacked import Stacked, flat
from tests.helpers.meta_tasks import DoubleSinusoids, perceptron
from tests.helpers.small_runs import module_task


class Sequences(Family):
    """Regression of sequences ``[n, 6, 4]``."""

    loss = "mse"

    def sample(self, count, rng):
        def examples(n):
            x, y = rng.normal(size=(count, n, 6, 4)), rng.normal(size=(count, n, 1))
            return Examples(*(torch.from_numpy(part.astype(np.float32)) for part in (x, y)))

        return Episodes(examples(5), examples(7))


class Head(nn.Module):
    """A linear layer on the last output of a module for sequences."""

    def __init__(self, part, size):
        super().__init__()
        self.part, self.head = part, nn.Linear(size, 1)

    def forward(self, inputs):
        outputs = self.part(inputs)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        return self.head(outputs[:, -1])


def normalised(**arguments):
    layers = nn.Flatten(), nn.Linear(24, 8), nn.BatchNorm1d(8, **arguments)
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(8, 1))


MODULES = {
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.Linear(8, 1)),
    "convolution": lambda: nn.Sequential(
        nn.Conv1d(6, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(8, 1)
    ),
    "batch statistics": lambda: normalised(track_running_stats=False),
    "running statistics": normalised,
    "LSTM": lambda: Head(nn.LSTM(4, 8, batch_first=True), 8),
    "GRU": lambda: Head(nn.GRU(4, 8, batch_first=True), 8),
    "attention": lambda: Head(
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), 4
    ),
}
LOOPS = ("running statistics", "LSTM", "GRU")


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_inner_loop_takes_the_path_of_the_environment(rule):
    task = module_task(batch_size=16)
    generators = [np.random.default_rng(seed) for seed in range(3)]
    data = task.sample(generators)
    params, steps = task.init(generators), 4
    lr = torch.full((steps, 3), 0.02)
    state = core.start(task, rules.get(rule), data, params)
    end = core.advance(task, rules.get(rule), data, state, lr).params

    def batch(step):
        rows = data.batch_rows(torch.full((3,), step), 1, task.batch_size)
        return Examples(*data.batch(rows))

    *_, last = unroll(task, FixedRule(0.02, rule), params, batch, steps)
    torch.testing.assert_close(last, end)


@pytest.mark.parametrize("name", MODULES)
def test_stacked_networks_learn_as_networks_in_a_loop(name):
    found = {}
    for vectorize in ("auto", False):
        torch.manual_seed(0)
        learner = meta.MAML(
            MODULES[name](), Sequences(), inner_steps=2, inner_lr=0.1, meta_batch=3,
            vectorize=vectorize,
        )  # fmt: skip
        stacked = vectorize == "auto" and name not in LOOPS
        assert learner.network.vectorized == stacked
        episodes = learner.family.sample(3, np.random.default_rng(0))
        (found[vectorize],) = outer_gradient(learner, episodes)
        assert learner.learn(2).dropped == 0
    assert found["auto"].norm() > 0.1
    torch.testing.assert_close(found["auto"], found[False], rtol=1e-4, atol=1e-5)


def test_running_statistics_are_not_updated():
    learner = meta.MAML(normalised(), Sequences(), meta_batch=3)
    before = {k: v.clone() for k, v in learner.network.buffers.items()}
    learner.learn(2)
    for name, value in before.items():
        assert torch.equal(value, learner.network.buffers[name])


def outer_gradient(learner, episodes):
    learner.optimizer.zero_grad()
    learner._outer_loss(episodes).backward()
    return [p.grad.clone() for p in learner.parameters]


@pytest.mark.parametrize(
    "name", ["MAML", "ANIL", "MetaSGD", "LSLR", "HypergradientLR", "LearnedRule"]
)
def test_outer_gradient_equals_finite_differences(name):
    """Against differences of the loss in double precision."""
    family = DoubleSinusoids()
    learner = meta.LEARNERS[name](
        perceptron().double(), family, inner_steps=2, inner_lr=0.05
    )
    episodes = family.sample(3, np.random.default_rng(0))
    found = outer_gradient(learner, episodes)
    rng = np.random.default_rng(0)
    for parameter, gradient in zip(learner.parameters, found, strict=True):
        for place in rng.integers(parameter.numel(), size=5):
            values = []
            for sign in (1, -1):
                parameter.data.view(-1)[place] += sign * 1e-6
                values.append(learner._outer_loss(episodes).item())
                parameter.data.view(-1)[place] -= sign * 1e-6
            slope = (values[0] - values[1]) / 2e-6
            assert float(gradient.view(-1)[place]) == pytest.approx(slope, 1e-4, 1e-7)


def test_first_order_gradient_is_taken_at_the_adapted_parameters():
    family, module = meta.Sinusoids(), perceptron()
    learner = meta.FOMAML(module, family, inner_steps=2, inner_lr=0.05)
    episodes = family.sample(3, np.random.default_rng(0))
    (found,) = outer_gradient(learner, episodes)
    expected = torch.zeros_like(found)
    for i in range(3):
        module.load_state_dict(perceptron().state_dict())
        for part, update in ((episodes.support, True),) * 2 + ((episodes.query, False),):
            module.zero_grad()
            nn.functional.mse_loss(module(part.inputs[i]), part.targets[i]).backward()
            if update:
                with torch.no_grad():
                    for p in module.parameters():
                        p -= 0.05 * p.grad
        expected += torch.cat([p.grad.flatten() for p in module.parameters()]) / 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_reptile_moves_a_share_of_the_way_to_the_trained_parameters():
    family = meta.Sinusoids(variant="reptile", shots=50)
    learner = meta.Reptile(
        perceptron(), family, inner_batch=None, meta_batch=3, meta_lr=0.4, inner_lr=0.02
    )
    episodes, before = family.sample(3, np.random.default_rng(0)), learner.initial.clone()
    ends = []
    for i in range(3):
        module = perceptron()
        sgd = torch.optim.SGD(module.parameters(), lr=0.02)
        for _ in range(5):
            sgd.zero_grad()
            x, y = episodes.support.inputs[i], episodes.support.targets[i]
            nn.functional.mse_loss(module(x), y).backward()
            sgd.step()
        ends.append(flat(module))
    learner._outer_step(episodes, 0.25)
    expected = before + 0.4 * 0.75 * (torch.stack(ends).mean(0) - before)
    torch.testing.assert_close(learner.initial, expected)


def test_reptile_trains_on_each_example_once_per_epoch():
    family = meta.Sinusoids(variant="reptile", shots=50)
    learner = meta.Reptile(perceptron(), family, inner_steps=7)
    support = family.sample(2, np.random.default_rng(0)).support
    batches = learner._batches(support)
    assert len(batches) == 7 and all(b.inputs.shape == (2, 10, 1) for b in batches)
    epoch = torch.cat([b.inputs for b in batches[:5]], dim=1)
    assert torch.equal(epoch.sort(1).values, support.inputs.sort(1).values)


def test_learned_rates_begin_as_gradient_descent():
    network, family = Stacked(perceptron(), nn.functional.mse_loss), meta.Sinusoids()
    support = family.sample(3, np.random.default_rng(0)).support
    params = flat(perceptron()).expand(3, -1)
    sizes = [math.prod(shape) for shape in network.shapes]
    paths = [
        list(unroll(network, rule, params, lambda step: support, 3))
        for rule in (
            FixedRule(0.05), PerParameterRule(sum(sizes), 0.05),
            PerStepRule(sizes, 3, 0.05), HypergradientRule(sizes, 0.05, 0.0),
        )
    ]  # fmt: skip
    for path in paths[1:]:
        torch.testing.assert_close(path, paths[0])


def test_lslr_has_a_rate_for_each_step_and_tensor():
    rule = PerStepRule([2, 3], 2, 1.0)
    with torch.no_grad():
        rule.log_rates.copy_(torch.tensor([[0.1, 0.2], [0.3, 0.4]]).log())
    ones = torch.ones(1, 5)
    for step, expected in enumerate(([0.1] * 2 + [0.2] * 3, [0.3] * 2 + [0.4] * 3)):
        new, _ = rule(torch.zeros(1, 5), ones, torch.ones(1), (), step)
        torch.testing.assert_close(-new[0], torch.tensor(expected))


def test_hypergradient_rates_follow_the_cosine_of_gradients():
    rule, params = HypergradientRule([2, 3], 0.1, 0.5), torch.zeros(1, 5)
    grads = torch.tensor([[[1.0, 0, 1, 1, 1]], [[2.0, 0, -1, -1, -1]], [[0, 1.0, 0, 0, 0]]])
    state, moves = rule.start(params), []
    for step, grad in enumerate(grads):
        new, state = rule(params, grad, torch.ones(1), state, step)
        moves.append(-new[0])
    up, down = 0.1 * math.exp(0.5), 0.1 * math.exp(-0.5)
    torch.testing.assert_close(moves[0], 0.1 * grads[0, 0])
    torch.testing.assert_close(moves[1], torch.tensor([2 * up, 0, -down, -down, -down]))
    torch.testing.assert_close(moves[2], torch.tensor([0, up, 0, 0, 0]))


def test_lstm_rule_equals_torchs_lstm_cell():
    rule, cell = LstmRule(3, hidden=6), nn.LSTMCell(4, 6)
    with torch.no_grad():
        cell.weight_ih.copy_(rule.inputs.weight)
        cell.bias_ih.copy_(rule.inputs.bias)
        cell.bias_hh.zero_()
        cell.weight_hh.copy_(rule.recurrent.weight)
    params, state, hidden = torch.randn(2, 3), rule.start(torch.zeros(2, 3)), None
    for step in range(3):
        grad, loss = torch.randn(2, 3), torch.rand(2)
        features = [signed_log(grad), signed_log(loss)[:, None].expand(2, 3, 2)]
        hidden = cell(torch.cat(features, dim=-1).flatten(0, 1), hidden)
        last_gates = state[2]
        new, state = rule(params, grad, loss, state, step)
        torch.testing.assert_close(state[0].flatten(0, 1), hidden[0])
        gate_inputs = torch.cat([state[0], params[..., None]], dim=-1)
        weight = rule.gates.weight[:, :7]
        gates = gate_inputs @ weight.T + rule.gates.bias + last_gates * rule.previous
        forget, enter = gates.sigmoid().unbind(-1)
        torch.testing.assert_close(new, forget * params - enter * grad)
        params = new


def test_signed_log_is_linear_for_small_numbers():
    found = signed_log(torch.tensor([1.0, -math.exp(-5), 0.0, math.exp(-11)]))
    expected = [[0.0, 1.0], [-0.5, -1.0], [-1.0, 0.0], [-1.0, math.exp(-1)]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_mlp_rule_begins_as_adam():
    module = perceptron()
    learner = meta.LearnedRule(module, meta.Sinusoids(), inner_lr=0.02)
    support = learner.family.sample(1, np.random.default_rng(0)).support
    adapted = learner.adapt(support.inputs[0], support.targets[0], steps=4)
    adam = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(4):
        adam.zero_grad()
        nn.functional.mse_loss(module(support.inputs[0]), support.targets[0]).backward()
        adam.step()
    for name, value in module.named_parameters():
        torch.testing.assert_close(adapted[name], value.detach(), rtol=1e-3, atol=1e-5)
