"""Update rules on batches of runs: equal to their references, pure, and differentiable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optenv import rules
from tests.helpers.small_runs import RULE_NAMES, assert_identical, clone
from tests.helpers.torch_reference import REFERENCES, Lion, default_dtype

RUNS, SIZE, UPDATES = 5, 7, 100

every_reference = pytest.mark.parametrize("name", REFERENCES)
every_rule = pytest.mark.parametrize("name", RULE_NAMES)

#: Shapes of the parameters, for shaped rules: a matrix and a vector.
SHAPES = ((2, 2), (3,))
assert sum(torch.Size(shape).numel() for shape in SHAPES) == SIZE


def gradient(params: Tensor, noise: Tensor) -> Tensor:
    """Return a gradient that depends on the parameters, of very different sizes."""
    return torch.tanh(params) * 10.0 ** torch.arange(-6, 1).to(params.dtype) + noise


def learning_rates(dtype: torch.dtype) -> Tensor:
    return torch.logspace(-4, -1, RUNS, dtype=dtype)


def noise_of(update: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(update)
    noise = torch.randn(RUNS, SIZE, generator=generator, dtype=torch.float64)
    return (0.1 * noise).to(dtype)


def start_params(dtype: torch.dtype) -> Tensor:
    return 10 * noise_of(10_000, dtype)


@every_reference
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_rule_equals_its_reference(name: str, dtype: torch.dtype, rtol: float) -> None:
    rule, lr = rules.get(name), learning_rates(dtype)
    ours = start_params(dtype)
    state = rule.init(ours)
    theirs = [torch.nn.Parameter(row.clone()) for row in ours]
    optimizers = [
        REFERENCES[name]([param], rate.item())
        for param, rate in zip(theirs, lr, strict=True)
    ]
    for update in range(UPDATES):
        noise = noise_of(update, dtype)
        ours, state = rule.update(ours, gradient(ours, noise), state, lr.unsqueeze(1))
        for i, (param, optimizer) in enumerate(zip(theirs, optimizers, strict=True)):
            param.grad = gradient(param.detach(), noise[i])
            with default_dtype(dtype):
                optimizer.step()
        torch.testing.assert_close(
            ours, torch.stack([p.detach() for p in theirs]), rtol=rtol, atol=rtol
        )
    moved = (ours - start_params(dtype)).norm(dim=1)
    assert moved.min() > 100 * rtol, "nothing was tested"


def test_hyperparameters_mean_the_same_as_in_the_reference() -> None:
    param = torch.nn.Parameter(start_params(torch.float64).clone())
    specs: list[tuple[dict[str, Any], torch.optim.Optimizer]] = [
        (
            {"name": "momentum", "momentum": 0.5},
            torch.optim.SGD([param], 0.1, momentum=0.5),
        ),
        (
            {"name": "rmsprop", "alpha": 0.9, "eps": 1e-3},
            torch.optim.RMSprop([param], 0.1, alpha=0.9, eps=1e-3),
        ),
        (
            {"name": "nesterov", "momentum": 0.5},
            torch.optim.SGD([param], 0.1, momentum=0.5, nesterov=True),
        ),
        (
            {"name": "adam", "beta1": 0.8, "beta2": 0.99, "eps": 1e-4},
            torch.optim.Adam([param], 0.1, betas=(0.8, 0.99), eps=1e-4),
        ),
        (
            {"name": "nadam", "beta1": 0.8, "eps": 1e-4, "momentum_decay": 1.5},
            torch.optim.NAdam([param], 0.1, (0.8, 0.999), 1e-4, momentum_decay=1.5),
        ),
        (
            {"name": "lion", "beta1": 0.8, "beta2": 0.999},
            Lion([param], 0.1, (0.8, 0.999)),
        ),
    ]
    for spec, optimizer in specs:
        rule = rules.get(spec)
        assert rule.to_spec() == spec
        assert rules.get(rule.to_spec()) is not rules.get(rule.name)
        ours = param.detach().clone()
        state, lr = rule.init(ours), torch.full((RUNS, 1), 0.1, dtype=torch.float64)
        for update in range(20):
            noise = noise_of(update, torch.float64)
            ours, state = rule.update(ours, gradient(ours, noise), state, lr)
            param.grad = gradient(param.detach(), noise)
            with default_dtype(torch.float64):
                optimizer.step()
        torch.testing.assert_close(ours, param.detach(), rtol=1e-12, atol=1e-12)


@every_reference
def test_a_learning_rate_may_change_between_updates(name: str) -> None:
    rule, ours = rules.get(name), start_params(torch.float64)
    state = rule.init(ours)
    param = torch.nn.Parameter(ours.clone())
    optimizer = REFERENCES[name]([param], 1.0)
    for update, rate in enumerate((1e-2, 1e-1, 0.0, 1e-3)):
        noise = noise_of(update, torch.float64)
        lr = torch.full((RUNS, 1), rate, dtype=torch.float64)
        ours, state = rule.update(ours, gradient(ours, noise), state, lr)
        optimizer.param_groups[0]["lr"] = rate
        param.grad = gradient(param.detach(), noise)
        with default_dtype(torch.float64):
            optimizer.step()
        torch.testing.assert_close(ours, param.detach(), rtol=1e-12, atol=1e-12)


@every_rule
def test_an_update_changes_none_of_its_arguments(name: str) -> None:
    rule, params = rules.get(name).bind(SHAPES), start_params(torch.float64)
    lr = learning_rates(torch.float64).unsqueeze(1)
    state = rule.init(params)
    for update in range(3):
        arguments = (params, noise_of(update, torch.float64), state, lr)
        before = clone(arguments)
        params, state = rule.update(*arguments)
        assert_identical(arguments, before)


@every_rule
def test_an_update_in_place_equals_the_update(name: str) -> None:
    rule, params = rules.get(name).bind(SHAPES), start_params(torch.float64)
    lr = learning_rates(torch.float64).unsqueeze(1)
    state, own = rule.init(params), params.clone()
    kept = rule.init(own)
    for update in range(10):
        grad = noise_of(update, torch.float64)
        params, state = rule.update(params, grad, state, lr)
        moved, kept = rule.update(own, grad, kept, lr, inplace=True)
        assert moved is own
        assert grad.equal(noise_of(update, torch.float64))
        torch.testing.assert_close((own, *kept), (params, *state), rtol=1e-13, atol=1e-15)


@every_rule
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_makes_its_parameters_non_finite(
    name: str, inplace: bool, bad: float
) -> None:
    rule, params = rules.get(name).bind(SHAPES), start_params(torch.float64)
    lr, state = learning_rates(torch.float64).unsqueeze(1), rule.init(params)
    grad = noise_of(0, torch.float64)
    grad[1, 5] = bad
    for _ in range(2):
        params, state = rule.update(params, grad, state, lr, inplace)
    assert not params[1, 5].isfinite()
    assert params[2:].isfinite().all()


@every_rule
def test_runs_of_a_batch_are_independent(name: str) -> None:
    rule, params = rules.get(name).bind(SHAPES), start_params(torch.float64)
    lr, state = learning_rates(torch.float64).unsqueeze(1), rule.init(params)
    for update in range(3):
        grad = noise_of(update, torch.float64)
        alone, _ = rule.update(
            params[1:2], grad[1:2], tuple(part[1:2] for part in state), lr[1:2]
        )
        grad[0] = float("nan")
        params, state = rule.update(params, grad, state, lr)
        torch.testing.assert_close(params[1:2], alone, rtol=1e-14, atol=0)
        assert params[1:].isfinite().all()


@every_rule
def test_derivatives_are_finite_where_the_gradient_is_zero(
    name: str,
) -> None:
    rule, params = (
        rules.get(name).bind(SHAPES),
        start_params(torch.float64).requires_grad_(),
    )
    grad = (0.0 * params).requires_grad_()
    lr = learning_rates(torch.float64).unsqueeze(1).requires_grad_()
    moved, state = params, rule.init(params)
    for _ in range(3):
        moved, state = rule.update(moved, grad, state, lr)
    for derivative in torch.autograd.grad(moved.sum(), (params, lr)):
        assert derivative.isfinite().all()


def test_every_rule_but_two_has_a_reference_and_a_usual_learning_rate() -> None:
    assert set(rules.RULES) == {*REFERENCES, "orthogonal-adam", "network"}
    for name, rule in rules.RULES.items():
        assert rule.name == name
        assert 1e-4 <= rule.default_lr <= 1
