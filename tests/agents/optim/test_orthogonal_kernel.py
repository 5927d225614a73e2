"""Kernel of orthogonal Adam, and the rule as an optimizer without a policy."""

from __future__ import annotations

import copy
import importlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.evaluation.arms.optimizers import OrthogonalAdam
from agents.optim.kernels import update
from agents.optim.kernels.base import KernelOptions
from optenv import rules

SPEC: dict[str, Any] = {"name": "orthogonal-adam", "beta1": 0.8, "beta2": 0.9}


def kernel_step(
    params: list[Tensor], states: list[dict], foreach: bool | None, **more: float
) -> None:
    rule, grads = rules.get({**SPEC, **more}), [p.grad for p in params]
    update(
        rule, params, grads, states, 0.01, weight_decay=0.0, options=KernelOptions(foreach)
    )


def gradients(shapes: list[tuple[int, ...]], dtype: torch.dtype, t: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(t)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def end(
    foreach: bool | None,
    dtype: torch.dtype = torch.float32,
    skip: int = -1,
    steps: int = 10,
    **more: float,
) -> Any:
    """Return parameters after some steps; that of index ``skip`` joins at the sixth."""
    shapes = [(4, 3), (3,), (4, 3), (2, 2, 3, 3), (3, 4)]
    params = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    params[3] = params[3].contiguous(memory_format=torch.channels_last)
    states: list[dict] = [{} for _ in params]
    for t in range(steps):
        for param, grad in zip(params, gradients(shapes, dtype, t), strict=True):
            param.grad = torch.empty_like(param).copy_(grad)
        taking = [i for i in range(len(params)) if i != skip or t >= 5]
        own = [params[i] for i in taking], [states[i] for i in taking]
        kernel_step(*own, foreach, **more)
    return params


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("skip", [-1, 2])
@pytest.mark.parametrize(("power", "refresh"), [(0.0, 1), (0.8, 1), (0.8, 4)])
def test_the_kernel_equals_the_batched_rule_for_each_parameter(
    foreach: bool | None, skip: int, power: float, refresh: int
) -> None:
    shapes = [(4, 3), (3,), (4, 3), (2, 2, 3, 3), (3, 4)]
    ends = end(foreach, skip=skip, steps=23, power=power, refresh=refresh)
    for i, (found, shape) in enumerate(zip(ends, shapes, strict=True)):
        spec = {**SPEC, "power": power, "refresh": refresh}
        rule = rules.get(spec).bind([shape])
        ours = torch.zeros(1, math.prod(shape))
        state = rule.init(ours)
        for t in range(5 if i == skip else 0, 23):
            grad = gradients(shapes, torch.float32, t)[i].reshape(1, -1)
            ours, state = rule.update(ours, grad, state, torch.full((1, 1), 0.01))
        torch.testing.assert_close(found.reshape(1, -1), ours, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("foreach", [None, True, False])
def test_vectors_and_complex_parameters_need_no_factors(foreach: bool | None) -> None:
    params = [torch.zeros(3), torch.zeros(2, 3, dtype=torch.complex64)]
    states: list[dict] = [{}, {}]
    for p, state in zip(params, states, strict=True):
        p.grad = torch.ones_like(p)
        kernel_step([p], [state], foreach, refresh=4)
        assert "factors" not in state and p.abs().min() > 0


def test_matrices_of_both_precisions_can_keep_factors_together() -> None:
    params = [torch.zeros(4, 6, dtype=dtype) for dtype in (torch.float32, torch.float64)]
    states: list[dict] = [{}, {}]
    for t in range(14):
        grad = gradients([(4, 6)], torch.float32, t)[0]
        for p in params:
            p.grad = grad.to(p.dtype)
        kernel_step(params, states, True, refresh=4)
    torch.testing.assert_close(params[0].double(), params[1], rtol=1e-3, atol=1e-5)


def test_a_strip_that_was_zero_leaves_the_others_as_they_are() -> None:
    param, state = torch.zeros(128, 128), dict[str, Any]()
    for t in range(16):
        param.grad = torch.randn(128, 128, generator=torch.Generator().manual_seed(t))
        param.grad[:64] *= t >= 12  # factors are of the tenth update
        before = param.clone()
        kernel_step([param], [state], None, refresh=100)
    moved = (param - before).norm(dim=1)
    assert moved[64:].mean() > 0.5 * moved[:64].mean() > 0


def test_factors_do_not_outlast_a_time_without_them() -> None:
    param, state = torch.zeros(4, 6), dict[str, Any]()
    for refresh in (4, 1):
        param.grad = torch.ones(4, 6)
        kernel_step([param], [state], None, refresh=refresh)
        assert ("factors" in state) == (refresh == 4)


def test_factors_that_are_lost_are_computed_anew() -> None:
    shape, dtype = (70, 80), torch.float32
    ends = []
    for lost in (False, True):
        param, state = torch.zeros(shape), dict[str, Any]()
        for t in range(14):
            param.grad = gradients([shape], dtype, t)[0]
            if lost and t == 12:
                assert state.pop("factors").shape == (2, 40, 40)
            kernel_step([param], [state], None, refresh=12)
        ends.append(param)
    assert not torch.equal(*ends)
    torch.testing.assert_close(*ends, rtol=0, atol=0.02)


def test_factors_take_no_more_space_in_a_file_than_their_numbers(tmp_path) -> None:
    shapes = [(60, 64)] * 8
    params, states = [torch.zeros(shape) for shape in shapes], [{} for _ in shapes]
    for param, grad in zip(params, gradients(shapes, torch.float32, 0), strict=True):
        param.grad = grad
    kernel_step(params, states, None, refresh=4)
    torch.save(states[0]["factors"], tmp_path / "factors.pt")
    assert (tmp_path / "factors.pt").stat().st_size < 4 * 60 * 60 + 4096


def test_one_parameter_at_a_time_gives_the_same() -> None:
    for together, apart in zip(end(None), end(False), strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-7)


def test_half_precision_follows_single() -> None:
    for half, single in zip(end(None, torch.bfloat16), end(None), strict=True):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), single, rtol=0.1, atol=0.01)


