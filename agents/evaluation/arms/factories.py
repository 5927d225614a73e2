"""Functions that make the optimizers of the arms, and a watcher and a schedule for them.

Each factory takes the parameters (Muon's, the module) and the announced length of the run.
Packages of the extra ``benchmark`` are imported where an optimizer is made, so that arms
whose package is installed run without the others.

The names of these functions are part of the key of every stored run: renaming a function
makes the stored runs of its arm unusable.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from optenv.actions import SCHEDULES
from optenv.extras import install_hint
from optenv.rules import RuleSpec

from .arm import Watcher
from .optimizers import AdamHD, MuonAdamW, OrthogonalAdam, ScheduleFreePlus

__all__ = [
    "adam_hd",
    "adamw",
    "dadapt_adam",
    "greedy",
    "import_optional",
    "mechanic_adamw",
    "muon",
    "nadamw",
    "orthogonal_adam",
    "pilot",
    "plateau",
    "prodigy",
    "schedule_free",
    "schedule_free_plus",
    "schedule_free_sgd",
    "sgd_momentum",
    "soap",
    "warmup_cosine",
]

Parameters = Iterable[nn.Parameter]

#: Fraction of the run for the warm-up of :func:`warmup_cosine`, :func:`schedule_free_plus`.
WARMUP_FRACTION = 0.05
#: Ratio of the smallest to the initial learning rate of :func:`greedy`, and of the initial
#: to the largest one.
GREEDY_BOUND = 0.01
#: Number of windows of a run over which :func:`plateau` averages the loss.
PLATEAU_WINDOWS = 50


def import_optional(module: str, name: str, package: str) -> Any:
    """Return ``name`` of an optional module.

    Args:
        module: name of the module.
        name: name of its attribute.
        package: name under which the module is installed, for the message.

    Raises:
        ImportError: the package is not installed, or no longer has the name; the message
            says how to install it.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"cannot import {name} of the package {package} ({error}), which the extra "
            f'"benchmark" has; {install_hint("benchmark")}'
        ) from error


# Optimizers of torch


def adamw(params: Parameters, total_updates: int, lr: float) -> Optimizer:
    """AdamW with torch's defaults except ``lr``; fused, which only makes it faster."""
    return torch.optim.AdamW(params, lr=lr, fused=True)


def nadamw(params: Parameters, total_updates: int) -> Optimizer:
    """Adam with Nesterov momentum (Dozat, 2016) and decoupled weight decay 1e-2."""
    return torch.optim.NAdam(
        params, lr=1e-3, weight_decay=1e-2, decoupled_weight_decay=True
    )


def sgd_momentum(params: Parameters, total_updates: int, lr: float) -> Optimizer:
    """SGD with momentum 0.9, without weight decay."""
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


# Optimizers of :mod:`.optimizers`


def adam_hd(params: Parameters, total_updates: int) -> Optimizer:
    """Adam with hypergradient descent as in the paper: lr 1e-3 at first, then adapted."""
    return AdamHD(params)


def schedule_free_plus(params: Parameters, total_updates: int) -> Optimizer:
    """ScheduleFree+ (Defazio, 2026), with three settings chosen on the selection tasks.

    The three are a warm-up, an average of the gradient's norm and a factor of 0.3 of the
    step size. All other settings are the reference implementation's. With its factor of 1,
    many runs of these small networks diverge.
    """
    warmup = round(WARMUP_FRACTION * total_updates)
    return ScheduleFreePlus(params, lr=0.3, warmup=warmup, norm_decay=0.9)


def muon(module: nn.Module, total_updates: int, lr: float = 1e-3) -> Optimizer:
    """Muon for the hidden weights, AdamW for the rest; AdamW's defaults except ``lr``.

    Muon is meant to be used this way. A perceptron with one hidden layer has no hidden
    weights, so that AdamW updates all of it.
    """
    return MuonAdamW(module, lr)


def orthogonal_adam(
    params: Parameters, total_updates: int, lr: float, spec: RuleSpec
) -> Optimizer:
    """Orthogonal Adam without a policy; ``spec`` has its hyperparameters."""
    return OrthogonalAdam(params, lr, spec)


# Optimizers of other packages


def schedule_free(params: Parameters, total_updates: int, lr: float = 2.5e-3) -> Optimizer:
    """Schedule-Free AdamW (Defazio et al., 2024) with its defaults except ``lr``."""
    return import_optional("schedulefree", "AdamWScheduleFree", "schedulefree")(
        params, lr=lr
    )


