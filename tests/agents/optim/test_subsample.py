"""Subsamples of large tensors, on which telemetry is measured."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from agents.optim import subsample
from agents.optim.probe import UpdateProbe, _measured_part
from agents.optim.tensors import GradientBatch, real
from optenv import tasks
from tests.helpers.loops import STEPS
from tests.helpers.policies import random_policy

SHAPES = [
    (400, 600), (4000, 64), (512, 1024), (300, 784), (160_000,), (1200, 16, 3, 3),
    (3, 200_000),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_subsamples_of_all_large_tensors_have_about_the_same_size(shape):
    taken = subsample.subsample(torch.zeros(shape))
    assert taken.shape == (subsample.subsample_numel(torch.Size(shape)),)
    assert (
        subsample.MAX_NUMEL / 3 < len(taken) <= subsample.MAX_NUMEL
    )  # not to be sampled again


@pytest.mark.parametrize("shape", SHAPES)
def test_subsamples_cover_every_column(shape):
    column = torch.arange(shape[-1]).expand(shape).contiguous()
    whole = torch.arange(math.prod(shape)).view(shape[0], -1) % math.prod(shape[1:])
    for numbers, groups in ((column, shape[-1]), (whole, math.prod(shape[1:]))):
        if groups <= 1024 and len(shape) > 1:
            assert len(subsample.subsample(numbers.view(shape)).unique()) == groups


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_shards_are_subsampled_like_the_full_tensor(shape, parts):
    tensor, begin, found = torch.arange(math.prod(shape)).view(shape), 0, []
    for part in tensor.chunk(parts):
        found.append(subsample.subsample(part, torch.Size(shape), begin))
        begin += part.numel()
    assert torch.equal(torch.cat(found), subsample.subsample(tensor))


def test_memory_layout_does_not_change_the_subsample():
    tensor = torch.randn(300, 500)
    assert torch.equal(
        subsample.subsample(tensor.T.contiguous().T), subsample.subsample(tensor)
    )


def test_a_complex_number_counts_as_two():
    tensor = torch.randn(300, 300, dtype=torch.complex64)
    assert subsample.is_subsampled(tensor) and not subsample.is_subsampled(tensor[:100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_inner_products_on_a_subsample_are_close_to_the_full_ones(dtype, monkeypatch):
    torch.manual_seed(0)
    params = [torch.randn(shape, dtype=dtype) for shape in [(800, 300), (300,), (300, 600)]]
    grads = [0.3 * p + torch.randn_like(p) for p in params]
    last = [grad + torch.randn_like(grad) for grad in grads]
    step = [torch.randn_like(grad) - grad for grad in grads]

    def probe():
        kept = {
            p: {
                "last_grad": real(_measured_part(a)), "last_step": real(_measured_part(b)),
                "watched": torch.ones(()),
            }
            for p, a, b in zip(params, last, step, strict=True)
        }  # fmt: skip
        batch = GradientBatch([], [], params, grads, kept)
        return torch.cat(UpdateProbe().measure(batch, torch.float32))

    found = probe()
    monkeypatch.setattr(subsample, "MAX_NUMEL", sys.maxsize)
    torch.testing.assert_close(found, probe(), rtol=0.03, atol=0.0)


@pytest.mark.parametrize("guard", ["step", "probe"])
def test_buffers_are_bounded_however_large_a_layer_is(guard):
    model = nn.Linear(1000, 1000)
    arguments = {"total_steps": STEPS, "guard": guard}
    optimizer = LearnedOptimizer(model.parameters(), random_policy(), **arguments)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 1000)).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    own = optimizer.state[model.weight]
    waiting = sum(own[name].numel() for name in ("last_grad", "last_step"))
    assert waiting <= 2 * subsample.MAX_NUMEL
    assert all(abs(row["cos_grads"]) < 4 for row in optimizer.explain())
    assert any(row["cos_step"] for row in optimizer.explain())


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_environments_networks_are_measured_in_full(split):
    rng = np.random.default_rng(0)
    sampler = tasks.make(split)
    for _ in range(300):
        shapes = sampler.draw(rng).shapes
        assert all(math.prod(shape) <= subsample.MAX_NUMEL for shape in shapes)
