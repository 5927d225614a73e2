"""The rule ``network``: without weights, with weights, and learned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer, load_policy
from agents.optim.kernels import update
from agents.rl.unrolled_rule import UnrolledRule
from optenv import rules
from optenv.rules.mlp import correct, hidden_units
from tests.helpers.small_runs import MLP
from tests.helpers.unrolled_runs import reset, returns

SHAPES = [(4, 3), (3,), ()]
SIZE = 16
RUNS = {
    "tasks": MLP, "horizon": 6, "updates_per_step": 3, "base_lr": (1e-3, 1e-2),
    "on_divergence": "absorb", "action": {"bound": 4.0, "step": 1.0},
}  # fmt: skip


def weights(units=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(10 * units + 2, generator=generator)).tolist()


def bound(given=None):
    spec = {"name": "network", "weights": weights()} if given is None else given
    return rules.get(spec).bind(SHAPES)


def gradients(count, runs=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, runs, SIZE, generator=generator, dtype=torch.float64)


def follow(rule, grads, params, lr=0.01, **arguments):
    state = rule.init(params)
    for grad in grads:
        rate = torch.full((len(params), 1), lr, dtype=params.dtype)
        params, state = rule.update(params, grad, state, rate, **arguments)
    return params


def test_without_weights_the_rule_is_adam():
    param = nn.Parameter(torch.ones(SIZE, dtype=torch.float64))
    adam, grads = torch.optim.Adam([param], lr=0.01), gradients(50)
    for grad in grads:
        param.grad = grad[0]
        adam.step()
    ours = follow(bound("network"), grads, torch.ones(1, SIZE, dtype=torch.float64))
    torch.testing.assert_close(ours[0], param.detach(), rtol=1e-12, atol=1e-12)


def test_a_last_layer_of_zeros_corrects_nothing():
    silent = {"name": "network", "weights": [*weights()[:32], *[0.0] * 10]}
    begin, grads = torch.ones(1, SIZE, dtype=torch.float64), gradients(20)
    expected = follow(bound("network"), grads, begin)
    torch.testing.assert_close(follow(bound(silent), grads, begin), expected)
    assert (follow(bound(), grads, begin) - expected).abs().min() > 1e-6


def test_the_network_equals_a_torch_module_with_its_weights():
    given = torch.tensor(weights(units=5))
    module = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2))
    nn.utils.vector_to_parameters(given, module.parameters())
    inputs, direction = torch.randn(3, 11, 7), torch.randn(3, 11)
    scale, offset = module(inputs).unbind(-1)
    gate = torch.rand(3, 11)
    expected = scale.exp() * direction + gate * offset
    found = correct(direction, gate, inputs.transpose(1, 2), given)
    torch.testing.assert_close(found, expected)
    assert hidden_units(len(given)) == 5


def test_parameters_without_gradients_stay():
    begin, grads = torch.ones(1, SIZE, dtype=torch.float64), gradients(20)
    grads[..., 5:7] = 0
    moved = follow(bound(), grads, begin) != begin
    assert moved.squeeze().tolist() == [i not in (5, 6) for i in range(SIZE)]
    embedding, head = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 2)
    params = [*embedding.parameters(), *head.parameters()]
    optimizer = LearnedOptimizer(params, "unrolled-rule", total_steps=60)
    before = embedding.weight.detach().clone()
    for step in range(60):
        optimizer.zero_grad()
        loss = head(embedding(torch.arange(6) % (2 + step % 4))).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    stays = (embedding.weight == before).all(1).tolist()
    assert stays == [True, *[False] * 4, *[True] * 4]


@pytest.mark.parametrize("unit", [1e-3, 1e4])
def test_the_unit_of_the_loss_does_not_matter(unit):
    begin, grads = torch.ones(1, SIZE, dtype=torch.float64), gradients(20)
    expected = follow(bound(), grads, begin)
    torch.testing.assert_close(
        follow(bound(), unit * grads, begin), expected, rtol=1e-4, atol=1e-4
    )


def test_each_run_can_have_its_own_weights():
    begin, grads = torch.ones(2, SIZE, dtype=torch.float64), gradients(10, runs=2)
    own = torch.tensor([weights(seed=0), weights(seed=1)], dtype=torch.float64)
    both = follow(bound(), grads, begin, weights=own)
    for i in range(2):
        spec = {"name": "network", "weights": own[i].tolist()}
        alone = follow(bound(spec), grads[:, i : i + 1], begin[:1])
        torch.testing.assert_close(both[i : i + 1], alone)


def test_the_kernel_equals_the_rule_with_weights():
    """Cover several chunks, and a parameter that is not contiguous."""
    shapes = [(130, 131), (3,), ()]
    spec = {"name": "network", "weights": weights()}
    rule = rules.get(spec).bind(shapes)
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    params = [made[0].t().contiguous().t(), *(p.clone() for p in made[1:])]
    flat = torch.cat([p.reshape(1, -1) for p in made], 1)
    state, states = rule.init(flat), [{} for _ in shapes]
    lr = torch.full((1, 1), 0.01, dtype=torch.float64)
    for _ in range(5):
        grads = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        update(rules.get(spec), params, grads, states, 0.01, weight_decay=0.0)
        flat, state = rule.update(
            flat, torch.cat([grad.reshape(1, -1) for grad in grads], 1), state, lr
        )
    moved = torch.cat([p.reshape(1, -1) for p in params], 1)
    torch.testing.assert_close(moved, flat, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([0.1] * 11, ValueError, "must be 10 n \\+ 2 weights of n hidden units.* got 11"),
        ([0.1, 0.2], ValueError, "or none, got 2"),
        ([float("nan")] * 12, ValueError, "weights must be finite"),
        (["0.1"] * 12, TypeError, "weights must be a list of numbers"),
        (0.1, TypeError, "weights must be a list of numbers, got 0.1"),
    ],
)
def test_weights_that_fit_no_network_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        rules.get({"name": "network", "weights": given})


def learner(**arguments):
    given = {"groups": 2, "size": 8, "segment": 3, "hidden": 4} | arguments
    return UnrolledRule(RUNS, **given)


def test_gradients_with_respect_to_weights_match_finite_differences():
    made = UnrolledRule(RUNS | {"dtype": "float64"}, groups=1, size=2, hidden=4)
    group = made.groups[0]
    begin = torch.tensor(weights(), dtype=torch.float64)
    action = torch.zeros(2, 1, dtype=torch.float64)

    def total(given):
        with torch.no_grad():
            made.weights.data = given
        reset(group)
        (rows,) = made._begin_segment(group)
        taken = [group.step(action, differentiable=True).reward for _ in range(3)]
        return torch.stack(taken).sum(0), rows

    value, rows = total(begin)
    (found,) = torch.autograd.grad(value.sum(), rows)
    for i in (0, 9, 30, 37, 40):
        away = 1e-5 * torch.eye(len(begin), dtype=torch.float64)[i]
        with torch.no_grad():
            slope = (total(begin + away)[0] - total(begin - away)[0]) / 2e-5
        # Of the parameters in their own units no derivative is taken.
        torch.testing.assert_close(found[:, i], slope, rtol=0.1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.training
def test_a_learned_rule_gets_better_and_becomes_an_optimizer(tmp_path):
    """Hold the learning rates fixed, so that the rule alone can improve."""
    made = learner(rule_lr=1e-2, meta_lr=1e-12, noise=0.0)
    before = returns(made)
    made.learn(1_200)
    gain = returns(made) - before
    assert gain.mean() > 4 * gain.std() / 8
    made.save(tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    assert policy.description["algorithm"] == "UnrolledRule"
    kept = torch.tensor(policy.rule.hyperparameters.weights)
    assert torch.equal(kept, made.weights.detach())
    model = nn.Linear(3, 1)
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=18)
    before = model.weight.detach().clone()
    for _ in range(18):
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    assert model.weight.isfinite().all() and not torch.equal(model.weight, before)


def test_another_rule_is_refused():
    with pytest.raises(ValueError, match="the rule must be 'network', got 'adam'"):
        UnrolledRule(RUNS | {"rule": "adam"})