def schedule_free_sgd(params: Parameters, total_updates: int) -> Optimizer:
    """Schedule-Free SGD (Defazio et al., 2024) with its defaults: lr 1, momentum 0.9."""
    return import_optional("schedulefree", "SGDScheduleFree", "schedulefree")(params)


def prodigy(params: Parameters, total_updates: int) -> Optimizer:
    """Prodigy (Mishchenko & Defazio, 2023) with its defaults.

    Its authors advise a cosine schedule, or none.
    """
    return import_optional("prodigyopt", "Prodigy", "prodigyopt")(params, lr=1.0)


def dadapt_adam(params: Parameters, total_updates: int) -> Optimizer:
    """Adam with D-Adaptation (Defazio & Mishchenko, 2023) with its defaults, lr 1."""
    return import_optional("dadaptation", "DAdaptAdam", "dadaptation")(params, lr=1.0)


def mechanic_adamw(params: Parameters, total_updates: int) -> Optimizer:
    """AdamW whose learning rate is scaled by Mechanic (Cutkosky et al., 2023).

    The base learning rate is 1, as in the paper. The learning rate in force, which is the
    base one times Mechanic's scale, is in ``param_groups[i]["effective_lr"]``.
    """
    mechanize = import_optional("mechanic_pytorch", "mechanize", "mechanic-pytorch")

    def publish(optimizer: Optimizer, *_: Any) -> None:
        mechanic = optimizer.state.get("_mechanic")  # type: ignore[call-overload]
        # The hook is also called by the inner AdamW, which at first has no scale yet.
        if mechanic is not None:
            for group in optimizer.param_groups:
                group["effective_lr"] = group["lr"] * mechanic["s"].sum().item()

    optimizer: Optimizer = mechanize(torch.optim.AdamW)(params, lr=1.0)
    optimizer.register_step_post_hook(publish)
    return optimizer


def soap(params: Parameters, total_updates: int, lr: float = 3e-3) -> Optimizer:
    """SOAP (Vyas et al., 2024) with its defaults except ``lr``; weight decay 1e-2."""
    return import_optional("pytorch_optimizer", "SOAP", "pytorch_optimizer")(params, lr=lr)


def pilot(params: Parameters, total_updates: int) -> Optimizer:
    """PILOT (Altuuaim et al., 2026), which adapts its rule, with its defaults: lr 1e-3."""
    return import_optional("pilot", "PILOT", "pilot-optimizer")(params)


# A schedule and a watcher


def warmup_cosine(progress: float) -> float:
    """Return the factor of the learning rate: linear to 1 over 5 %, then a cosine to 0.

    Args:
        progress: fraction of the run, in [0, 1].
    """
    if progress < WARMUP_FRACTION:
        return progress / WARMUP_FRACTION
    return SCHEDULES["cosine"]((progress - WARMUP_FRACTION) / (1.0 - WARMUP_FRACTION))


def greedy(optimizer: Optimizer, total_updates: int) -> Watcher:
    """Return a watcher that raises the learning rate while the training loss falls.

    It is Transformers' ``GreedyLR`` (arXiv 2512.14527) with its defaults, except that it
    smooths the losses, since each is of one batch, and bounds the learning rate. The rate
    is divided by 0.95 after more than ten updates in a row that each lower the smoothed
    loss below all earlier ones, and multiplied by 0.95 after more than ten that do not.
    """
    make = import_optional("transformers.optimization", "GreedyLR", "transformers")
    rates = [group["lr"] for group in optimizer.param_groups]
    scheduler = make(
        optimizer,
        smooth=True,
        min_lr=[lr * GREEDY_BOUND for lr in rates],
        max_lr=[lr / GREEDY_BOUND for lr in rates],
    )
    return lambda loss: scheduler.step(loss)


def plateau(optimizer: Optimizer, total_updates: int) -> Watcher:
    """Return a watcher that lowers the learning rate when the training loss stagnates.

    It is torch's ``ReduceLROnPlateau`` with its defaults: the learning rate falls to a
    tenth after more than ten epochs without a loss below 0.9999 times the lowest. An epoch
    is a fiftieth of the run here, and its loss the mean over its updates, since the loss
    of one batch is too noisy.
    """
    scheduler = ReduceLROnPlateau(optimizer)
    window = max(1, total_updates // PLATEAU_WINDOWS)
    losses: list[float] = []

    def watch(loss: float) -> None:
        losses.append(loss)
        if len(losses) == window:
            scheduler.step(sum(losses) / window)
            losses.clear()

    return watch
