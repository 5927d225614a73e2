"""Families draw disjoint splits, and Adam reduces the loss of every task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from optenv import core, rules, tasks
from optenv.tasks.data import load_digits
from tests.helpers.markers import slow
from tests.helpers.small_runs import assert_identical, generators, sample_runs

DRAWS = 300
every_family = pytest.mark.parametrize("family", tasks.FAMILIES)
every_split = pytest.mark.parametrize("split", tasks.SPLITS)


def structures(family: str, split: str, count: int = DRAWS) -> list[tasks.Task]:
    sampler = tasks.make(f"{family}/{split}")
    rng = np.random.default_rng(0)
    return [sampler.draw(rng) for _ in range(count)]


def shares(task: tasks.Task) -> bool:
    return getattr(task, "data_seed", None) is not None


@every_family
def test_structures_of_the_splits_differ_in_size(family: str) -> None:
    train, test, ood = (
        {task.shapes for task in structures(family, split)} for split in tasks.SPLITS
    )
    assert min(len(train), len(test)) >= 3
    assert len(ood) >= 2
    assert not train & test
    assert not ood & (train | test)


def test_the_splits_partition_the_images() -> None:
    from sklearn.datasets import load_digits as load

    everything, labels = load(return_X_y=True)
    splits = [load_digits(split) for split in ("train", "test")]
    scale, shift = everything.std(), everything.mean()
    images = [np.rint(part * scale + shift).astype(int) for part, _ in splits]
    rows = [
        {(*image, label) for image, label in zip(part.tolist(), y.tolist(), strict=True)}
        for part, y in [
            (everything.astype(int), labels),
            *((part, y) for part, (_, y) in zip(images, splits, strict=True)),
        ]
    ]
    assert not rows[1] & rows[2]
    assert rows[1] | rows[2] == rows[0]
    assert [len(part) for part in images] == [1197, 600]
    for _, y in splits:
        assert set(y.tolist()) == set(range(10))


@every_split
def test_digits_tasks_use_images_of_their_split_only(split: str) -> None:
    part = "train" if split == "train" else "test"
    allowed = {image.tobytes() for image in load_digits(part)[0]}
    for task in structures("digits", split, 20):
        rng = np.random.default_rng(1)
        images, _ = tasks.data._pick_digits(task, rng)
        assert len(images) == task.num_train + task.num_validation
        seen = {image.tobytes() for image in images}
        assert seen <= allowed
        assert len(seen) == len(images)
        others, _ = tasks.data._pick_digits(task, rng)
        assert seen != {image.tobytes() for image in others}


def test_a_digits_task_larger_than_its_split_is_refused() -> None:
    task = tasks.MLP(source="digits", inputs=64, outputs=10, num_train=1000, split="test")
    with pytest.raises(ValueError, match=r"is 1256.*test split.*600 images"):
        task.sample(generators(1))


@pytest.mark.parametrize(
    "family", [slow(name, if_=name == "language") for name in tasks.FAMILIES]
)
@every_split
def test_every_family_has_a_finite_loss_that_adam_reduces(family: str, split: str) -> None:
    drawn = structures(family, split, 2)
    kinds = {"digits": "source", "language": "network"}
    if family in kinds:  # classifier and autoencoder, or both networks
        named = {getattr(t, kinds[family]): t for t in structures(family, split, 40)}
        drawn = list(named.values())
        assert len(drawn) == 2
    # The loss of text cannot go below its entropy.
    enough = 0.9 if family == "language" else 0.7
    ratios = []
    for task in drawn:
        data, params = sample_runs(task, 4, dtype=torch.float32)
        assert params.shape == (4, task.num_params)
        assert data.rows.shape == (4, task.num_train + task.num_validation)
        state = core.start(task, rules.get("adam"), data, params)
        batch = data.train(256)
        before = core.evaluate(task, params, batch)
        lr = torch.full((200, 4), 1e-2)
        state = core.advance(task, rules.get("adam"), data, state, lr)
        after = core.evaluate(task, state.params, batch)
        for loss in (before, after, core.evaluate(task, params, data.validation())):
            assert loss.shape == (4,) and loss.isfinite().all() and (loss >= 0).all()
        ratios.append(after / before)
        assert shares(task) or (after < before).all()
    # Some regressions are hardly learned in 200 updates, in all runs if they share their
    # data.
    reduced = torch.cat(ratios) < enough
    assert reduced.float().mean() >= (0.5 if family == "mlp-regression" else 0.75)


@every_family
def test_runs_differ_in_data_parameters_and_order_and_repeat_by_key(
    family: str,
) -> None:
    task = next(t for t in structures(family, "train") if not shares(t))
    first = sample_runs(task, 3)
    again = sample_runs(task, 3)
    assert_identical((first[0][:4], first[1]), (again[0][:4], again[1]))
    data, params = first
    inputs = data.inputs[data.rows]
    for part in (inputs.flatten(1), params, data.order.unsqueeze(1)):
        assert len(part.unique(dim=0)) == 3


@pytest.mark.parametrize("family", ["logistic", "mlp-regression", "language"])
def test_runs_with_a_data_seed_share_examples_but_not_parameters_or_order(
    family: str,
) -> None:
    drawn = structures(family, "train", 100)
    assert 30 <= sum(map(shares, drawn)) <= 70
    task = dataclasses.replace(
        next(t for t in drawn if shares(t)), num_train=200, num_validation=20, batch_size=8
    )
    data, params = sample_runs(task, 3)
    later, _ = sample_runs(task, 2, seed=77)
    assert data.shared and len(data.inputs) == 220
    assert_identical((data.inputs, data.targets), (later.inputs, later.targets))
    one = later._replace(rows=later.rows[:1], order=later.order[:1])
    changed = data.put(torch.tensor([1]), one)
    assert changed.rows.stride(0) == data.rows.stride(0) == 0, "one row serves all runs"
    assert changed.order[1] == later.order[0] != data.order[1]
    other, _ = sample_runs(dataclasses.replace(task, data_seed=5), 1)
    assert not torch.equal(other.inputs, data.inputs)
    assert len(params.unique(dim=0)) == len(data.order.unique()) == 3
    batches = data.batch_rows(torch.zeros(3, dtype=torch.int64), 1, task.batch_size)
    assert len(batches.unique(dim=0)) == 3
    (inputs, _), (validation, _) = data.batch(batches), data.validation()
    assert inputs.shape[:2] == (3, 8) and validation.shape[:2] == (3, 20)
    assert torch.equal(validation[0], validation[2])


def manual_mlp(task: tasks.MLP) -> nn.Sequential:
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}[task.activation]
    layers: list[nn.Module] = []
    for layer, (fan_in, fan_out) in enumerate(
        zip(task.sizes, task.sizes[1:], strict=False)
    ):
        layers.append(nn.Linear(fan_in, fan_out))
        if layer < task.depth:
            if task.layer_norm:
                layers.append(nn.LayerNorm(fan_out))
            layers.append(activation())
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_an_mlp_equals_the_sequential_module_of_its_parameters(
    activation: str, layer_norm: bool, depth: int
) -> None:
    task = tasks.MLP(
        inputs=5, outputs=3, width=7, depth=depth, activation=activation,
        layer_norm=layer_norm, num_train=40, num_validation=8,
    )  # fmt: skip
    data, params = sample_runs(task, 3)
    params = params + 0.1 * torch.randn(
        params.shape, generator=torch.Generator().manual_seed(0)
    )
    inputs, targets = data.train(16)
    outputs = task.forward(task.unflatten(params), inputs)
    losses = task.loss(task.unflatten(params), inputs, targets)
    for run in range(3):
        module = manual_mlp(task)
        shapes = tuple(tuple(p.shape) for p in module.parameters())
        assert task.shapes == shapes
        nn.utils.vector_to_parameters(params[run], module.parameters())
        expected = module(inputs[run])
        torch.testing.assert_close(outputs[run], expected)
        torch.testing.assert_close(
            losses[run], nn.functional.cross_entropy(expected, targets[run])
        )


def test_a_regression_has_half_the_mean_squared_error() -> None:
    task = tasks.MLP(source="sine", outputs=4, num_train=40, num_validation=8)
    data, params = sample_runs(task, 3)
    inputs, targets = data.train(16)
    outputs = task.forward(task.unflatten(params), inputs)
    losses = task.loss(task.unflatten(params), inputs, targets)
    for run in range(3):
        half = 0.5 * nn.functional.mse_loss(outputs[run], targets[run])
        torch.testing.assert_close(losses[run], half)


@pytest.mark.parametrize("rows", [1, 16])
def test_a_quadratic_has_the_analytic_minimum_and_hessian(rows: int) -> None:
    task = tasks.Quadratic(batch_size=4, num_train=64, num_validation=16, dim=8)
    data, params = sample_runs(task, 5)
    batch = data.train(rows)
    minimum = batch[0].mean(dim=1)
    loss, grad = core.loss_and_grad(task, minimum, batch)
    assert (grad.abs() < 1e-9).all()
    roots, normal = batch[1][:, 0].unbind(1)
    reflection = torch.eye(8) - 2 * normal.unsqueeze(2) * normal.unsqueeze(1)
    hessian = reflection @ torch.diag_embed(roots**2) @ reflection
    # Loss = loss at the minimum + a quadratic form, everywhere.
    offset = (params - minimum).unsqueeze(2)
    form = 0.5 * (offset.mT @ hessian @ offset).flatten()
    there, slope = core.loss_and_grad(task, params, batch)
    torch.testing.assert_close(there, loss + form)
    torch.testing.assert_close(slope, (hessian @ offset).squeeze(2))
    condition = torch.linalg.cond(hessian)
    assert (condition < 1.01e4).all()
    scatter = (batch[0] - minimum.unsqueeze(1)) @ reflection
    noise = 0.5 * (roots**2 * scatter.square().mean(1)).sum(1)
    torch.testing.assert_close(loss, noise, atol=1e-12, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"num_validation": 0}, "num_validation must be a positive integer, got 0"),
        ({"num_train": 1.5}, "num_train must be a positive integer, got 1.5"),
        ({"batch_size": 65, "num_train": 64}, r"at most num_train \(64\), got 65"),
        ({"num_train": 2**20 + 1}, "at most 1048576, got 1048577"),
        ({"data_seed": -1}, "data_seed must be at least 0, got -1"),
        ({"activation": "swish"}, "unknown activation 'swish'; valid: relu, tanh, gelu"),
        ({"source": "mnist"}, "unknown source 'mnist'; valid: mixture, sine"),
        ({"split": "validation"}, "unknown split 'validation'; valid: train, test"),
    ],
)
def test_an_impossible_structure_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tasks.MLP(**arguments)


@pytest.mark.parametrize("seed", [1.0, "0", True])
def test_a_data_seed_that_is_no_integer_is_refused(seed: object) -> None:
    with pytest.raises(TypeError, match=f"an integer or None, got {seed!r}"):
        tasks.Quadratic(data_seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "families"),
    [
        ("digits", ["digits/train"]),
        ("digits/test", ["digits/test"]),
        ("test", [f"{family}/test" for family in tasks.FAMILIES]),
        (["logistic", "quadratic/test"], ["logistic/train", "quadratic/test"]),
    ],
)
def test_a_name_stands_for_families_of_a_split(
    spec: str | Sequence[str], families: list[str]
) -> None:
    assert tasks.make(spec).sources == tuple(tuple(f.split("/")) for f in families)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: tasks.MLP(width=0), ValueError, "width must be a positive integer, got 0"),
        (
            lambda: tasks.MLP(depth=-1),
            ValueError,
            "depth must be a pos.*, got -1",
        ),
        (lambda: tasks.MLP(inputs="8"), ValueError, "inputs must be .*, got '8'"),
        (
            lambda: tasks.MLP(init_spread=-1.0),
            ValueError,
            r"init_spread must lie in \[0, 10",
        ),
        (lambda: tasks.MLP(layer_norm="no"), TypeError, "layer_norm must be True or False"),
        (
            lambda: tasks.Quadratic(dim=0),
            ValueError,
            "dim must be a positive.*, got 0",
        ),
        (lambda: tasks.RNN(embedding=0), ValueError, "embedding must be .*, got 0"),
    ],
)
def test_sizes_that_no_network_has_are_refused(make, error, says) -> None:
    with pytest.raises(error, match=says):
        make()
