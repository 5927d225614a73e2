"""The six held-out tasks, which no policy is trained on.

They were chosen before any policy was trained. Five use real data that every installation
has (scikit-learn's two sample photographs, the source text of Python's standard library);
three are not multilayer perceptrons. Every batch is a new random sample, so that learning
is limited by the number of updates, not by the number of examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import nn

from .networks import CharRecurrent, CharTransformer, convnet, cross_entropy, perceptron
from .photos import flat_patches, photo_patches
from .problem import HeldoutTask
from .tabular import friedman
from .text import MODULES, SNIPPET_FEATURES, sentences, snippets

__all__ = ["HELDOUT", "HeldoutTask", "task_named"]

#: The held-out tasks, in the order of the table.
HELDOUT: tuple[HeldoutTask, ...] = (
    HeldoutTask(
        "photo-cnn", "real",
        "which of two photographs a 12 × 12 patch is from",
        "CNN, 2 convolutions with BatchNorm, ReLU", 500, 32,
        convnet, photo_patches, cross_entropy, 1024,
    ),
    HeldoutTask(
        "photo-autoencoder", "real",
        "8 × 8 patches of the photographs",
        "autoencoder 64-64-8-64-64, SiLU", 600, 64,
        partial(perceptron, (64, 64, 8, 64, 64), nn.SiLU), flat_patches, F.mse_loss, 1024,
    ),
    HeldoutTask(
        "code-lstm", "real",
        "next character of Python's standard library, 24 characters",
        "LSTM, 48 units", 400, 16,
        partial(CharRecurrent, nn.LSTM, 48), partial(sentences, length=24),
        cross_entropy, 512,
    ),
    HeldoutTask(
        "code-transformer", "real",
        "next character of Python's standard library, 32 characters",
        "causal transformer, width 32, 1 block", 500, 16,
        CharTransformer, partial(sentences, length=32),
        cross_entropy, 256,
    ),
    HeldoutTask(
        "module-classifier", "real",
        "which module of Python a snippet of code is from",
        "MLP 256-64-64-8, LayerNorm, GELU", 500, 64,
        partial(perceptron, (SNIPPET_FEATURES, 64, 64, len(MODULES)), nn.GELU, norm=True),
        snippets, cross_entropy, 2048,
    ),
    HeldoutTask(
        "friedman", "generated",
        "Friedman's first function of 10 uniform inputs, with noise",
        "wide MLP 10-256-256-1, ReLU", 500, 64,
        partial(perceptron, (10, 256, 256, 1), nn.ReLU), friedman, F.mse_loss, 2048,
    ),
)  # fmt: skip


def task_named(name: str, tasks: Sequence[HeldoutTask] = HELDOUT) -> HeldoutTask:
    """Return the task called ``name``, among ``tasks``.

    Raises:
        ValueError: there is no such task; the message lists the valid names.
    """
    for task in tasks:
        if task.name == name:
            return task
    names = ", ".join(task.name for task in tasks)
    raise ValueError(f"unknown held-out task {name!r}; valid tasks: {names}")
