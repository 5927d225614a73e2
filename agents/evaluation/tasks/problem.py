"""What is trained to judge an optimizer: a model, its batches and a validation set."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import is_number

#: Inputs ``[n, ...]`` and targets ``[n, ...]``.
Batch = tuple[Tensor, Tensor]
Split = Literal["train", "validation"]


@dataclass(frozen=True)
class Problem:
    """A task at one seed: the same model, batches and validation set for every optimizer.

    Attributes:
        module: freshly initialised; train it.
        batch: the batch of update ``t``, whatever was asked for before.
        objective: scalar loss of outputs and targets.
        validation: examples from a part of the data that no batch touches.
    """

    module: nn.Module
    batch: Callable[[int], Batch]
    objective: Callable[[Tensor, Tensor], Tensor]
    validation: Batch

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss, with graph."""
        inputs, targets = batch
        return self.objective(module(inputs), targets)

    @torch.no_grad()
    def validation_loss(self, module: nn.Module) -> float:
        """Loss in evaluation mode; leaves the module in the mode it was in."""
        training = module.training
        module.eval()
        loss = self.loss(module, self.validation).item()
        module.train(training)
        return loss


@dataclass(frozen=True)
class HeldoutTask:
    """One held-out task.

    Attributes:
        name: short and unique.
        kind: whether the data are real.
        model: the network, in words.
        updates: length of a run.
        batch_size: examples per update.
        network: makes the module, from torch's global generator.
        sample: ``(split, generator, n)`` to ``n`` examples.
        objective: scalar loss of outputs and targets.
        validation_size: examples of the validation set.
        told: factor between the length that optimizers and schedules are told and the
            true one, for users who guess it wrong.
        source: tells files that the data are from apart; empty for data of packages.
    """

    name: str
    kind: Literal["real", "generated"]
    model: str
    updates: int
    batch_size: int
    network: Callable[[], nn.Module]
    sample: Callable[[Split, np.random.Generator, int], Batch]
    objective: Callable[[Tensor, Tensor], Tensor]
    validation_size: int
    told: float = 1.0
    source: str = ""

    @property
    def told_updates(self) -> int:
        """Length of a run that optimizers and schedules are told."""
        return max(1, round(self.updates * self.told))

    def lasting(self, factor: float) -> HeldoutTask:
        """The same task with ``factor`` times the updates, rounded, at least 1.

        Raises:
            ValueError: ``factor`` is not a positive finite number.
        """
        if not (is_number(factor) and 0 < factor < math.inf):
            raise ValueError(f"factor must be a positive number, got {factor!r}")
        return replace(self, updates=max(1, round(self.updates * factor)))

    def build(self, seed: int) -> Problem:
        """The task at one seed; torch's global generator is left as it was.

        Raises:
            ValueError: ``seed`` is negative.
            FileNotFoundError: a file of the standard library is missing.
        """
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed!r}")
        key = zlib.crc32(self.name.encode())
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which seeds every accelerator as well.
            torch.default_generator.manual_seed(key + seed)
            module = self.network()

        def batch(t: int) -> Batch:
            rng = np.random.default_rng((key, seed, 0, t))
            return self.sample("train", rng, self.batch_size)

        rng = np.random.default_rng((key, seed, 1))
        validation = self.sample("validation", rng, self.validation_size)
        return Problem(module, batch, self.objective, validation)
