"""The benchmark: twenty tasks on which no policy is trained or selected.

They are the held-out tasks of ``train_agent.py``, and deeper, wider and recurrent networks,
small tables, noisy labels, long runs, fine-tuning, and wrongly announced lengths. Their
data sets are not used to train or select policies. Lengths are chosen by the results of
AdamW, not of policies: tuned AdamW should end close to its lowest validation loss, so that
stopping early does not pay. The command lists the tasks where it does not.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .font_images import CAPITALS, SIDE, SMALL, flat_glyphs, glyphs
from .heldout import HELDOUT, task_named
from .networks import (
    CharRecurrent,
    CharTransformer,
    convnet,
    cross_entropy,
    perceptron,
    small_context_model,
)
from .photos import photo_places
from .problem import HeldoutTask
from .tabular import table
from .text import MODULES, SNIPPET_FEATURES, contexts, noisy_snippets, sentences

__all__ = ["BENCHMARK"]

_CAPITALS = partial(flat_glyphs, characters=CAPITALS)


@cache
def _pretrained() -> nn.Sequential:
    """Train a CNN on capital letters, with a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = convnet(SIDE, len(CAPITALS))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for t in range(400):
        inputs, labels = glyphs("train", np.random.default_rng((0, t)), 64, CAPITALS)
        optimizer.zero_grad()
        cross_entropy(module(inputs), labels).backward()
        optimizer.step()
    return module


def fine_tuned() -> nn.Sequential:
    """Return the pretrained CNN with a new last layer, for small letters."""
    module = copy.deepcopy(_pretrained())
    head = module[-1]
    assert isinstance(head, nn.Linear)
    module[-1] = nn.Linear(head.in_features, len(SMALL))
    return module


#: All tasks, those of :data:`~agents.evaluation.tasks.heldout.HELDOUT` first.
BENCHMARK: tuple[HeldoutTask, ...] = (
    *HELDOUT,
    HeldoutTask(
        "photo-places", "real",
        "brightness at a place of a photograph, from Fourier features",
        "MLP 64-96-96-96-1, GELU", 2000, 64,
        partial(perceptron, (64, 96, 96, 96, 1), nn.GELU), photo_places, F.mse_loss, 4096,
    ),
    HeldoutTask(
        "code-gru", "real",
        "next character of Python's standard library, 32 characters",
        "GRU, 64 units", 1500, 16,
        partial(CharRecurrent, nn.GRU, 64), partial(sentences, length=32),
        cross_entropy, 512,
    ),
    HeldoutTask(
        "code-transformer-long", "real",
        "next character of Python's standard library, 32 characters",
        "causal transformer, width 32, 1 block", 3000, 16,
        CharTransformer, partial(sentences, length=32), cross_entropy, 256,
    ),
    HeldoutTask(
        "noisy-snippets", "real",
        "which module a snippet is from, 20 % of the training labels random",
        "MLP 256-64-8, tanh; 20 % random labels", 2000, 8,
        partial(perceptron, (SNIPPET_FEATURES, 64, len(MODULES)), nn.Tanh),
        noisy_snippets, cross_entropy, 2048,
    ),
    HeldoutTask(
        "glyph-deep", "real",
        "which capital letter a 14 × 14 picture shows",
        "MLP 196-64-64-64-64-64-26, ReLU", 1500, 64,
        partial(perceptron, (SIDE**2, 64, 64, 64, 64, 64, 26), nn.ReLU), _CAPITALS,
        cross_entropy, 2048,
    ),
    HeldoutTask(
        "glyph-wide", "real",
        "which capital letter a 14 × 14 picture shows",
        "MLP 196-512-26, ReLU", 600, 64,
        partial(perceptron, (SIDE**2, 512, 26), nn.ReLU), _CAPITALS, cross_entropy, 2048,
    ),
    HeldoutTask(
        "glyph-cnn", "real",
        "which capital letter a 14 × 14 picture shows",
        "CNN, 2 convolutions with BatchNorm, ReLU", 800, 32,
        partial(convnet, SIDE, 26), partial(glyphs, characters=CAPITALS),
        cross_entropy, 2048,
    ),
    HeldoutTask(
        "glyph-fine-tuning", "real",
        "which small letter a 14 × 14 picture shows",
        "CNN of other letters, new last layer", 300, 32,
        fine_tuned, partial(glyphs, characters=SMALL), cross_entropy, 2048,
    ),
    HeldoutTask(
        "cancer", "real",
        "scikit-learn's breast cancer table, 569 rows",
        "MLP 30-32-32-2, tanh", 60, 32,
        partial(perceptron, (30, 32, 32, 2), nn.Tanh), partial(table, name="breast_cancer"),
        cross_entropy, 189,
    ),
    HeldoutTask(
        "diabetes", "real",
        "scikit-learn's diabetes table, 442 rows",
        "MLP 10-64-1, GELU", 120, 16,
        partial(perceptron, (10, 64, 1), nn.GELU), partial(table, name="diabetes"),
        F.mse_loss, 147,
    ),
    HeldoutTask(
        "glyph-10k", "real",
        "which capital letter a 14 × 14 picture shows",
        "MLP 196-24-26, GELU", 10_000, 16,
        partial(perceptron, (SIDE**2, 24, 26), nn.GELU), _CAPITALS, cross_entropy, 2048,
    ),
    HeldoutTask(
        "code-context-30k", "real",
        "next character of Python's standard library, 3 characters",
        "3 characters, MLP 24-32-96, ReLU", 30_000, 16,
        partial(small_context_model, 3, 32), partial(contexts, length=3),
        cross_entropy, 2048,
    ),
    replace(task_named("photo-cnn"), name="photo-cnn-told-double", horizon_factor=2.0),
    replace(
        task_named("module-classifier"),
        name="module-classifier-told-half",
        horizon_factor=0.5,
    ),
)  # fmt: skip
