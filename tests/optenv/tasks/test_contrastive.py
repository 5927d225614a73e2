"""The contrastive loss is that of its formula, of views that the noise makes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optenv import core, rules
from optenv.tasks import Contrastive
from optenv.tasks.examples import Batch
from tests.helpers.small_runs import sample_runs

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def small(**fields: Any) -> Contrastive:
    given = {
        "batch_size": 5, "num_train": 30, "num_validation": 13, "side": 6, "width": 7,
        "features": 3, "depth": 2, "activation": "tanh",
    }  # fmt: skip
    return Contrastive(**{**given, **fields})


def view_of(task: Contrastive, image: Tensor, numbers: list[float]) -> Tensor:
    """Make a view of an image ``[S, S]``, pixel by pixel."""
    side = task.side
    view = image.clone()
    down, across = (0.5 * (1 + math.erf(z / math.sqrt(2))) for z in numbers[2 * side :])
    for row in range(side):
        for column in range(side):
            stripe = numbers[row] + numbers[side + column]
            view[row, column] += task.stripes * stripe
            far = max(abs((row + 0.5) / side - down), abs((column + 0.5) / side - across))
            if far < 0.5 * task.blank:
                view[row, column] = 0.0
    return view


def reference_loss(task: Contrastive, module: nn.Module, images: Tensor, noise: Tensor):
    """Compute the loss of one run view by view; images ``[n, S, S]``, noise ``[n, K]``."""
    half = task.noise // 2
    views = [
        view_of(task, image, numbers[begin : begin + half])
        for begin in (0, half)
        for image, numbers in zip(images, noise.tolist(), strict=True)
    ]
    vectors = module(torch.stack(views).flatten(1))
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    count, total = len(images), torch.zeros((), dtype=vectors.dtype)
    for i in range(2 * count):
        scores = (vectors @ vectors[i]) / task.temperature
        others = torch.cat([scores[:i], scores[i + 1 :]])
        total = total + others.logsumexp(0) - scores[(i + count) % (2 * count)]
    return total / (2 * count)


def encoder(task: Contrastive) -> nn.Module:
    layers = [nn.Linear(task.side**2, task.width), nn.Tanh()]
    for _ in range(task.depth - 1):
        layers += [nn.Linear(task.width, task.width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(task.width, task.features)).double()


def test_loss_and_gradient_are_those_of_the_formula():
    task = small()
    data, params = sample_runs(task, 3)
    state = core.start(task, rules.get("sgd"), data, params)
    zero = torch.zeros(3, dtype=torch.int64)
    images, _ = data.batch(data.batch_rows(zero, 1, 5))
    noise = data.noise(zero, 5, task.noise)
    for run in range(3):
        module = encoder(task)
        assert task.shapes == tuple(tuple(p.shape) for p in module.parameters())
        nn.utils.vector_to_parameters(params[run], module.parameters())
        loss = reference_loss(task, module, images[run, :, 0], noise[run])
        grads = torch.autograd.grad(loss, tuple(module.parameters()))
        # Random numbers are made in float32.
        torch.testing.assert_close(state.latest[run], loss.detach(), rtol=1e-6, atol=1e-6)
        expected = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(state.grad[run], expected, rtol=1e-5, atol=1e-6)


def test_evaluation_is_the_mean_over_whole_batches():
    task = small()
    data, params = sample_runs(task, 2)
    noise = data.noise(torch.full((2,), -1), 13, task.noise).double()
    images, targets = data.validation()
    evaluated = core.evaluate(task, params, (images, targets), data)
    parts = [
        task.training_loss(
            task.unflatten(params),
            Batch(*(x[:, begin : begin + 5] for x in (images, targets, noise))),
            torch.empty(2, 0),
        )[0]
        for begin in (0, 5)  # three examples are left over
    ]
    torch.testing.assert_close(evaluated, torch.stack(parts).mean(0), **TOLERANCE)


def test_an_evaluation_of_few_examples_is_one_batch():
    task = small(num_validation=3)
    data, params = sample_runs(task, 2)
    loss = core.evaluate(task, params, data.validation(), data)
    assert loss.isfinite().all() and (loss < math.log(5) + 2 / task.temperature).all()


def test_equal_vectors_cost_the_log_of_the_other_views():
    task = small()
    data, params = sample_runs(task, 2)
    shapes = task.unflatten(torch.zeros_like(params))
    bias = tuple(p + 1.0 if p.shape[1:] == (3,) else p for p in shapes)
    batch = Batch(*data.train(5), data.noise(torch.zeros(2).long(), 5, task.noise))
    loss, _ = task.training_loss(bias, batch, torch.empty(2, 0))
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(9)))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"blank": 1.5}, r"blank must be a number in \[0, 1\], got 1.5"),
        ({"stripes": "0"}, r"stripes must be a number in \[0, 1\], got '0'"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"features": 0}, "features must be a positive integer, got 0"),
    ],
)
def test_an_impossible_task_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        small(**fields)


def test_work_counts_both_views_and_their_similarities():
    task = small()
    encoded = 2 * 5 * (36 * 7 + 7 * 7 + 7 * 3)
    assert task.work == encoded + 10 * 10 * 3
