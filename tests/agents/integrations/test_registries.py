"""Registries of optimizers make the learned optimizer by name."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from agents.integrations.registries import (
    register_with_pytorch_optimizer,
    register_with_timm,
)
from tests.helpers.loops import STEPS, batches, make_model, train


def decays(optimizer):
    """Return the weight decay of the weights and that of the biases."""
    found = {
        p.ndim > 1: group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    return found[True], found[False]


def check_training(make):
    """Hold that ``make(model)`` returns a learned optimizer that trains and decays."""
    model = make_model()
    optimizer = make(model)
    assert type(optimizer) is LearnedOptimizer and optimizer.total_steps == STEPS
    assert decays(optimizer) == (0.01, 0.0)
    assert {group["lr"] for group in optimizer.param_groups} == {3e-3}
    before = mean_loss(model)
    train(model, optimizer, batches())
    assert mean_loss(model) < before - 0.02


@torch.no_grad()
def mean_loss(model):
    """Return the mean loss on all batches: on one of random targets it may rise."""
    losses = [nn.functional.cross_entropy(model(x), y) for x, y in batches()]
    return torch.stack(losses).mean()


class TestPytorchOptimizer:
    @pytest.fixture
    def package(self, monkeypatch):
        """The package, whose registry is restored after the test."""
        package = pytest.importorskip(
            "pytorch_optimizer",
            reason="pytorch_optimizer is not installed (extra: benchmark)",
        )
        table = dict(package.optimizer.OPTIMIZERS)
        monkeypatch.setattr(package.optimizer, "OPTIMIZERS", table)
        return package

    def test_it_makes_trains_and_lists_the_optimizer(self, package):
        register_with_pytorch_optimizer()
        check_training(
            lambda model: package.create_optimizer(
                model, "learned", lr=3e-3, weight_decay=0.01, total_steps=STEPS
            )
        )
        assert package.load_optimizer("Learned") is LearnedOptimizer
        assert package.get_supported_optimizers("learn*") == ["learned"]

    def test_a_second_call_changes_nothing(self, package):
        register_with_pytorch_optimizer()
        before = dict(package.optimizer.OPTIMIZERS)
        register_with_pytorch_optimizer()
        assert package.optimizer.OPTIMIZERS == before

    @pytest.mark.parametrize("name", ["adamw", "Learned", "", 3])
    def test_names_that_would_not_work_are_refused(self, package, name):
        before = dict(package.optimizer.OPTIMIZERS)
        with pytest.raises(ValueError, match=r"already|lower case"):
            register_with_pytorch_optimizer(name)
        assert package.optimizer.OPTIMIZERS == before


class TestTimm:
    @pytest.fixture
    def package(self, monkeypatch):
        """The package, whose registry is restored after the test."""
        package = pytest.importorskip("timm.optim", reason="timm is not installed")
        registry = package._optim_factory.default_registry
        monkeypatch.setattr(registry, "_optimizers", dict(registry._optimizers))
        return package

    def test_it_makes_trains_and_lists_the_optimizer(self, package):
        register_with_timm()
        check_training(
            lambda model: package.create_optimizer_v2(
                model, "learned", lr=3e-3, weight_decay=0.01, total_steps=STEPS
            )
        )
        assert package.list_optimizers("learn*") == ["learned"]
        assert package.get_optimizer_class("learned", False) is LearnedOptimizer

    def test_the_arguments_of_its_training_program_are_taken(self, package):
        register_with_timm()
        model = make_model()
        optimizer = package.create_optimizer_v2(
            model, "learned", lr=1e-3, momentum=0.9, eps=1e-7, betas=(0.9, 0.99),
            policy="adam", total_steps=STEPS,
        )  # fmt: skip
        assert all(group["eps"] == 1e-7 for group in optimizer.param_groups)
        assert all(group["betas"] == (0.9, 0.99) for group in optimizer.param_groups)

    def test_its_schedulers_and_the_policy_apply_the_lower_factor(self, package):
        from timm.scheduler import CosineLRScheduler

        register_with_timm()
        model = make_model()
        optimizer = package.create_optimizer_v2(
            model, "learned", lr=1e-3, total_steps=STEPS
        )
        scheduler = CosineLRScheduler(
            optimizer, STEPS, warmup_t=5, warmup_lr_init=1e-5, t_in_epochs=False
        )
        for step, batch in enumerate(batches()):
            train(model, optimizer, [batch])
            numbers = optimizer.log_dict()
            assert (
                numbers["lr"]
                <= 1.0001 * optimizer.param_groups[0]["lr"] * numbers["multiplier"]
            )
            scheduler.step_update(step + 1)
        # The cosine is below the policy's own fall at the last step.
        falls = numbers["lr"] / (numbers["multiplier"] * 1e-3)
        assert falls < 1 / (0.3 * STEPS)

    def test_a_second_call_changes_nothing(self, package):
        register_with_timm()
        before = package.list_optimizers()
        register_with_timm()
        assert package.list_optimizers() == before

    @pytest.mark.parametrize("name", ["adamw", "Learned", "", 3, "learned_lr"])
    def test_names_that_would_not_work_are_refused(self, package, name):
        before = package.list_optimizers()
        with pytest.raises(ValueError, match=r"already|lower case|no '_'"):
            register_with_timm(name)
        assert package.list_optimizers() == before


@pytest.mark.parametrize(
    ("register", "package"),
    [
        (register_with_pytorch_optimizer, "pytorch_optimizer.optimizer"),
        (register_with_timm, "timm.optim"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, register, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package.split('.')[0]}.*pip install"):
        register()
