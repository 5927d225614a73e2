"""Convolutional classifiers equal ordinary modules, with all three normalisations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optenv import core, rules, tasks
from optenv.tasks import CNN
from optenv.tasks.examples import Batch
from tests.helpers.small_runs import sample_runs

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
NORMS = ("batch", "group", "none")


def small(**fields: Any) -> CNN:
    given = {
        "batch_size": 6, "num_train": 30, "num_validation": 10, "side": 7, "classes": 3,
        "width": 4, "activation": "silu",
    }  # fmt: skip
    return CNN(**{**given, **fields})


class Reference(nn.Module):
    """The network of one run, of torch's own modules."""

    def __init__(self, task: CNN) -> None:
        super().__init__()
        self.task = task
        self.layers = nn.ModuleList()
        for inputs, outputs, stride, _, _ in task.convolutions:
            plain = task.norm == "none"
            self.layers.append(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=plain))
            if task.norm == "batch":
                self.layers.append(nn.BatchNorm2d(outputs))
            elif task.norm == "group":
                self.layers.append(nn.GroupNorm(task.norm_groups, outputs))
        self.head = nn.Linear(4 * outputs, task.classes)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        layers, hidden = iter(self.layers), images
        for convolution in self.task.convolutions:
            new = next(layers)(hidden)
            if self.task.norm != "none":
                new = next(layers)(new)
            hidden = F.silu(hidden + new if convolution.residual else new)
        return self.head(F.adaptive_avg_pool2d(hidden, 2).flatten(1))

    def statistics(self) -> Tensor:
        """Return the running statistics in the order of the modules."""
        norms = [m for m in self.layers if isinstance(m, nn.BatchNorm2d)]
        parts = [p for m in norms for p in (m.running_mean, m.running_var)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stages": 1, "depth": 2, "residual": False},
        {"stages": 3, "side": 9, "width": 6, "norm_groups": 3},
    ],
)
def test_loss_gradient_and_statistics_are_those_of_the_module(norm, fields):
    task = small(norm=norm, **fields)
    data, params = sample_runs(task, 3)
    params = params + 0.1 * torch.randn(
        params.shape, generator=torch.Generator().manual_seed(0), dtype=params.dtype
    )
    state = core.start(task, rules.get("sgd"), data, params)
    updates = torch.zeros(3, dtype=torch.int64)
    inputs, targets = data.batch(data.batch_rows(updates, 1, task.batch_size))
    examples = data.validation()
    evaluated = core.evaluate(task, params, examples, data, state.buffers)
    for run in range(3):
        module = Reference(task)
        assert task.shapes == tuple(tuple(p.shape) for p in module.parameters())
        nn.utils.vector_to_parameters(params[run], module.parameters())
        loss = F.cross_entropy(module(inputs[run]), targets[run])
        grads = torch.autograd.grad(loss, tuple(module.parameters()))
        torch.testing.assert_close(state.latest[run], loss.detach(), **TOLERANCE)
        expected = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(state.grad[run], expected, **TOLERANCE)
        torch.testing.assert_close(state.buffers[run], module.statistics(), **TOLERANCE)
        module.eval()
        with torch.no_grad():
            loss = F.cross_entropy(module(examples[0][run]), examples[1][run])
        torch.testing.assert_close(evaluated[run], loss, **TOLERANCE)


def test_running_statistics_follow_torch_over_many_updates():
    task = small(norm="batch")
    data, params = sample_runs(task, 2)
    rule, lr = rules.get("sgd"), 0.05
    state = core.start(task, rule, data, params)
    end = core.advance(task, rule, data, state, torch.full((5, 2), lr, dtype=params.dtype))
    rows = data.batch_rows(torch.zeros(2, dtype=torch.int64), 6, task.batch_size)
    inputs, targets = data.batch(rows)
    for run in range(2):
        module = Reference(task)
        nn.utils.vector_to_parameters(params[run], module.parameters())
        optimizer = torch.optim.SGD(module.parameters(), lr)
        for update in range(6):  # the last one only takes loss and statistics
            batch = slice(update * task.batch_size, (update + 1) * task.batch_size)
            loss = F.cross_entropy(module(inputs[run, batch]), targets[run, batch])
            optimizer.zero_grad()
            loss.backward()
            if update < 5:
                optimizer.step()
        flat = nn.utils.parameters_to_vector(module.parameters()).detach()
        torch.testing.assert_close(end.params[run], flat, **TOLERANCE)
        torch.testing.assert_close(end.buffers[run], module.statistics(), **TOLERANCE)
        torch.testing.assert_close(end.latest[run], loss.detach(), **TOLERANCE)


