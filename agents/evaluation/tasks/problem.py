"""A held-out task, and the problem that it is at one seed.

A :class:`HeldoutTask` says which network is trained on which data, for how many updates. At
one seed it becomes a :class:`Problem`: initial parameters, batches and a validation set,
which are the same for every optimizer.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import is_number, quoted

#: Largest number of updates of a run: more than a machine makes in a year.
MAX_UPDATES = 10**9

#: Inputs ``[n, ...]`` and targets ``[n, ...]``.
Batch = tuple[Tensor, Tensor]
Split = Literal["train", "validation"]

__all__ = ["Batch", "HeldoutTask", "Problem", "Split"]


@dataclass(frozen=True)
class Problem:
    """A task at one seed: the same model, batches and validation set for every optimizer.

    Attributes:
        module: freshly initialised network, to be trained.
        batch: function from an update ``t`` to its batch, independent of earlier calls.
        objective: function from outputs and targets to a scalar loss.
        validation: examples from a part of the data that is not used for batches.
    """

    module: nn.Module
    batch: Callable[[int], Batch]
    objective: Callable[[Tensor, Tensor], Tensor]
    validation: Batch

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the scalar loss, with its graph."""
        inputs, targets = batch
        return self.objective(module(inputs), targets)

    @torch.no_grad()
    def validation_loss(self, module: nn.Module) -> float:
        """Return the loss in evaluation mode; the mode of the module is restored."""
        training = module.training
        module.eval()
        loss = self.loss(module, self.validation).item()
        module.train(training)
        return loss


@dataclass(frozen=True)
class HeldoutTask:
    """A held-out task: a network, its data and the length of a run.

    Tasks are sent to worker processes, so ``network``, ``sample`` and ``objective`` are
    functions of a module, or ``functools.partial`` of one, where there are workers.

    Attributes:
        name: short, unique name, on which the random seeds of the task depend.
        kind: ``"real"`` or ``"generated"`` data.
        data: description of inputs and targets.
        model: description of the network.
        updates: number of updates of a run.
        batch_size: number of examples per update.
        network: function that makes the module, initialised with torch's global generator.
        sample: function ``(split, generator, n)`` that returns ``n`` examples.
        objective: function from outputs and targets to a scalar loss.
        validation_size: number of validation examples.
        horizon_factor: announced length of the run divided by its true length. Optimizers
            and schedules get the announced length, which a user may have guessed wrong.
        source: name and checksum of the file of the data; empty for data of packages.

    Example::

        def sample(split, rng, n):  # the two splits draw from one distribution
            inputs = torch.from_numpy(rng.standard_normal((n, 4), dtype="float32"))
            return inputs, inputs.sum(1, keepdim=True)


        task = HeldoutTask(
            name="sum", kind="generated", data="the sum of four normal numbers",
            model="linear", updates=100, batch_size=16,
            network=lambda: nn.Linear(4, 1), sample=sample,
            objective=nn.functional.mse_loss, validation_size=256,
        )
    """

    name: str
    kind: Literal["real", "generated"]
    data: str
    model: str
    updates: int
    batch_size: int
    network: Callable[[], nn.Module]
    sample: Callable[[Split, np.random.Generator, int], Batch]
    objective: Callable[[Tensor, Tensor], Tensor]
    validation_size: int
    horizon_factor: float = 1.0
    source: str = ""

    @property
    def announced_updates(self) -> int:
        """Length of a run as announced to optimizers and schedules."""
        return max(1, round(self.updates * self.horizon_factor))

    def lasting(self, factor: float) -> HeldoutTask:
        """Return the same task with ``factor`` times the updates, rounded, at least 1.

        Raises:
            ValueError: ``factor`` is not a positive finite number, or makes a run of more
                than :data:`MAX_UPDATES`.
        """
        if not (is_number(factor) and 0 < factor < math.inf):
            raise ValueError(f"factor must be a positive number, got {quoted(factor)}")
        if self.updates * factor > MAX_UPDATES:
            raise ValueError(
                f"a run has at most {MAX_UPDATES:,} updates, got {quoted(factor)} times "
                f"the {self.updates:,} of {self.name}"
            )
        return replace(self, updates=max(1, round(self.updates * factor)))

    def build(self, seed: int) -> Problem:
        """Return the task at one seed, without changing torch's global generator.

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

        # A generator of its own for each update: batches do not depend on the order in
        # which they are drawn.
        def batch(t: int) -> Batch:
            rng = np.random.default_rng((key, seed, 0, t))
            return self.sample("train", rng, self.batch_size)

        rng = np.random.default_rng((key, seed, 1))
        validation = self.sample("validation", rng, self.validation_size)
        return Problem(module, batch, self.objective, validation)
