"""Physics-informed networks: derivatives, solutions of the equations, and training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import hessian, jacrev, vmap

from optenv import core, rules
from optenv.tasks.physics import EQUATIONS, PhysicsInformed, sample_structure
from tests.helpers.families import check_environment, check_single_equals_batch, progress
from tests.helpers.small_runs import sample_runs

every_equation = pytest.mark.parametrize("equation", EQUATIONS)


def small(equation: str, **arguments: Any) -> PhysicsInformed:
    sizes = {"batch_size": 8, "num_train": 64, "num_validation": 32, "width": 7}
    return PhysicsInformed(equation=equation, **{**sizes, **arguments})


def network(task: PhysicsInformed, params: Tensor) -> nn.Sequential:
    """Return the ordinary module of a run's parameters ``[P]``."""
    layers: list[nn.Module] = []
    width = task.coordinates
    for _ in range(task.depth):
        layers += [nn.Linear(width, task.width), nn.Tanh()]
        width = task.width
    module = nn.Sequential(*layers, nn.Linear(width, 1)).double()
    assert task.shapes == tuple(tuple(p.shape) for p in module.parameters())
    nn.utils.vector_to_parameters(params, module.parameters())
    return module


def by_autograd(module: nn.Module, points: Tensor) -> tuple[Tensor, ...]:
    """Compute outputs, u_x, u_xx and u_t at points ``[n, D]`` by repeated autograd."""
    points = points.detach().requires_grad_()
    u = module(points).squeeze(1)
    (first,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum(), points, create_graph=True)
    u_t = first[:, 1] if points.shape[1] == 2 else torch.zeros_like(u)
    return u, first[:, 0], second[:, 0], u_t


def perturbed(params: Tensor) -> Tensor:
    noise = torch.randn(params.shape, generator=torch.Generator().manual_seed(0))
    return params + 0.2 * noise.double()


@every_equation
@pytest.mark.parametrize("depth", [1, 3])
def test_derivatives_are_those_of_autograd(equation: str, depth: int) -> None:
    task = small(equation, depth=depth)
    data, params = sample_runs(task, 3)
    params = perturbed(params)
    points = data.train(10)[0][:, :, 0]
    results = task.derivatives(task.unflatten(params), points, interior=4, slopes=6)
    assert [part.shape[1] for part in results] == [10, 6, 4, 4]
    for run in range(3):
        expected = by_autograd(network(task, params[run]), points[run])
        for part, other in zip(results, expected, strict=True):
            torch.testing.assert_close(
                part[run], other[: part.shape[1]], rtol=1e-9, atol=1e-9
            )


@every_equation
def test_training_loss_and_gradient_are_those_of_a_module(equation: str) -> None:
    task = small(equation, boundary_weight=3.0)
    data, params = sample_runs(task, 3)
    params = perturbed(params)
    state = core.start(task, rules.get("sgd"), data, params)
    rows = data.batch_rows(torch.zeros(3, dtype=torch.int64), 1, task.batch_size)
    inputs, targets = data.batch(rows)
    for run in range(3):
        module = network(task, params[run].clone())
        interior, boundary = inputs[run].unbind(1)
        u, u_x, u_xx, u_t = by_autograd(module, interior)
        c = targets[run].unbind(1)
        terms = c[0] * u + c[1] * u_x + c[2] * u_xx + c[3] * u_t + c[4] * u * u_x
        edge, edge_x, *_ = by_autograd(module, boundary)
        violation = c[6] * edge + c[7] * edge_x - c[8]
        loss = (terms - c[5]).square().mean() + 3.0 * violation.square().mean()
        gradient = torch.autograd.grad(loss, tuple(module.parameters()))
        torch.testing.assert_close(state.latest[run], loss.detach(), rtol=1e-9, atol=1e-9)
        flat = torch.cat([part.flatten() for part in gradient])
        torch.testing.assert_close(state.grad[run], flat, rtol=1e-9, atol=1e-9)


@every_equation
def test_evaluation_is_the_error_against_the_solution(equation: str) -> None:
    task = small(equation)
    data, params = sample_runs(task, 3)
    for batch in (data.train(64), data.validation()):
        losses = core.evaluate(task, params, batch, data)
        for run in range(3):
            outputs = network(task, params[run])(batch[0][run, :, 0]).squeeze(1)
            expected = (outputs - batch[1][run, :, -1]).square().mean()
            torch.testing.assert_close(losses[run], expected.detach())