def test_evaluation_with_batch_norm_does_not_depend_on_the_other_examples():
    task = small(norm="batch")
    data, params = sample_runs(task, 2)
    state = core.start(task, rules.get("sgd"), data, params)
    inputs, targets = data.validation()
    together = core.evaluate(task, params, (inputs, targets), data, state.buffers)
    single = [
        core.evaluate(
            task, params, (inputs[:, i : i + 1], targets[:, i : i + 1]), data, state.buffers
        )
        for i in range(10)
    ]
    torch.testing.assert_close(torch.stack(single).mean(0), together)


def test_a_training_loss_leaves_the_statistics_it_is_given_alone():
    task = small(norm="batch")
    for runs in (1, 2):
        data, params = sample_runs(task, runs)
        buffers = task.init_buffers(runs).double()
        before = buffers.clone()
        batch = Batch(*data.train(6), torch.empty(runs, 6, 0))
        _, after = task.training_loss(task.unflatten(params), batch, buffers)
        assert torch.equal(buffers, before)
        assert after.shape == before.shape and not torch.equal(after, before)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [4, 12])
def test_a_run_that_is_not_finite_leaves_the_others_as_they_are(norm, width):
    task = small(norm=norm, width=width, side=8)
    data, params = sample_runs(task, 5, dtype=torch.float32)
    broken = params.clone()
    broken[2] = torch.nan
    others = torch.tensor([0, 1, 3, 4])
    rule = rules.get("adam")
    lr = torch.full((2, 5), 1e-3)
    expected, actual = (
        core.advance(task, rule, data, core.start(task, rule, data, p), lr)
        for p in (params, broken)
    )
    assert not actual.latest[2].isfinite()
    for name in ("params", "grad", "latest", "buffers"):
        one, two = getattr(expected, name)[others], getattr(actual, name)[others]
        assert one.isfinite().all()
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_work_counts_the_multiplications_of_convolutions_and_output():
    task = small(side=8, width=4, stages=2, depth=1, norm="none", batch_size=5)
    first, same = 64 * 9 * 1 * 4, 64 * 9 * 4 * 4
    halved, last = 16 * 9 * 4 * 8, 16 * 9 * 8 * 8
    assert task.work == 5 * (first + same + halved + last + 32 * 3)
    assert small(side=8, norm="batch").work == small(side=8, norm="none").work


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"norm": "layer"}, "unknown norm 'layer'; valid: batch, group, none"),
        ({"width": 0}, "width must be a positive integer, got 0"),
        ({"norm": "group", "width": 5}, r"width must be a multiple of norm_groups \(2\)"),
        ({"stages": 4, "side": 8}, "at least 2 of 8 pixels on a side, got 4"),
        ({"activation": "swish"}, "unknown activation 'swish'; valid: relu, tanh"),
    ],
)
def test_an_impossible_network_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        small(**fields)


def test_batch_norm_trains_and_evaluates_well_with_its_running_statistics():
    task = tasks.CNN(source="shapes", norm="batch", num_train=256, num_validation=64)
    data, params = sample_runs(task, 3, dtype=torch.float32)
    rule = rules.get("adam")
    state = core.start(task, rule, data, params)
    state = core.advance(task, rule, data, state, torch.full((60, 3), 1e-2))
    batch = data.train(128)
    trained = core.evaluate(task, state.params, batch, data, state.buffers)
    assert (trained < 1.1).all()  # that of equal chances is 1.39
    assert (core.evaluate(task, state.params, batch, data) > trained).all()
