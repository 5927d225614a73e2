"""Adam-HD, ScheduleFree+ and Muon with AdamW, against hand computations and torch."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from agents.evaluation.arms.optimizers import (
    AdamHD,
    MuonAdamW,
    ScheduleFreePlus,
    hidden_weights,
)
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


# ScheduleFree+


def quadratic(x, y):
    return x**2 + 3 * y**2


@pytest.mark.parametrize(
    "settings",
    [{}, {"lr": 0.3, "annealing": 3, "warmup": 2, "norm_decay": 0.5, "averaging": 0.8}],
)
def test_schedule_free_plus_equals_a_hand_computation(settings):
    lr, annealing, warmup, decay, first = (
        settings.get(name, default)
        for name, default in (
            ("lr", 1.0), ("annealing", 0), ("warmup", 0), ("norm_decay", 0.0),
            ("averaging", 0.9),
        )
    )  # fmt: skip
    beta1, beta2, eps = 0.9, 0.95, 1e-8
    y = [1.0, -2.0]
    x, z, means, squares = list(y), list(y), [0.0, 0.0], [0.0, 0.0]
    norm = total = largest = 0.0
    parameter = torch.nn.Parameter(torch.tensor(y, dtype=torch.float64))
    optimizer = ScheduleFreePlus([parameter], **settings)
    for t in range(1, 6):
        loss, gradient = quadratic(*y), quadratic_gradient(*y)
        done = min((t - 1) / annealing, 1.0) if annealing else 0.0
        beta = 1 - (1 - first) ** (1 - done) * (1 - 0.965) ** done
        offset = sum(g * (b - a) for g, a, b in zip(gradient, x, z, strict=True))
        size = sum(map(abs, gradient)) * math.sqrt(math.pi / 2)
        norm = decay * norm + (1 - decay) * size
        rate = max(0.0, loss + beta * offset) / (norm / (1 - decay**t))
        rate *= lr * (min(1.0, t / warmup) if warmup else 1.0)
        largest = max(largest, rate)
        total += largest**2
        for i in (0, 1):
            means[i] = beta1 * means[i] + (1 - beta1) * gradient[i]
            squares[i] = beta2 * squares[i] + (1 - beta2) * gradient[i] ** 2
            root = math.sqrt(squares[i] / (1 - beta2**t)) + eps
            z[i] -= rate * means[i] / (1 - beta1**t) / root
            x[i] += largest**2 / total * (z[i] - x[i])
            y[i] = beta * x[i] + (1 - beta) * z[i]
        optimizer.zero_grad()
        quadratic(*parameter).backward()
        optimizer.step(loss=torch.tensor(loss, dtype=torch.float64))
        assert parameter.tolist() == pytest.approx(y, rel=1e-10)
        assert optimizer.param_groups[0]["effective_lr"] == pytest.approx(rate, rel=1e-10)
    optimizer.eval()
    optimizer.eval()
    assert parameter.tolist() == pytest.approx(x, rel=1e-10)
    with pytest.raises(RuntimeError, match=r"call train\(\) before a step"):
        optimizer.step(loss=1.0)
    optimizer.train()
    assert parameter.tolist() == pytest.approx(y, rel=1e-10)


def test_schedule_free_plus_stands_still_where_loss_and_gradient_are_zero():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = ScheduleFreePlus([parameter])
    for loss in (0.0, 1.0):
        parameter.grad = torch.zeros(2)
        optimizer.step(loss=loss)
        assert parameter.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"averaging": 1.0}, r"averaging must be a number in \[0, 1\), got 1.0"),
        ({"norm_decay": math.nan}, r"norm_decay must be a number in \[0, 1\), got nan"),
        ({"lr": -1.0}, "lr must be a number of at least 0, got -1.0"),
        ({"warmup": "1"}, "warmup must be a number of at least 0, got '1'"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
    ],
)
def test_schedule_free_plus_refuses_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        ScheduleFreePlus([torch.nn.Parameter(torch.ones(2))], **settings)


def test_schedule_free_plus_refuses_to_lose_its_sums_in_a_checkpoint():
    optimizer = ScheduleFreePlus([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(NotImplementedError, match="cannot be saved"):
        optimizer.state_dict()
    with pytest.raises(NotImplementedError, match="cannot be restored"):
        optimizer.load_state_dict({})
