"""Adam-HD, and Muon with AdamW, against hand computations and torch."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from agents.evaluation.arms.optimizers import AdamHD, MuonAdamW, hidden_weights
from agents.evaluation.tasks.heldout import HELDOUT

needs_muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon needs torch 2.9"
)

# Adam-HD


def quadratic_gradient(x, y):
    """Of ``x^2 + 3 y^2``."""
    return [2 * x, 6 * y]


def test_adam_hd_equals_a_hand_computation():
    lr, hyper_lr, beta1, beta2, eps = 0.1, 1e-3, 0.9, 0.99, 1e-8
    # A step of Adam starts at the sign of the gradient: [1, -1].
    theta, means, squares, last = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    parameter = torch.nn.Parameter(torch.tensor(theta, dtype=torch.float64))
    optimizer = AdamHD([parameter], lr, hyper_lr, (beta1, beta2), eps)
    for t in (1, 2, 3):
        gradient = quadratic_gradient(*theta)
        lr += hyper_lr * (gradient[0] * last[0] + gradient[1] * last[1])
        for i in (0, 1):
            means[i] = beta1 * means[i] + (1 - beta1) * gradient[i]
            squares[i] = beta2 * squares[i] + (1 - beta2) * gradient[i] ** 2
            corrected = squares[i] / (1 - beta2**t)
            last[i] = means[i] / (1 - beta1**t) / (math.sqrt(corrected) + eps)
            theta[i] -= lr * last[i]
        optimizer.zero_grad()
        loss = (parameter.square() * torch.tensor([1.0, 3.0])).sum()
        loss.backward()
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr, rel=1e-12)
        assert parameter.tolist() == pytest.approx(theta, rel=1e-12)
    assert lr > 0.12  # 0.1, then up by 0.001 (1.8 + 11.4) and about as much again


def test_adam_hd_without_hypergradient_is_adam():
    def run(make):
        module = torch.nn.Linear(3, 2)
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p))
        optimizer = make(module.parameters())

        def closure():
            optimizer.zero_grad()
            loss = module(torch.eye(3)).square().sum()
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(30)]
        return losses, optimizer

    found, optimizer = run(partial(AdamHD, lr=1e-2, hyper_lr=0.0))
    assert found == pytest.approx(run(partial(torch.optim.Adam, lr=1e-2))[0], rel=1e-5)
    assert optimizer.param_groups[0]["lr"] == 1e-2
    other = AdamHD(
        [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))]
    )
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 1e-2


@pytest.mark.parametrize(
    "settings", [{"lr": -1.0}, {"hyper_lr": math.nan}, {"eps": "1"}, {"betas": (0.9, 1.0)}]
)
def test_adam_hd_refuses_settings_out_of_range(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=name) as caught:
        AdamHD([torch.nn.Parameter(torch.ones(2))], **settings)
    assert repr(value) in str(caught.value)


# Muon


def test_hidden_weights_are_neither_first_nor_last_nor_embeddings():
    hidden = {}
    for task in HELDOUT:
        module = task.network()
        named = {id(p): name for name, p in module.named_parameters()}
        hidden[task.name] = [named[id(p)] for p in hidden_weights(module)]
    assert hidden["photo-cnn"] == ["3.weight"]
    assert hidden["friedman"] == ["2.weight"]
    assert hidden["code-lstm"] == ["recurrent.weight_ih_l0", "recurrent.weight_hh_l0"]
    assert len(hidden["code-transformer"]) == 4
    assert all(name.startswith("block.") for name in hidden["code-transformer"])


@needs_muon
def test_muon_and_adamw_update_separate_groups_with_their_own_lr():
    module = torch.nn.Sequential(*(torch.nn.Conv2d(2, 2, 3, padding=1) for _ in range(3)))
    optimizer = MuonAdamW(module)
    middle = module[1].weight
    muon, other = optimizer.param_groups
    assert muon["params"] == [middle] and len(other["params"]) == 5

    def moved(rates):
        muon["lr"], other["lr"] = rates
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        optimizer.zero_grad()
        module(torch.ones(1, 2, 5, 5)).square().mean().backward()
        optimizer.step()
        now = module.named_parameters()
        return {name: (p - before[name]).abs().max().item() for name, p in now}

    steps = moved([1e-3, 0.0])
    assert steps.pop("1.weight") > 1e-4 and set(steps.values()) == {0.0}
    steps = moved([0.0, 1e-3])
    assert steps.pop("1.weight") == 0.0 and min(steps.values()) > 1e-4
    with pytest.raises(NotImplementedError, match="saved"):
        optimizer.state_dict()
    linear = MuonAdamW(torch.nn.Linear(2, 1))  # nothing is hidden
    assert linear.param_groups[0]["params"] == []
    linear.step()
