"""Autoencoders equal ordinary modules; the bound of a VAE is that of its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from optenv import core, rules
from optenv.tasks import VAE, Autoencoder
from optenv.tasks.autoencoder import VARIANCE_GAIN
from tests.helpers.small_runs import sample_runs

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
NETWORKS = [("perceptron", 2), ("convolutional", 2), ("convolutional", 1)]


def small(kind: type[Autoencoder] = Autoencoder, **fields: Any) -> Autoencoder:
    given = {
        "batch_size": 5, "num_train": 30, "num_validation": 10, "side": 8, "width": 3,
        "latent": 2, "activation": "tanh",
    }  # fmt: skip
    return kind(**{**given, **fields})


def modules(task: Autoencoder) -> tuple[nn.Module, nn.Module]:
    """Return encoder and decoder of one run, of torch's own modules."""
    codes = 2 * task.latent if isinstance(task, VAE) else task.latent
    pixels, width = task.side**2, task.width
    if task.network == "perceptron":
        encoder: list[nn.Module] = [nn.Flatten(), nn.Linear(pixels, width), nn.Tanh()]
        decoder: list[nn.Module] = [nn.Linear(task.latent, width), nn.Tanh()]
        for _ in range(task.depth - 1):
            encoder += [nn.Linear(width, width), nn.Tanh()]
            decoder += [nn.Linear(width, width), nn.Tanh()]
        encoder.append(nn.Linear(width, codes))
        decoder += [nn.Linear(width, pixels), nn.Unflatten(1, (1, task.side, task.side))]
    else:
        channels = [1] + [width * 2**level for level in range(task.depth)]
        least = task.side // 2**task.depth
        flat = channels[-1] * least**2
        encoder = []
        for level in range(task.depth):
            encoder.append(nn.Conv2d(channels[level], channels[level + 1], 3, 2, 1))
            encoder.append(nn.Tanh())
        encoder += [nn.Flatten(), nn.Linear(flat, codes)]
        decoder = [nn.Linear(task.latent, flat), nn.Tanh()]
        decoder.append(nn.Unflatten(1, (channels[-1], least, least)))
        for level in reversed(range(task.depth)):
            decoder.append(nn.Upsample(scale_factor=2))
            decoder.append(nn.Conv2d(channels[level + 1], channels[level], 3, 1, 1))
            decoder += [nn.Tanh()] if level else []
    return nn.Sequential(*encoder).double(), nn.Sequential(*decoder).double()


def first_batch(task: Autoencoder, runs: int) -> tuple[Any, Tensor, core.RunState, Tensor]:
    """Return data, parameters, state, and the images of the first batch."""
    data, params = sample_runs(task, runs)
    params = params + 0.1 * torch.randn(
        params.shape, generator=torch.Generator().manual_seed(0), dtype=params.dtype
    )
    state = core.start(task, rules.get("sgd"), data, params)
    rows = data.batch_rows(torch.zeros(runs, dtype=torch.int64), 1, task.batch_size)
    return data, params, state, data.batch(rows)[0]


@pytest.mark.parametrize(("network", "depth"), NETWORKS)
def test_loss_and_gradient_are_those_of_the_module(network, depth):
    task = small(network=network, depth=depth)
    _, params, state, images = first_batch(task, 3)
    for run in range(3):
        pair = nn.ModuleList(modules(task))
        assert task.shapes == tuple(tuple(p.shape) for p in pair.parameters())
        nn.utils.vector_to_parameters(params[run], pair.parameters())
        outputs = pair[1](pair[0](images[run]))
        loss = 0.5 * nn.functional.mse_loss(outputs, images[run])
        grads = torch.autograd.grad(loss, tuple(pair.parameters()))
        expected = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(state.latest[run], loss.detach(), **TOLERANCE)
        torch.testing.assert_close(state.grad[run], expected, **TOLERANCE)


