"""Six tasks that no policy is trained on, for judging optimizers.

They were named before any policy was trained. Five use real data that every installation
has (scikit-learn's two sample photographs, the source text of Python's standard library),
three are not multilayer perceptrons. Batches are fresh random crops, so that the number
of updates, not the number of examples, is what limits them.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .heldout_data import (
    CHARACTERS,
    MODULES,
    SNIPPET_FEATURES,
    Batch,
    Split,
    flat_patches,
    friedman,
    photo_patches,
    sentences,
    snippets,
)

__all__ = ["HELDOUT", "Batch", "HeldoutTask", "Problem", "task_named"]


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


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of ``[..., classes]`` logits and ``[...]`` classes, in nats."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


class CharLSTM(nn.Module):
    """Character model: one LSTM layer, ``[n, T]`` to ``[n, T, 96]``."""

    def __init__(self, units: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, 24)
        self.recurrent = nn.LSTM(24, units, batch_first=True)
        self.readout = nn.Linear(units, CHARACTERS)

    def forward(self, codes: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(codes))
        return self.readout(states)


class Block(nn.Module):
    """Pre-norm transformer block (causal attention, GELU), ``[n, T, width]``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        projected = self.attention_in(self.attention_norm(x))
        query, key, value = projected.unflatten(-1, (3, self.heads, -1)).permute(
            2, 0, 3, 1, 4
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class CharTransformer(nn.Module):
    """Character model: causal transformer, ``[n, T]`` to ``[n, T, 96]``."""

    def __init__(self, length: int = 32, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, width)
        self.position = nn.Embedding(length, width)
        self.block = Block(width, heads)
        self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CHARACTERS))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.embedding(codes) + self.position.weight[: codes.shape[1]]
        return self.readout(self.block(x))


def convnet() -> nn.Module:
    """Two convolutions with BatchNorm, ``[n, 1, 12, 12]`` to ``[n, 2]``."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 2),
    )


def perceptron(
    sizes: Sequence[int], activation: type[nn.Module], norm: bool = False
) -> nn.Module:
    """Fully connected layers of these sizes; hidden ones normalised if ``norm``."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers.append(nn.Linear(inputs, outputs))
        layers += [nn.LayerNorm(outputs)] * norm
        layers.append(activation())
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


#: The held-out tasks, in the order of the table.
HELDOUT: tuple[HeldoutTask, ...] = (
    HeldoutTask(
        "photo-cnn", "real", "CNN, 2 convolutions with BatchNorm, ReLU", 500, 32,
        convnet, photo_patches, cross_entropy, 1024,
    ),
    HeldoutTask(
        "photo-autoencoder", "real", "autoencoder 64-64-8-64-64, SiLU", 600, 64,
        partial(perceptron, (64, 64, 8, 64, 64), nn.SiLU), flat_patches, F.mse_loss, 1024,
    ),
    HeldoutTask(
        "code-lstm", "real", "LSTM, 48 units", 400, 16,
        CharLSTM, partial(sentences, length=24), cross_entropy, 512,
    ),
    HeldoutTask(
        "code-transformer", "real", "causal transformer, width 32, 1 block", 500, 16,
        CharTransformer, partial(sentences, length=32),
        cross_entropy, 256,
    ),
    HeldoutTask(
        "module-classifier", "real", "MLP 256-64-64-8, LayerNorm, GELU", 500, 64,
        partial(perceptron, (SNIPPET_FEATURES, 64, 64, len(MODULES)), nn.GELU, norm=True),
        snippets, cross_entropy, 2048,
    ),
    HeldoutTask(
        "friedman", "generated", "wide MLP 10-256-256-1, ReLU", 500, 64,
        partial(perceptron, (10, 256, 256, 1), nn.ReLU), friedman, F.mse_loss, 2048,
    ),
)  # fmt: skip


def task_named(name: str) -> HeldoutTask:
    """Held-out task called ``name``.

    Raises:
        ValueError: there is none; the message lists the valid names.
    """
    for task in HELDOUT:
        if task.name == name:
            return task
    names = ", ".join(task.name for task in HELDOUT)
    raise ValueError(f"unknown held-out task {name!r}; valid tasks: {names}")