def oscillator(c: np.ndarray, x: Tensor) -> Tensor:
    """Solve ``c_2 u'' + c_1 u' + c_0 u = 0`` from rest at 1 by its complex root."""
    root = torch.complex(*torch.tensor([-c[1] / 2 / c[2], 0.0], dtype=torch.float64))
    root = root + 1j * math.sqrt(c[0] / c[2] - (c[1] / 2 / c[2]) ** 2)
    # u = Re(a exp(root t)) with u(0) = 1 and u'(0) = 0.
    weight = 1 + 1j * (root.real / root.imag)
    return (weight * (root * (x[0] + 1)).exp()).real


@every_equation
def test_the_solution_solves_its_equation_and_conditions(equation: str) -> None:
    """Differentiate a solution that is found independently, from the coefficients."""
    task = small(equation, num_train=300, num_validation=100)
    data, _ = sample_runs(task, 5)
    inputs, targets = data.train(300)
    for run in range(5):
        points, boundary = inputs[run].unbind(1)
        table = targets[run]
        c = table[0].numpy()
        assert len(table[:, :5].unique(dim=0)) == 1
        # 1. The solution as a function: fitted by the known forms of the equation.
        exact = table[:, -1]
        solve = _fitted(equation, c, points, exact)
        u = vmap(solve)(points)
        torch.testing.assert_close(u, exact, rtol=1e-4, atol=2e-5)
        # 2. It fulfils the equation in the interior, and the conditions at the boundary.
        slopes = vmap(jacrev(solve))(points)
        u_xx = vmap(hessian(solve))(points)[:, 0, 0]
        u_t = slopes[:, -1] if task.coordinates == 2 else torch.zeros_like(u)
        residual = (
            c[0] * u + c[1] * slopes[:, 0] + c[2] * u_xx + c[3] * u_t
            + c[4] * u * slopes[:, 0] - table[:, 5]
        )  # fmt: skip
        assert residual.abs().max() < 5e-4
        edge = vmap(solve)(boundary)
        edge_x = vmap(jacrev(solve))(boundary)[:, 0]
        violation = table[:, 6] * edge + table[:, 7] * edge_x - table[:, 8]
        assert violation.abs().max() < 5e-5
        # 3. The scale of the residual: the second-order term has a root mean square of 1.
        assert float((c[2] * u_xx).square().mean()) == pytest.approx(1.0, rel=0.1)


def _fitted(equation: str, c: np.ndarray, points: Tensor, exact: Tensor) -> Any:
    """Return the solution as a function of one point ``[D]``.

    Series are fitted to the values by least squares; a front by its range and position.
    """
    if equation == "oscillator":
        return lambda x: oscillator(c, x)
    if equation == "burgers":
        viscosity = -c[2] / c[3]
        return _front(viscosity, points, exact)
    waves = torch.arange(1, 4) * (math.pi / 2)
    rate = -c[2] / c[3] * waves**2 if equation == "heat" else torch.zeros(3)

    def modes(x: Tensor) -> Tensor:
        time = x[1] if len(x) == 2 else torch.zeros(())
        return (waves * (x[0] + 1)).sin() * (-rate * time).exp()

    matrix = vmap(modes)(points).double()
    amplitudes = torch.linalg.lstsq(matrix, exact.unsqueeze(1)).solution.squeeze(1)
    return lambda x: (modes(x) * amplitudes).sum()


def _front(viscosity: float, points: Tensor, exact: Tensor) -> Any:
    """Fit height, speed and start of a front to its values by Gauss and Newton."""

    def value(theta: Tensor, x: Tensor) -> Tensor:
        height, speed, start = theta
        return speed - height * torch.tanh(
            height * (x[0] - start - speed * x[1]) / (2 * viscosity)
        )

    at_points = vmap(value, in_dims=(None, 0))
    middle = (exact.max() + exact.min()) / 2
    theta = torch.stack([(exact.max() - exact.min()) / 2, middle, torch.zeros_like(middle)])
    for _ in range(100):
        jacobian = jacrev(at_points)(theta, points)
        step = torch.linalg.lstsq(jacobian, (exact - at_points(theta, points))[:, None])
        theta = theta + 0.5 * step.solution[:, 0]
    return lambda x: value(theta, x)


