"""Orthogonalisation of matrices, and orthogonal Adam."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from optenv import rules
from optenv.rules.orthogonal_adam import (
    as_matrix,
    cut_into_strips,
    factors_of_strips,
    orthogonalize,
    orthogonalize_flat,
)

SIZES = [(2, 2), (16, 16), (48, 12), (12, 48), (64, 64), (300, 20)]


def matrices(rows: int, columns: int, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(rows + columns)
    x = torch.randn(count, rows, columns, generator=generator, dtype=torch.float64)
    return x * torch.logspace(-3, 3, count, dtype=torch.float64).view(-1, 1, 1)


def polar(x: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def norm(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_the_result_is_near_the_polar_factor_and_of_the_same_norm(
    rows: int, columns: int
) -> None:
    x = matrices(rows, columns)
    found = orthogonalize(x)
    torch.testing.assert_close(norm(found), norm(x), rtol=1e-12, atol=0)
    exact = polar(x)

    def closeness(y: Tensor) -> Tensor:
        return (y * exact).sum((1, 2)) / (norm(y) * norm(exact))

    assert (closeness(found) > 0.94).all()
    if (1 - closeness(x)).mean() > 0.02:  # else it is as near already as it gets
        assert (1 - closeness(found)).mean() < 0.75 * (1 - closeness(x)).mean()


def test_singular_values_from_a_twentieth_of_the_largest_become_alike() -> None:
    values = torch.logspace(math.log10(0.0502), 0, 24, dtype=torch.float64)
    # Fourth powers of the others are small, so that the largest is nearly the bound.
    values[:-1] = values[:-1].clamp(max=0.4)
    u, _, vh = torch.linalg.svd(torch.randn(24, 40, dtype=torch.float64), False)
    found = torch.linalg.svdvals(orthogonalize((u * values @ vh)[None]))[0]
    low, high = 1 - 0.2178, 1 + 0.2178  # the error of the minimax polynomials
    assert found.max() / found.min() < 1.02 * high / low


def test_singular_vectors_stay_and_values_come_closer() -> None:
    x = matrices(24, 16, 1)
    u, values, vh = torch.linalg.svd(x, full_matrices=False)
    inside = u.mT @ orthogonalize(x) @ vh.mT
    own = inside.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inside, torch.diag_embed(own), rtol=0, atol=1e-9)
    assert (own > 0).all()
    assert own.max() / own.min() < 0.5 * values.max() / values.min()


@pytest.mark.parametrize("turned", [False, True])
def test_large_matrices_are_cut_into_strips_whose_heights_are_multiples_of_eight(
    turned: bool,
) -> None:
    x = torch.randn(2, 66, 100, dtype=torch.float64)  # strips of 40 and 26 rows
    found = orthogonalize(x.mT).mT if turned else orthogonalize(x)
    for rows in (slice(0, 40), slice(40, 66)):
        torch.testing.assert_close(found[:, rows], orthogonalize(x[:, rows]))
    odd = orthogonalize(torch.randn(1, 131, 150))  # three of 48, 48 and 35
    assert odd.shape == (1, 131, 150) and odd.isfinite().all()


def test_zero_stays_zero_and_has_finite_derivatives() -> None:
    x = torch.zeros(2, 3, 3, requires_grad=True)
    y = orthogonalize(x)
    assert torch.equal(y, torch.zeros_like(y))
    (derivative,) = torch.autograd.grad(y.sum(), x)
    assert derivative.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((3, 4), (3, 4)), ((5, 2, 3, 3), (5, 18)), ((7,), None), ((), None),
        ((1, 9), None), ((9, 1), None), ((9, 1, 1), None), ((0, 4), None), ((4, 0), None),
    ],
)  # fmt: skip
def test_parameters_with_two_sides_count_as_matrices(
    shape: tuple[int, ...], matrix: tuple[int, int] | None
) -> None:
    assert as_matrix(shape) == matrix


def test_only_the_matrices_of_flat_directions_change() -> None:
    shapes = ((3, 4), (5,), (2, 2, 3), (1, 4))
    flat = torch.randn(2, 12 + 5 + 12 + 4, dtype=torch.float64)
    found = orthogonalize_flat(flat, shapes)
    torch.testing.assert_close(
        found[:, :12].view(2, 3, 4), orthogonalize(flat[:, :12].view(2, 3, 4))
    )
    torch.testing.assert_close(
        found[:, 17:29].view(2, 2, 6), orthogonalize(flat[:, 17:29].view(2, 2, 6))
    )
    assert torch.equal(found[:, 12:17], flat[:, 12:17])
    assert torch.equal(found[:, 29:], flat[:, 29:])


def test_a_vector_moves_by_adam_with_nesterovs_momentum() -> None:
    beta1, beta2, eps, rate = 0.8, 0.99, 1e-3, 0.01
    spec = {"name": "orthogonal-adam", "beta1": beta1, "beta2": beta2, "eps": eps}
    rule = rules.get(spec).bind([(1,)])
    ours = torch.ones(1, 1, dtype=torch.float64)
    state, lr = rule.init(ours), torch.full((1, 1), rate, dtype=torch.float64)
    param, mean, square = 1.0, 0.0, 0.0
    for t in range(1, 20):
        grad = math.sin(t) * 10 ** (t % 5 - 2)
        mean = beta1 * mean + (1 - beta1) * grad
        square = beta2 * square + (1 - beta2) * grad**2
        ahead = beta1 * mean / (1 - beta1 ** (t + 1))
        ahead += (1 - beta1) * grad / (1 - beta1**t)
        param -= rate * ahead / (math.sqrt(square / (1 - beta2**t)) + eps)
        ours, state = rule.update(ours, torch.full_like(ours, grad), state, lr)
        assert ours.item() == pytest.approx(param, rel=1e-12)


@pytest.mark.parametrize("inplace", [False, True])
def test_with_a_power_the_mean_square_decays_like_adafactors(inplace: bool) -> None:
    spec = {"name": "orthogonal-adam", "beta1": 0.0, "beta2": 0.9, "power": 0.7}
    rule = rules.get(spec).bind([(1,)])
    ours = torch.ones(1, 1, dtype=torch.float64)
    state, lr = rule.init(ours), torch.full((1, 1), 0.01, dtype=torch.float64)
    param, weights = 1.0, [0.0] * 40
    grads = [math.sin(t) * 10 ** (t % 5 - 2) for t in range(40)]
    for t, grad in enumerate(grads):
        decay = min(0.9, 1 - (t + 1) ** -0.7)  # the first of them is 0, the last 0.9
        weights = [weight * decay for weight in weights]
        weights[t] = 1 - decay
        assert sum(weights) == pytest.approx(1.0)  # so that there is no bias to correct
        square = sum(w * g**2 for w, g in zip(weights, grads, strict=True))
        param -= 0.01 * grad / (math.sqrt(square) + 1e-8)
        ours, state = rule.update(ours, torch.full_like(ours, grad), state, lr, inplace)
        assert ours.item() == pytest.approx(param, rel=1e-12)


def test_a_matrix_moves_along_the_orthogonalized_direction() -> None:
    spec = {"name": "orthogonal-adam", "beta1": 0.0, "beta2": 0.0, "eps": 1e-12}
    rule = rules.get(spec).bind([(4, 3), (2,)])
    params = torch.zeros(2, 14, dtype=torch.float64)
    grad = torch.randn(2, 14, dtype=torch.float64)
    lr = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    moved, _ = rule.update(params, grad, rule.init(params), lr)
    # Without memory, Adam's direction is the sign of the gradient.
    expected = -lr.unsqueeze(2) * orthogonalize(grad[:, :12].sign().view(2, 4, 3))
    torch.testing.assert_close(moved[:, :12].view(2, 4, 3), expected)
    torch.testing.assert_close(moved[:, 12:], -lr * grad[:, 12:].sign())


def test_a_rule_that_is_not_bound_to_shapes_is_refused() -> None:
    rule, params = rules.get("orthogonal-adam"), torch.ones(1, 4)
    with pytest.raises(TypeError, match="needs shapes: bind the rule to them first"):
        rule.update(params, params, rule.init(params), torch.ones(1, 1))


def test_derivatives_stay_finite_long_after_the_last_gradient() -> None:
    spec = {"name": "orthogonal-adam", "beta1": 0.85, "beta2": 0.995}
    rule = rules.get(spec).bind([(4, 3)])
    first = torch.randn(1, 12, requires_grad=True)
    params = torch.zeros(1, 12)
    state, lr = rule.init(params), torch.full((1, 1), 0.1)
    for t in range(300):
        grad = first if t == 0 else torch.zeros_like(first)
        params, state = rule.update(params, grad, state, lr)
    (derivative,) = torch.autograd.grad(params.square().sum(), first)
    assert derivative.isfinite().all() and derivative.any()


@pytest.mark.parametrize("size", [2.0**-100, 2.0**-33, 2.0**67])  # products are exact
def test_the_norm_is_kept_at_any_scale(size: float) -> None:
    x = torch.randn(1, 4, 3)
    found = orthogonalize(x * size) / size
    torch.testing.assert_close(found, orthogonalize(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 30), (70, 100), (100, 70)])
def test_factors_times_a_matrix_are_the_orthogonalized_matrix(
    shape: tuple[int, int],
) -> None:
    x = matrices(*shape)
    wide = x.mT if shape[0] > shape[1] else x
    strips = cut_into_strips(wide)
    factors = factors_of_strips(strips)
    torch.testing.assert_close(factors, factors.mT)
    result = (factors @ strips).reshape(4, -1, wide.shape[2])[:, : wide.shape[1]]
    torch.testing.assert_close(orthogonalize(x), result.mT if shape[0] > 70 else result)


@pytest.mark.parametrize("inplace", [False, True])
def test_runs_out_of_phase_keep_factors_of_their_own(inplace: bool) -> None:
    shapes = [(5, 8), (3,), (70, 66)]
    numel = sum(math.prod(shape) for shape in shapes)
    spec = {"name": "orthogonal-adam", "refresh": 3, "power": 0.9}
    rule = rules.get(spec).bind(shapes, ["matrices", "vectors", "matrices"])
    late, steps = 4, 26
    generator = torch.Generator().manual_seed(0)
    grads = torch.randn(steps, 2, numel, generator=generator, dtype=torch.float64)
    lr = torch.full((2, 1), 0.01, dtype=torch.float64)

    def alone(run: int, begin: int) -> Tensor:
        params = torch.zeros(1, numel, dtype=torch.float64)
        state = rule.init(params)
        for t in range(begin, steps):
            params, state = rule.update(
                params, grads[t, run : run + 1], state, lr[:1], inplace
            )
        return params[0]

    params = torch.zeros(2, numel, dtype=torch.float64)
    state = rule.init(params)
    for t in range(steps):
        if t == late:  # the second run begins anew
            params[1] = 0
            for part in state:
                part[1] = 0
        params, state = rule.update(params, grads[t], state, lr, inplace)
    torch.testing.assert_close(params[0], alone(0, 0))
    torch.testing.assert_close(params[1], alone(1, late))


def test_factors_that_are_kept_change_the_run_a_little() -> None:
    shapes, ends = [(30, 40)], []
    for refresh in (1, 4):
        rule = rules.get({"name": "orthogonal-adam", "refresh": refresh}).bind(shapes)
        params = torch.zeros(1, 1200)
        state, lr = rule.init(params), torch.full((1, 1), 0.01)
        generator = torch.Generator().manual_seed(0)
        for _ in range(40):
            grad = torch.randn(1, 1200, generator=generator)
            params, state = rule.update(params, grad, state, lr)
        ends.append(params)
    difference = (ends[0] - ends[1]).norm() / ends[0].norm()
    assert 0.01 < difference < 0.3


@pytest.mark.parametrize("refresh", [0, 2.0, True, None])
def test_another_refresh_than_a_positive_integer_is_refused(refresh) -> None:
    with pytest.raises(
        ValueError, match=f"refresh must be a positive integer, got {refresh}"
    ):
        rules.get({"name": "orthogonal-adam", "refresh": refresh})


def test_a_state_with_factors_needs_shapes() -> None:
    rule = rules.get({"name": "orthogonal-adam", "refresh": 2})
    with pytest.raises(TypeError, match="needs shapes: bind the rule to them first"):
        rule.init(torch.zeros(1, 4))
