"""Test functions equal the published ones, and their minima are where they should be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import optenv
from optenv import core, tasks
from optenv.tasks.functions import FORMULAS, Function, sample_structure
from tests.helpers.families import check_environment, check_single_equals_batch, progress
from tests.helpers.small_runs import sample_runs

pi, e = math.pi, math.e


def published(name: str, z: list[Tensor], roots: Tensor | None) -> Any:
    """Compute a test function at one point as it was published, in plain arithmetic.

    Args:
        name: of the function.
        z: coordinates of the point, scalars.
        roots: square roots of the curvatures of ``quadratic``.
    """
    sin, cos, exp, sqrt = torch.sin, torch.cos, torch.exp, torch.sqrt
    d = len(z)
    if name == "quadratic":
        assert roots is not None
        return sum(0.5 * h**2 * x**2 for h, x in zip(roots, z, strict=True))
    if name == "rosenbrock":
        return sum(
            100 * (z[i + 1] - z[i] ** 2) ** 2 + (1 - z[i]) ** 2 for i in range(d - 1)
        )
    if name == "beale":
        x, y = z
        terms = (1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3)
        return sum(term**2 for term in terms)
    if name == "rastrigin":
        return 10 * d + sum(x**2 - 10 * cos(2 * pi * x) for x in z)
    if name == "styblinski-tang":
        return sum(x**4 - 16 * x**2 + 5 * x for x in z) / 2
    if name == "himmelblau":
        x, y = z
        return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2
    if name == "ackley":
        root = sqrt(sum(x**2 for x in z) / d)
        mean = sum(cos(2 * pi * x) for x in z) / d
        return -20 * exp(-0.2 * root) - exp(mean) + 20 + e
    w = [1 + (x - 1) / 4 for x in z]
    middle = sum((v - 1) ** 2 * (1 + 10 * sin(pi * v + 1) ** 2) for v in w[:-1])
    return sin(pi * w[0]) ** 2 + middle + (w[-1] - 1) ** 2 * (1 + sin(2 * pi * w[-1]) ** 2)


#: Half-widths of the usual domains, and published minima: points and value.
RADIUS = {
    "quadratic": 1.0, "rosenbrock": 2.048, "beale": 4.5, "rastrigin": 5.12,
    "styblinski-tang": 5.0, "himmelblau": 5.0, "ackley": 5.0, "levy": 10.0,
}  # fmt: skip
MINIMA: dict[str, list[tuple[float, ...]]] = {
    "quadratic": [(0.0, 0.0)],
    "rosenbrock": [(1.0, 1.0)],
    "beale": [(3.0, 0.5)],
    "rastrigin": [(0.0, 0.0)],
    "styblinski-tang": [(-2.903534, -2.903534)],
    "himmelblau": [
        (3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127),
    ],
    "ackley": [(0.0, 0.0)],
    "levy": [(1.0, 1.0)],
}  # fmt: skip
#: Sum over two coordinates.
LEAST = {"styblinski-tang": 2 * -39.16616570377142}

every_function = pytest.mark.parametrize("name", RADIUS)


def dims(name: str) -> tuple[int, ...]:
    return (2,) if name in ("beale", "himmelblau") else (2, 5)


def sample(task: Function, runs: int = 4) -> tuple[tasks.Data, Tensor]:
    return sample_runs(task, runs)


def test_every_formula_is_tested() -> None:
    assert list(RADIUS) == list(FORMULAS) == list(MINIMA)


@every_function
def test_loss_and_gradient_are_those_of_the_published_function(name: str) -> None:
    for dim in dims(name):
        task = Function(function=name, dim=dim, subtract_minimum=False)
        data, params = sample(task)
        losses, gradients = core.loss_and_grad(task, params, data.train(1))
        rotations, instance = (part[:, 0] for part in data.train(1))
        for run in range(4):
            theta = params[run].clone().requires_grad_()
            z = RADIUS[name] * (rotations[run] @ (theta - instance[run, 0]))
            roots = instance[run, 1] if name == "quadratic" else None
            expected = published(name, list(z), roots)
            (gradient,) = torch.autograd.grad(expected, theta)
            torch.testing.assert_close(losses[run], expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(gradients[run], gradient, rtol=1e-9, atol=1e-9)


@every_function
def test_the_untransformed_function_is_the_published_one(name: str) -> None:
    for dim in dims(name):
        task = Function(
            function=name, dim=dim, rotate=False, shift=False, unit_domain=False,
            subtract_minimum=False,
        )  # fmt: skip
        data, params = sample(task, 6)
        assert params.abs().max() <= RADIUS[name] / 2 < 2 * params.abs().max()
        roots = data.targets[0, -1]
        losses, gradients = core.loss_and_grad(task, params, data.train(1))
        for run in range(6):
            z = params[run].clone().requires_grad_()
            expected = published(name, list(z), roots)
            (gradient,) = torch.autograd.grad(expected, z)
            torch.testing.assert_close(losses[run], expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(gradients[run], gradient, rtol=1e-9, atol=1e-9)


@every_function
@pytest.mark.parametrize("unit_domain", [True, False])
def test_the_minimum_is_attained_with_gradient_zero(name: str, unit_domain: bool) -> None:
    for dim in dims(name):
        task = Function(
            function=name, dim=dim, unit_domain=unit_domain, subtract_minimum=False
        )
        assert task.minimum == pytest.approx(LEAST.get(name, 0.0) * dim / 2, abs=1e-9)
        data, _ = sample(task)
        points = task.minimizers(data)
        assert points.shape == (4, len(MINIMA[name]), dim)
        for point in points.unbind(1):
            loss, gradient = core.loss_and_grad(task, point, data.train(1))
            expected = torch.full_like(loss, task.minimum)
            torch.testing.assert_close(loss, expected, rtol=0, atol=1e-9)
            if name != "ackley":  # it has a kink there
                assert gradient.abs().max() < 1e-9


@every_function
def test_minima_are_where_they_were_published(name: str) -> None:
    task = Function(function=name, rotate=False, shift=False, unit_domain=False)
    points = task.minimizers(sample(task)[0])[0]
    np.testing.assert_allclose(points, MINIMA[name], atol=2e-6)


@every_function
def test_dense_random_search_finds_nothing_lower(name: str) -> None:
    task = Function(function=name)
    data, _ = sample(task, 2)
    axis = torch.from_numpy(np.random.default_rng(0).uniform(-1.5, 1.5, (2, 400)))
    everywhere = task.surface(data, *axis)
    nearby = []
    for point in task.minimizers(data)[:1, 0]:
        near = point.unsqueeze(1) + 1e-3 * axis
        nearby.append(task.surface(data, *near)[:1])
    for values in (everywhere, *nearby):
        assert values.min() >= task.minimum == 0.0
    assert everywhere.amin((1, 2)).max() < 0.02 * everywhere.median()


def test_ackley_has_gradient_zero_at_its_kink_and_rises_from_it() -> None:
    task = Function(function="ackley", dim=3, rotate=False, shift=False)
    data, params = sample(task)
    loss, gradient = core.loss_and_grad(task, torch.zeros_like(params), data.train(1))
    assert not loss.any() and not gradient.any()
    near, slope = core.loss_and_grad(task, 1e-6 * params, data.train(1))
    # The slope of the cone: 20 * 0.2 / sqrt(dim), times the half-width of the domain.
    cone = torch.full((4,), 20 / 3**0.5, dtype=torch.float64)
    torch.testing.assert_close(slope.norm(dim=1), cone, rtol=1e-3, atol=0)
    assert (near > 0).all()


@every_function
def test_losses_are_twice_differentiable(name: str) -> None:
    task = Function(function=name, dim=dims(name)[-1], gradient_noise=0.1)
    data, params = sample(task, 2)
    batch = tasks.examples.Batch(*data.train(1), torch.ones(2, 1, task.dim).double())
    params = params.requires_grad_()

    def loss(theta: Tensor) -> Tensor:
        return task.training_loss((theta,), batch, torch.empty(2, 0))[0] / 100

    assert torch.autograd.gradcheck(loss, params)
    assert torch.autograd.gradgradcheck(loss, params)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_surface_is_the_loss_at_each_point_of_the_grid(scaled: bool) -> None:
    task = Function(function="himmelblau", normalize=True)
    data, params = sample(task, 3)
    if scaled:
        factors = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 2, (3, 2)))
        data = data._replace(scale=factors)
        lowest = task.minimizers(data)[:, 0]
        at_minimum = core.evaluate(task, lowest, data.train(1), data)
        assert at_minimum.max() < 1e-12
    first, second = torch.linspace(-1, 1, 5), torch.linspace(-0.5, 1, 4)
    values = task.surface(data, first, second)
    assert values.shape == (3, 4, 5)
    for i, y in enumerate(second):
        for j, x in enumerate(first):
            point = torch.stack([x, y]).double().expand_as(params)
            expected = core.evaluate(task, point, data.train(1), data)
            torch.testing.assert_close(values[:, i, j], expected)


def test_a_surface_of_more_than_two_dimensions_is_refused() -> None:
    task = Function(dim=3)
    axis = torch.linspace(-1, 1, 3)
    with pytest.raises(ValueError, match="surface needs dim 2, got 3"):
        task.surface(sample(task)[0], axis, axis)


def test_rotations_are_orthogonal_and_uniform() -> None:
    rotations = sample(Function(dim=3), 2000)[0].train(1)[0][:, 0]
    identity = torch.eye(3).double().expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, identity, rtol=0, atol=1e-6)
    assert abs(float(torch.linalg.det(rotations).mean())) < 0.1  # half are reflections
    # Each entry of a uniform one has mean 0 and mean square 1/3.
    assert rotations.mean(0).abs().max() < 0.06
    assert (rotations.square().mean(0) - 1 / 3).abs().max() < 0.04


def test_runs_have_instances_of_their_own_that_repeat() -> None:
    task = Function(dim=4)
    data, params = sample(task, 3)
    again, same = sample(task, 3)
    assert torch.equal(params, same)
    for part, other in zip(data.train(1), again.train(1), strict=True):
        assert torch.equal(part, other)
        assert len(part.flatten(1).unique(dim=0)) == 3
    shared, _ = sample(replace(task, data_seed=3), 3)
    assert len(shared.train(1)[0].flatten(1).unique(dim=0)) == 1
    assert task.minimizers(shared).shape == (3, 1, 4)


@pytest.mark.parametrize("normalize", [False, True])
def test_noise_has_the_given_size_and_only_enters_training(normalize: bool) -> None:
    task = Function(
        function="rastrigin", dim=8, gradient_noise=0.3, normalize=normalize,
        batch_size=4, num_train=4,
    )  # fmt: skip
    data, params = sample(task, 2000)
    exact, clean = core.loss_and_grad(task, params, data.train(4))
    state = core.start(task, optenv.rules.get("sgd"), data, params)
    noise = state.grad - clean
    size = 0.3 * (1.0 if normalize else task.typical_gradient) / 4**0.5
    assert float(noise.square().sum(1).mean()) ** 0.5 == pytest.approx(size, rel=0.03)
    assert noise.mean(0).norm() < 0.1 * size
    assert not torch.allclose(state.latest, exact)
    torch.testing.assert_close(core.evaluate(task, params, data.train(4), data), exact)


@every_function
def test_normalized_functions_have_gradients_of_norm_1_at_the_start(name: str) -> None:
    task = Function(function=name, dim=dims(name)[-1], rotate=False, normalize=True)
    data, params = sample(task, 500)
    norms = core.loss_and_grad(task, params, data.train(1))[1].norm(dim=1)
    assert float(norms.median()) == pytest.approx(1.0, abs=0.2)


def test_a_quadratic_has_the_given_spectrum_in_rotated_directions() -> None:
    spectrum = (0.5, 3.0, 20.0, 7.0)
    task = Function(function="quadratic", dim=4, spectrum=spectrum)
    data, params = sample(task, 3)
    for run in range(3):
        part = data.of_runs(torch.tensor([run])).batch(torch.zeros(1, 1, dtype=torch.int64))

        def loss(theta: Tensor, part: tuple[Tensor, Tensor] = part) -> Tensor:
            return task.loss((theta.unsqueeze(0),), *part).sum()

        hessian = torch.autograd.functional.hessian(loss, params[run])
        np.testing.assert_allclose(
            torch.linalg.eigvalsh(hessian), sorted(spectrum), rtol=1e-5
        )
        assert (hessian - hessian.diag().diag()).abs().max() > 0.1
    by_condition = Function(function="quadratic", dim=5, condition=1e4)
    targets = sample(by_condition, 1)[0].targets[0, 1].square()
    np.testing.assert_allclose(targets, 10.0 ** -np.arange(5), rtol=1e-5)


@every_function
def test_adam_makes_progress_in_sixty_updates(name: str) -> None:
    ratios = progress(Function(function=name, dim=dims(name)[-1]), lr=2e-2, updates=60)
    # Runs end in a local minimum of functions with many, and Ackley's are the deepest.
    waves = {"rastrigin": 0.5, "styblinski-tang": 0.5, "levy": 0.5, "ackley": 0.9}
    assert ratios.median() < waves.get(name, 0.1)
    assert (ratios < 1).all()


def test_rewards_count_progress_with_and_without_subtraction() -> None:
    returns = []
    for subtract in (True, False):
        task = Function(function="styblinski-tang", subtract_minimum=subtract)
        batch = gym.make_vec(
            "optenv/LearningRate-v0", 4, tasks=task, base_lr=2e-2, horizon=5
        )
        batch.reset(seed=0)
        total = sum(batch.step(np.zeros((4, 1), np.float32))[1] for _ in range(5))
        assert (total > 0).all() and total.mean() > 0.3
        returns.append(total)
        final = batch.groups[0][1].state.loss
        assert bool((final > 0).all()) is subtract
    assert not np.allclose(*returns)


@pytest.mark.parametrize("split", ["train", "test", "ood"])
def test_structures_of_a_split_are_its_own(split: str) -> None:
    drawn = {
        name: [sample_structure(np.random.default_rng(i), name) for i in range(300)]
        for name in ("train", "test", "ood")
    }
    own = {(task.function, task.dim) for task in drawn.pop(split)}
    others = {(task.function, task.dim) for part in drawn.values() for task in part}
    assert len(own) >= 5 and not own & others


def test_dimensions_and_functions_of_splits_are_disjoint() -> None:
    drawn = {
        name: [sample_structure(np.random.default_rng(i), name) for i in range(300)]
        for name in ("train", "test", "ood")
    }
    size = {name: {task.dim for task in part} for name, part in drawn.items()}
    kind = {name: {task.function for task in part} for name, part in drawn.items()}
    assert not size["train"] & size["test"]
    assert kind["test"] - kind["train"] == {"levy"}
    assert not kind["ood"] & (kind["train"] | kind["test"])
    assert set().union(*kind.values()) == set(FORMULAS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"function": "sphere"}, "unknown function 'sphere'; valid: quadratic, rosenbrock"),
        ({"dim": 0}, "dim must be a positive integer, got 0"),
        ({"dim": 1}, "dim of 'rosenbrock' must be at least 2, got 1"),
        ({"function": "beale", "dim": 3}, "dim of 'beale' must be 2, got 3"),
        ({"gradient_noise": -0.1}, "gradient_noise must be a finite .* got -0.1"),
        ({"condition": 0.5}, "condition must be a finite number, at least 1, got 0.5"),
        ({"condition": math.inf}, "condition must be a finite .* got inf"),
        ({"spectrum": (1.0, 2.0)}, "spectrum is for function 'quadratic', .*'rosenbrock'"),
        ({"function": "quadratic", "spectrum": (1.0,)}, r"2 positive .* got \(1.0,\)"),
        ({"function": "quadratic", "spectrum": (1.0, -2.0)}, r"got \(1.0, -2.0\)"),
    ],
)
def test_an_impossible_function_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Function(**arguments)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'valid'; valid: train, test, ood"):
        sample_structure(np.random.default_rng(0), "valid")


@pytest.mark.parametrize("spec", ["functions", "functions/test"])
def test_environments_take_the_family(spec: str) -> None:
    check_environment(spec)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"gradient_noise": 0.3},
        {"rotate": False},
        {"rotate": False, "shift": False},
        {"data_seed": 1},
        {"function": "quadratic", "batch_size": 3, "num_train": 5, "gradient_noise": 1.0},
    ],
)
def test_a_run_is_the_same_alone_and_in_a_batch(arguments: dict[str, Any]) -> None:
    check_single_equals_batch(Function(dim=6, normalize=True, **arguments))


@pytest.mark.parametrize("rotate", [False, True])
def test_one_run_of_a_batch_gets_a_new_instance_at_its_reset(rotate: bool) -> None:
    task = Function(function="levy", rotate=rotate)
    data, _ = sample(task, 3)
    new, _ = sample_runs(task, 1, seed=9)
    mixed = data.put(torch.tensor([1]), new)
    before, after, lone = (task.minimizers(d)[:, 0] for d in (data, mixed, new))
    assert torch.equal(after, torch.stack([before[0], lone[0], before[2]]))


def test_further_families_are_not_part_of_train_and_test() -> None:
    assert not set(tasks.MORE_FAMILIES) & set(tasks.FAMILIES)
    for split in tasks.SPLITS:
        assert tasks.make(split).sources == tuple((name, split) for name in tasks.FAMILIES)
    for name in tasks.MORE_FAMILIES:
        assert tasks.make(f"{name}/test").sources == ((name, "test"),)
        with pytest.raises(ValueError, match=f"there is a task family '{name}' already"):
            tasks.register(name, sample_structure)
