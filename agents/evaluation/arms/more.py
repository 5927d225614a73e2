"""Further optimizers to measure a learned policy against, for the full benchmark.

:func:`untuned_arms` has those that run as they come;
:data:`~agents.evaluation.arms.searches.SEARCHES` the rules that are tuned for each task.
Packages of the extra ``benchmark`` are imported where an optimizer is made, so that those
whose package is there can run without the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from optenv.actions import SCHEDULES
from optenv.rules import RuleSpec

from ...policy import load_policy
from .defaults import Arm, Watcher, adamw, default_arms
from .optimizers import AdamHD, MuonAdamW, OrthogonalAdam

__all__ = ["untuned_arms", "warmup_cosine"]

#: Rule of the shipped default policy, to compare with it without the policy.
RULE: RuleSpec = load_policy("default").rule.to_spec()

Parameters = Iterable[nn.Parameter]

#: Part of the run over which :func:`warmup_cosine` rises.
WARMUP = 0.05
#: Parts of the run whose mean loss :func:`plateau` looks at.
WINDOWS = 50


def imported(module: str, name: str, package: str) -> Any:
    """What ``module`` calls ``name``.

    Raises:
        ImportError: the package is not installed, or has it no longer; the message says
            how to install it.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"cannot import {name} of the package {package} ({error}); it comes with "
            'pip install "optenv[benchmark]"'
        ) from error


def warmup_cosine(progress: float) -> float:
    """Factor of the learning rate: linear from 0 to 1 over 5 %, then a cosine to 0.

    Args:
        progress: of the run, in [0, 1].
    """
    if progress < WARMUP:
        return progress / WARMUP
    return SCHEDULES["cosine"]((progress - WARMUP) / (1.0 - WARMUP))


def nadamw(params: Parameters, total_updates: int) -> Optimizer:
    """Adam with Nesterov momentum (Dozat, 2016) and decoupled weight decay 1e-2."""
    return torch.optim.NAdam(
        params, lr=1e-3, weight_decay=1e-2, decoupled_weight_decay=True
    )


def sgd_momentum(params: Parameters, total_updates: int, lr: float) -> Optimizer:
    """SGD with momentum 0.9, without weight decay."""
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


def orthogonal_adam(
    params: Parameters, total_updates: int, lr: float, spec: RuleSpec = RULE
) -> Optimizer:
    """The rule of the default policy, with its hyperparameters, without the policy."""
    return OrthogonalAdam(params, lr, spec)


def schedule_free_sgd(params: Parameters, total_updates: int) -> Optimizer:
    """Schedule-Free SGD (Defazio et al., 2024) with its defaults: lr 1, momentum 0.9."""
    return imported("schedulefree", "SGDScheduleFree", "schedulefree")(params)


def dadapt_adam(params: Parameters, total_updates: int) -> Optimizer:
    """Adam with D-Adaptation (Defazio & Mishchenko, 2023) with its defaults, lr 1."""
    return imported("dadaptation", "DAdaptAdam", "dadaptation")(params, lr=1.0)


def mechanic_adamw(params: Parameters, total_updates: int) -> Optimizer:
    """AdamW, its learning rate scaled by Mechanic (Cutkosky et al., 2023).

    The base learning rate is 1, as its authors have it; the one in force, which is that
    times Mechanic's scale, is in ``param_groups[i]["effective_lr"]``.
    """
    mechanize = imported("mechanic_pytorch", "mechanize", "mechanic-pytorch")

    def publish(optimizer: Optimizer, *_: Any) -> None:
        mechanic = optimizer.state.get("_mechanic")  # type: ignore[call-overload]
        # The hook is also called by the AdamW within, which at first has no scale yet.
        if mechanic is not None:
            for group in optimizer.param_groups:
                group["effective_lr"] = group["lr"] * mechanic["s"].sum().item()

    optimizer: Optimizer = mechanize(torch.optim.AdamW)(params, lr=1.0)
    optimizer.register_step_post_hook(publish)
    return optimizer


def adam_hd(params: Parameters, total_updates: int) -> Optimizer:
    """Adam with hypergradient descent as its authors have it: lr 1e-3, then adapted."""
    return AdamHD(params)


def soap(params: Parameters, total_updates: int, lr: float = 3e-3) -> Optimizer:
    """SOAP (Vyas et al., 2024) with its defaults but for ``lr``; weight decay 1e-2."""
    return imported("pytorch_optimizer", "SOAP", "pytorch_optimizer")(params, lr=lr)


def muon(module: nn.Module, total_updates: int) -> Optimizer:
    """Muon for the hidden weights, AdamW for the rest, both with AdamW's defaults.

    That is how Muon is meant to be used; a perceptron of two layers has no hidden weights,
    so that all of it is AdamW.
    """
    return MuonAdamW(module)


def pilot(params: Parameters, total_updates: int) -> Optimizer:
    """PILOT (Altuuaim et al., 2026), which adapts its rule, with its defaults: lr 1e-3."""
    return imported("pilot", "PILOT", "pilot-optimizer")(params)


def plateau(optimizer: Optimizer, total_updates: int) -> Watcher:
    """Lower the learning rate when the training loss no longer falls.

    Torch's ``ReduceLROnPlateau`` with its defaults: a tenth after more than ten epochs
    without a loss below 0.9999 times the lowest. An epoch is taken to be a fiftieth of the
    run, and its loss the mean over its updates, as the loss of one batch is too noisy.
    """
    scheduler = ReduceLROnPlateau(optimizer)
    window = max(1, total_updates // WINDOWS)
    losses: list[float] = []

    def watch(loss: float) -> None:
        losses.append(loss)
        if len(losses) == window:
            scheduler.step(sum(losses) / window)
            losses.clear()

    return watch


def untuned_arms() -> list[Arm]:
    """All baselines that run with their defaults, those of the short table first.

    Those that are meant to be scheduled follow a cosine to 0, NAdamW after a warm-up.
    AdamW's default, Schedule-Free and hypergradient descent are not scheduled, and one is
    by its plateaus. An arm whose package is missing raises an ImportError when it is run,
    not here.
    """
    cosine = SCHEDULES["cosine"]
    return [
        *default_arms(),
        Arm("NAdamW warm-up + cosine", nadamw, warmup_cosine),
        Arm("AdamW plateau", partial(adamw, lr=1e-3), watch=plateau),
        Arm("Schedule-Free SGD", schedule_free_sgd),
        Arm("D-Adapt Adam", dadapt_adam, cosine),
        Arm("Mechanic AdamW", mechanic_adamw, cosine),
        Arm("Adam-HD", adam_hd),
        Arm("SOAP", soap, cosine),
        Arm("Muon + AdamW", muon, cosine, takes_module=True),
        Arm("PILOT", pilot, cosine),
    ]