@every_equation
def test_training_losses_are_twice_differentiable(equation: str) -> None:
    task = small(equation, width=3, depth=2, batch_size=2)
    data, params = sample_runs(task, 2)
    inputs, targets = data.train(2)

    def loss(flat: Tensor) -> Tensor:
        return task.residual_loss(task.unflatten(flat), inputs, targets)

    params = perturbed(params).requires_grad_()
    assert torch.autograd.gradcheck(loss, params)
    assert torch.autograd.gradgradcheck(loss, params)


@pytest.mark.parametrize(
    ("equation", "updates", "enough"),
    [
        ("poisson", 300, 0.3),
        ("oscillator", 300, 0.4),
        ("heat", 80, 0.2),
        ("burgers", 80, 0.2),
    ],
)
def test_adam_approaches_the_solution(equation: str, updates: int, enough: float) -> None:
    task = PhysicsInformed(equation=equation, width=16, batch_size=16)
    ratios = progress(task, lr=1e-2, updates=updates, runs=8)
    assert ratios.median() < enough


@every_equation
def test_runs_have_problems_of_their_own_that_repeat(equation: str) -> None:
    task = small(equation)
    (data, params), (again, same) = sample_runs(task, 3), sample_runs(task, 3)
    assert torch.equal(params, same) and torch.equal(data.targets, again.targets)
    assert len(params.unique(dim=0)) == 3
    solutions = data.targets.unflatten(0, (3, -1))[..., -1]
    assert len(solutions.unique(dim=0)) == 3
    points = data.inputs
    assert points.abs().max() <= 1
    if task.coordinates == 2:
        assert points[..., 1].min() >= 0
    edge, sides = points[:, 1], points[:, 1, 0].abs() == 1
    assert (sides if task.coordinates == 1 else sides | (edge[:, 1] == 0)).all()


def test_work_counts_all_products_with_weights() -> None:
    for equation, columns in (
        ("poisson", 4),
        ("oscillator", 5),
        ("heat", 5),
        ("burgers", 5),
    ):
        task = small(equation, width=30, depth=3, batch_size=4)
        counted = 0

        def count(*tensors: Tensor) -> None:
            nonlocal counted
            *_, weight, hidden = tensors
            counted += weight.numel() * hidden.shape[-1]

        with pytest.MonkeyPatch.context() as patch:
            for name in ("bmm", "baddbmm"):
                product = getattr(torch, name)
                patch.setattr(torch, name, lambda *a, f=product: (count(*a), f(*a))[1])
            data, params = sample_runs(task, 1)
            task.residual_loss(task.unflatten(params), *data.train(4))
        assert task.work == task.num_params * 4 * columns
        assert counted == pytest.approx(task.work, rel=0.15)


def test_widths_and_equations_of_splits_are_disjoint() -> None:
    drawn = {
        name: [sample_structure(np.random.default_rng(i), name) for i in range(200)]
        for name in ("train", "test", "ood")
    }
    shapes = {name: {task.shapes for task in part} for name, part in drawn.items()}
    kind = {name: {task.equation for task in part} for name, part in drawn.items()}
    assert not shapes["train"] & shapes["test"]
    assert not shapes["ood"] & (shapes["train"] | shapes["test"])
    assert min(map(len, shapes.values())) >= 9
    assert kind["test"] - kind["train"] == {"heat"}
    assert not kind["ood"] & (kind["train"] | kind["test"])
    assert set().union(*kind.values()) == set(EQUATIONS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"equation": "wave"}, "unknown equation 'wave'; valid: poisson, oscillator, heat"),
        ({"width": 0}, "width must be a positive integer, got 0"),
        ({"depth": 0}, "depth must be a positive integer, got 0"),
        ({"boundary_weight": -1.0}, "boundary_weight must be a finite .* got -1.0"),
        ({"init_spread": math.nan}, "init_spread must be a finite .* got nan"),
    ],
)
def test_an_impossible_problem_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PhysicsInformed(**arguments)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'valid'; valid: train, test, ood"):
        sample_structure(np.random.default_rng(0), "valid")


@pytest.mark.parametrize("spec", ["physics", "physics/test"])
def test_environments_take_the_family(spec: str) -> None:
    check_environment(spec)


@every_equation
def test_a_run_is_the_same_alone_and_in_a_batch(equation: str) -> None:
    check_single_equals_batch(small(equation))
