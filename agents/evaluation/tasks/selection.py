"""The selection tasks, by which policies are chosen: neither trained on, nor reported.

No training task or held-out task uses their data sets. Network families that are reserved
for the held-out tasks (CNN with BatchNorm, GRU, LSTM, transformer) are not used.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import nn

from .networks import (
    CharRecurrent,
    context_model,
    cross_entropy,
    perceptron,
    plain_convnet,
    small_context_model,
)
from .pictures import next_height, portrait_places, scan_patches, texture_patches
from .problem import HeldoutTask
from .tabular import wines
from .words import CATEGORIES, TRIGRAMS, contexts, names, sentences

__all__ = ["SELECTION"]

#: The selection tasks, with short and long runs.
SELECTION: tuple[HeldoutTask, ...] = (
    HeldoutTask(
        "height-mlp", "real",
        "height of a place on a mountain side, from its 80 neighbours",
        "MLP 80-64-64-1, ReLU", 600, 32,
        partial(perceptron, (80, 64, 64, 1), nn.ReLU), next_height, F.mse_loss, 2048,
    ),
    HeldoutTask(
        "scan-autoencoder", "real",
        "8 × 8 patches of a magnetic-resonance image",
        "autoencoder 64-48-12-48-64, tanh", 1000, 64,
        partial(perceptron, (64, 48, 12, 48, 64), nn.Tanh), scan_patches, F.mse_loss, 1024,
    ),
    HeldoutTask(
        "portrait-places", "real",
        "brightness at a place of a portrait, from Fourier features",
        "MLP 48-64-64-64-1, SiLU", 2500, 64,
        partial(perceptron, (48, 64, 64, 64, 1), nn.SiLU), portrait_places,
        F.mse_loss, 4096,
    ),
    HeldoutTask(
        "texture-conv", "real",
        "which of three pictures a 10 × 10 patch is from",
        "CNN, 2 convolutions, SiLU", 500, 32,
        plain_convnet, texture_patches, cross_entropy, 2048,
    ),
    HeldoutTask(
        "english-rnn", "real",
        "next character of Python's built-in help, 24 characters",
        "Elman network, 64 units", 700, 16,
        partial(CharRecurrent, nn.RNN, 64), partial(sentences, length=24),
        cross_entropy, 512,
    ),
    HeldoutTask(
        "english-rnn-long", "real",
        "next character of Python's built-in help, 24 characters",
        "Elman network, 64 units", 4000, 16,
        partial(CharRecurrent, nn.RNN, 64), partial(sentences, length=24),
        cross_entropy, 512,
    ),
    HeldoutTask(
        "english-context", "real",
        "next character of Python's built-in help, 12 characters",
        "residual MLP, LayerNorm, width 64", 1000, 64,
        partial(context_model, 12), partial(contexts, length=12), cross_entropy, 4096,
    ),
    HeldoutTask(
        "english-context-long", "real",
        "next character of Python's built-in help, 12 characters",
        "residual MLP, LayerNorm, width 64", 6000, 64,
        partial(context_model, 12), partial(contexts, length=12), cross_entropy, 4096,
    ),
    HeldoutTask(
        "english-small-long", "real",
        "next character of Python's built-in help, 4 characters",
        "4 characters, MLP 32-48-96, ReLU", 15_000, 32,
        partial(small_context_model, 4, 48), partial(contexts, length=4),
        cross_entropy, 4096,
    ),
    HeldoutTask(
        "height-long", "real",
        "height of a place on a mountain side, from its 80 neighbours",
        "MLP 80-24-1, tanh", 10_000, 8,
        partial(perceptron, (80, 24, 1), nn.Tanh), next_height, F.mse_loss, 2048,
    ),
    HeldoutTask(
        "unicode-names", "real",
        "category of a character, from the trigrams of its Unicode name",
        "MLP 192-48-48-48-48-8, ReLU", 800, 32,
        partial(perceptron, (TRIGRAMS, 48, 48, 48, 48, len(CATEGORIES)), nn.ReLU), names,
        cross_entropy, 4096,
    ),
    HeldoutTask(
        "wine-noisy", "real",
        "scikit-learn's wine table, 178 rows, 10 % of the labels random",
        "MLP 13-32-3, tanh", 400, 8,
        partial(perceptron, (13, 32, 3), nn.Tanh), wines, cross_entropy, 2048,
    ),
)  # fmt: skip