@pytest.mark.parametrize(("network", "depth"), NETWORKS)
def test_the_bound_and_its_gradient_are_those_of_distributions(network, depth):
    task = small(VAE, network=network, depth=depth, beta=1.7)
    assert isinstance(task, VAE)
    data, params, state, images = first_batch(task, 3)
    noise = data.noise(torch.zeros(3, dtype=torch.int64), task.batch_size, task.latent)
    for run in range(3):
        variance = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        pair = nn.ModuleList(modules(task))
        every = [*pair.parameters(), variance]
        assert task.shapes == tuple(tuple(p.shape) for p in every)
        nn.utils.vector_to_parameters(params[run], every)
        mean, log_variance = pair[0](images[run]).chunk(2, dim=1)
        posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
        prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
        outputs = pair[1](mean + posterior.stddev * noise[run])
        likelihood = Normal(outputs, (0.5 * VARIANCE_GAIN * variance).exp())
        bound = likelihood.log_prob(images[run]).sum((1, 2, 3)) - task.beta * kl_divergence(
            posterior, prior
        )
        loss = -bound.mean() / 64
        grads = torch.autograd.grad(loss, every)
        expected = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(state.latest[run], loss.detach(), **TOLERANCE)
        torch.testing.assert_close(state.grad[run], expected, **TOLERANCE)


def test_the_loss_of_a_vae_goes_below_zero():
    task = VAE(
        source="digits", classes=10, batch_size=16, width=64, latent=8, num_validation=64,
        init_spread=0.0, contrast_spread=0.0,
    )  # fmt: skip
    data, params = sample_runs(task, 4, dtype=torch.float32)
    rule = rules.get("adam")
    state = core.start(task, rule, data, params)
    before = core.evaluate(task, params, data.train(128), data)
    state = core.advance(task, rule, data, state, torch.full((200, 4), 1e-2))
    after = core.evaluate(task, state.params, data.train(128), data)
    assert (before > 0.9).all() and (after < before - 0.5).all()
    assert (after < 0).all()


def test_evaluations_of_a_vae_use_the_same_noise_and_updates_do_not():
    task = small(VAE)
    data, params = sample_runs(task, 2)
    losses = [core.evaluate(task, params, data.validation(), data) for _ in range(2)]
    assert torch.equal(*losses)
    rows = data.batch_rows(torch.zeros(2, dtype=torch.int64), 1, 5)
    images, _ = data.batch(rows)
    assert len(torch.unique(data.noise(torch.tensor([0, 1]), 5, 2), dim=0)) == 2
    moved = core.start(task, rules.get("sgd"), data, params).latest
    assert not torch.allclose(moved, core.evaluate(task, params, (images, rows), data))


def test_a_code_begins_near_the_prior():
    task = VAE(source="shapes", network="convolutional", depth=2, width=8)
    data, params = sample_runs(task, 8)
    codes = task._encode(iter(task.unflatten(params)), data.train(64)[0])
    assert codes.abs().mean() < 0.3 and codes.std() > 0.001


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"network": "linear"}, "unknown network 'linear'; valid: perceptron, conv"),
        ({"latent": 0}, "latent must be a positive integer, got 0"),
        (
            {"network": "convolutional", "side": 10, "depth": 2},
            "multiple of 4 for 2 convolutions, got 10",
        ),
        ({"contrast": 0.0}, "contrast must be positive and finite, got 0.0"),
    ],
)
def test_an_impossible_autoencoder_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        small(**fields)


@pytest.mark.parametrize("beta", [0.0, -1.0, np.inf])
def test_an_impossible_weight_of_the_divergence_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be positive and finite"):
        small(VAE, beta=beta)


def test_work_counts_encoder_and_decoder():
    task = small(width=3, latent=2, depth=1)
    assert task.work == 5 * (64 * 3 + 3 * 2 + 2 * 3 + 3 * 64)
    task = small(network="convolutional", width=3, latent=2, depth=1)
    assert task.work == 5 * (16 * 27 + 48 * 2 + 2 * 48 + 64 * 27)