def test_complex_parameters_move_as_their_two_real_parts() -> None:
    complex_, real = torch.zeros(3, 2, dtype=torch.complex64), torch.zeros(12)
    states: tuple[dict, dict] = ({}, {})
    for t in range(5):
        real.grad = gradients([(12,)], torch.float32, t)[0]
        complex_.grad = torch.view_as_complex(real.grad.view(3, 2, 2))
        kernel_step([complex_], [states[0]], None)
        kernel_step([real], [states[1]], None)
    torch.testing.assert_close(torch.view_as_real(complex_).flatten(), real)


def test_stacked_matrices_are_updated_like_single_ones(monkeypatch) -> None:
    expected = end(None)
    stacks = importlib.import_module("agents.optim.kernels.orthogonal_stacks")
    monkeypatch.setattr(stacks, "STACK_NUMEL", 1)
    for found, alone in zip(expected, end(None), strict=True):
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("refresh", [1, 4])
@pytest.mark.parametrize("chunk", [2**20, 500])
def test_matrices_of_any_shapes_follow_the_implementation_without_fused_adam(
    refresh: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = importlib.import_module("agents.optim.kernels.fused_orthogonal_adam")
    monkeypatch.setattr(fused, "CHUNK_NUMEL", chunk)
    fused._chunks.cache_clear()
    # Many equal ones, tall, in strips, in strips with rows of zeros, and of four sides.
    shapes: list[tuple[int, ...]] = [(8, 12)] * 5 + [(12, 8)] * 4 + [(12, 3, 2, 2)] * 4
    shapes += [(128, 160), (160, 128), (70, 80), (80, 70), (9, 5), (5,), (64, 300)] * 2
    shapes += [(128, 160)] * 3
    ends = []
    for foreach in (None, True):
        params = [torch.zeros(shape) for shape in shapes]
        states: list[dict] = [{} for _ in shapes]
        for t in range(15):
            for p, grad in zip(params, gradients(shapes, torch.float32, t), strict=True):
                p.grad = grad
            kernel_step(params, states, foreach, refresh=refresh)
        ends.append(params)
    fused._chunks.cache_clear()
    for found, expected in zip(*ends, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_matrices_that_have_factors_keep_them_beside_those_that_have_none() -> None:
    shapes, ends = [(8, 12)] * 6, []
    for foreach in (None, True):
        params = [torch.zeros(shape) for shape in shapes]
        states: list[dict] = [{} for _ in shapes]
        for t in range(16):
            for p, grad in zip(params, gradients(shapes, torch.float32, t), strict=True):
                p.grad = grad
            if t == 13:
                del states[2]["factors"], states[4]["factors"]
            kernel_step(params, states, foreach, refresh=40)
        ends.append(params)
    for found, expected in zip(*ends, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_default_device_is_not_that_of_the_directions() -> None:
    ends = []
    for device in ("cpu", "meta"):
        param, state = torch.zeros(8, 12), dict[str, Any]()
        for t in range(3):
            param.grad = gradients([(8, 12)], torch.float32, t)[0]
            with torch.device(device):
                kernel_step([param], [state], None)
        ends.append(param)
    assert torch.equal(*ends) and ends[0].abs().min() > 0


def test_data_of_another_shape_than_the_state_is_refused() -> None:
    for shape in [(640, 640), (3, 2)]:
        param, state = torch.zeros(64, 64), dict[str, Any]()
        param.grad = torch.ones(64, 64)
        kernel_step([param], [state], None)
        param.grad = None
        param.data = torch.zeros(shape)
        param.grad = torch.ones(shape)
        with pytest.raises(RuntimeError, match="size"):
            kernel_step([param], [state], None)
        assert not param.any()


@pytest.mark.parametrize("beta1", [0.0, 1e-40, 1e-3])
def test_the_mean_is_exact_for_any_decay_rate(beta1: float) -> None:
    means = []
    for foreach in (None, True):
        param, state = torch.zeros(8, 12), dict[str, Any]()
        for t in range(4):
            param.grad = gradients([(8, 12)], torch.float32, t)[0]
            kernel_step([param], [state], foreach, beta1=beta1)
        means.append(state["exp_avg"])
    torch.testing.assert_close(*means, rtol=1e-5, atol=1e-6)


def test_autocast_does_not_change_a_step() -> None:
    expected = end(None)
    with torch.autocast("cpu", torch.bfloat16):
        found = end(None)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, "lr must be a number of at least 0, got -1.0"),
        ({"lr": "x"}, "lr must be a number of at least 0, got 'x'"),
        ({"lr": 1.0, "spec": "sgd"}, "of the rule 'orthogonal-adam', got 'sgd'"),
    ],
)
def test_the_optimizer_without_policy_refuses_invalid_arguments(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OrthogonalAdam([torch.nn.Parameter(torch.zeros(2))], **arguments)


def test_the_optimizer_without_policy_makes_the_kernels_steps() -> None:
    p, q = torch.nn.Parameter(torch.zeros(3, 2)), torch.zeros(3, 2)
    frozen = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    groups = [{"params": [frozen]}, {"params": [p]}]
    optimizer, state = copy.deepcopy(OrthogonalAdam(groups, lr=0.01)), dict[str, Any]()
    p = optimizer.param_groups[1]["params"][0]
    rule = rules.get("orthogonal-adam")
    for t in range(3):
        p.grad = q.grad = gradients([(3, 2)], torch.float32, t)[0]
        optimizer.step()
        update(rule, [q], [q.grad], [state], 0.01, weight_decay=0.0)
    assert torch.equal(p.detach(), q)
