"""Tasks that policies are selected on: neither trained on, nor reported.

Their data sets are not those of any training task or held-out task, and no network is of
a family (CNN with BatchNorm, GRU, LSTM, transformer) that is kept for the held-out tasks.
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

#: The tasks of the selection, short runs and long ones.
SELECTION: tuple[HeldoutTask, ...] = (
    HeldoutTask(
        "height-mlp", "real", "MLP 80-64-64-1, ReLU", 600, 32,
        partial(perceptron, (80, 64, 64, 1), nn.ReLU), next_height, F.mse_loss, 2048,
    ),
    HeldoutTask(
        "scan-autoencoder", "real", "autoencoder 64-48-12-48-64, tanh", 1000, 64,
        partial(perceptron, (64, 48, 12, 48, 64), nn.Tanh), scan_patches, F.mse_loss, 1024,
    ),
    HeldoutTask(
        "portrait-places", "real", "MLP 48-64-64-64-1, SiLU", 2500, 64,
        partial(perceptron, (48, 64, 64, 64, 1), nn.SiLU), portrait_places,
        F.mse_loss, 4096,
    ),
    HeldoutTask(
        "texture-conv", "real", "CNN, 2 convolutions, SiLU", 500, 32,
        plain_convnet, texture_patches, cross_entropy, 2048,
    ),
    HeldoutTask(
        "english-rnn", "real", "Elman network, 64 units", 700, 16,
        partial(CharRecurrent, nn.RNN, 64), partial(sentences, length=24),
        cross_entropy, 512,
    ),
    HeldoutTask(
        "english-rnn-long", "real", "Elman network, 64 units", 4000, 16,
        partial(CharRecurrent, nn.RNN, 64), partial(sentences, length=24),
        cross_entropy, 512,
    ),
    HeldoutTask(
        "english-context", "real", "residual MLP, LayerNorm, width 64", 1000, 64,
        partial(context_model, 12), partial(contexts, length=12), cross_entropy, 4096,
    ),
    HeldoutTask(
        "english-context-long", "real", "residual MLP, LayerNorm, width 64", 6000, 64,
        partial(context_model, 12), partial(contexts, length=12), cross_entropy, 4096,
    ),
    HeldoutTask(
        "english-small-long", "real", "4 characters, MLP 32-48-96, ReLU", 15_000, 32,
        partial(small_context_model, 4, 48), partial(contexts, length=4),
        cross_entropy, 4096,
    ),
    HeldoutTask(
        "height-long", "real", "MLP 80-24-1, tanh", 10_000, 8,
        partial(perceptron, (80, 24, 1), nn.Tanh), next_height, F.mse_loss, 2048,
    ),
    HeldoutTask(
        "unicode-names", "real", "MLP 192-48-48-48-48-8, ReLU", 800, 32,
        partial(perceptron, (TRIGRAMS, 48, 48, 48, 48, len(CATEGORIES)), nn.ReLU), names,
        cross_entropy, 4096,
    ),
    HeldoutTask(
        "wine-noisy", "real", "MLP 13-32-3, tanh", 400, 8,
        partial(perceptron, (13, 32, 3), nn.Tanh), wines, cross_entropy, 2048,
    ),
)  # fmt: skip
