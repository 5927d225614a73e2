"""Kernels on lists of parameters equal the batched rules, on any parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agents import LearnedOptimizer
from agents.optim.kernels import FUSED, update
from agents.optim.kernels.base import DEFAULT, KernelOptions
from optenv import rules
from tests.helpers.loops import STEPS
from tests.helpers.policies import random_policy
from tests.helpers.small_runs import RULE_NAMES
from tests.helpers.torch_reference import REFERENCES

SHAPES = [(4, 3), (3,), (4, 3), (2, 2, 3, 3), ()]
every_rule = pytest.mark.parametrize("name", RULE_NAMES)


def gradient(shape: tuple[int, ...], t: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * t + len(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def step(
    name: str,
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    options: KernelOptions = DEFAULT,
) -> None:
    rule = rules.get(name)
    update(rule, params, grads, states, 0.01, weight_decay=0.0, options=options)


def end(name: str, dtype: torch.dtype) -> Tensor:
    """Return a parameter of a dtype after thirty steps."""
    param, state = torch.ones(6, 2, dtype=dtype), dict[str, Any]()
    for t in range(30):
        step(name, [param], [gradient((6, 2), t).to(dtype)], [state])
    return param


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(
            (name, KernelOptions(foreach))
            for name in RULE_NAMES
            for foreach in (None, True, False)
        ),
        *((name, KernelOptions(fused=True)) for name in FUSED),
    ],
)
def test_a_kernel_equals_the_batched_rule_for_each_parameter(
    name: str, options: KernelOptions
) -> None:
    params = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
    alone = [torch.zeros(1, p.numel(), dtype=torch.float64) for p in params]
    states: list[dict[str, Any]] = [{} for _ in SHAPES]
    bound = [rules.get(name).bind([shape]) for shape in SHAPES]
    kept = [rule.init(own) for rule, own in zip(bound, alone, strict=True)]
    lr = torch.full((1, 1), 0.01, dtype=torch.float64)
    for t in range(100):
        taking = [i for i in range(len(SHAPES)) if i != 2 or t >= 50]  # one joins late
        grads = [gradient(SHAPES[i], t) for i in taking]
        step(name, [params[i] for i in taking], grads, [states[i] for i in taking], options)
        for i, grad in zip(taking, grads, strict=True):
            assert grad.equal(gradient(SHAPES[i], t)), "a gradient is its owner's"
            row = grad.reshape(1, -1)
            alone[i], kept[i] = bound[i].update(alone[i], row, kept[i], lr)
    for param, own in zip(params, alone, strict=True):
        assert param.abs().max() > 1e-3
        torch.testing.assert_close(param.reshape(1, -1), own, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", REFERENCES)
def test_state_entries_have_the_names_and_shapes_of_the_reference(name: str) -> None:
    param, state = nn.Parameter(torch.ones(3, 2)), dict[str, Any]()
    optimizer = REFERENCES[name]([param], 0.01)
    param.grad = torch.ones(3, 2)
    optimizer.step()
    step(name, [torch.ones(3, 2)], [param.grad], [state])
    theirs = optimizer.state_dict()["state"].get(0, {})
    shapes = {key: value.shape for key, value in theirs.items() if value is not None}
    assert {key: value.shape for key, value in state.items()} == shapes
    for key, value in state.items():
        torch.testing.assert_close(value, theirs[key])


@every_rule
def test_complex_parameters_move_as_their_two_real_parts(name: str) -> None:
    complex_, real = torch.zeros(6, dtype=torch.complex64), torch.zeros(12)
    states: tuple[dict, dict] = ({}, {})
    for t in range(5):
        grad = gradient((12,), t).float()
        step(name, [complex_], [torch.view_as_complex(grad.view(6, 2))], [states[0]])
        step(name, [real], [grad], [states[1]])
    torch.testing.assert_close(torch.view_as_real(complex_).flatten(), real)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_single(name: str, dtype: torch.dtype) -> None:
    half, single = end(name, dtype), end(name, torch.float32)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), single, rtol=0.1, atol=0.05)


@every_rule
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_makes_its_parameter_non_finite(
    name: str, bad: float
) -> None:
    params, states = [torch.ones(3), torch.ones(3)], [{}, {}]
    for _ in range(2):
        step(name, params, [torch.tensor([1.0, bad, 1.0]), torch.ones(3)], states)
    assert params[0].isfinite().tolist() == [True, False, True]
    assert params[1].isfinite().all()


@every_rule
def test_parameters_in_groups_move_as_in_one(name: str) -> None:
    ends = []
    for split in (False, True):
        params = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
        groups = [{"params": params[:2]}, {"params": params[2:]}] if split else params
        optimizer = LearnedOptimizer(groups, random_policy(name), total_steps=STEPS)
        for t in range(STEPS):
            for p in params:
                p.grad = p.detach() + gradient(tuple(p.shape), t).float()
            optimizer.step()
        ends.append([p.detach() for p in params])
    assert not torch.allclose(ends[0][0], torch.ones(SHAPES[0]), rtol=1e-4)
    for together, apart in zip(*ends, strict=True):
        torch.testing.assert_close(together, apart)


def test_counters_stay_on_the_cpu_when_they_are_loaded() -> None:
    states = []
    for device in ("cpu", "meta"):
        p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16, device=device))
        optimizer = LearnedOptimizer([p], random_policy("nadam"), total_steps=STEPS)
        if device == "cpu":
            p.grad = torch.ones_like(p)
            optimizer.step()
            saved = optimizer.state_dict()
        else:
            optimizer.load_state_dict(saved)
        states.append(optimizer.state[p])
    for key in ("step", "mu_product"):
        assert states[1][key].device.type == "cpu"
        assert torch.equal(states[0][key], states[1][key])
        assert states[0][key].dtype == states[1][key].dtype == torch.float32
    assert states[1]["exp_avg"].device.type == "meta"
