"""Five tasks of a million parameters and more, beside the twenty of the benchmark.

No policy is trained or selected on them, nor on any network of a tenth of their size.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import nn

from .font_images import CAPITALS, glyphs
from .networks import (
    CharRecurrent,
    CharTransformer,
    conv_autoencoder,
    cross_entropy,
    resnet,
)
from .photos import square_patches
from .problem import HeldoutTask
from .text import sentences

__all__ = ["LARGE"]

#: The tasks; a run takes a few minutes.
LARGE: tuple[HeldoutTask, ...] = (
    HeldoutTask(
        "code-transformer-1m", "real",
        "next character of Python's standard library, 64 characters",
        "causal transformer, width 144, 4 blocks, 1.0 million parameters", 500, 16,
        partial(CharTransformer, 64, 144, 4, 4), partial(sentences, length=64),
        cross_entropy, 128,
    ),
    HeldoutTask(
        "code-transformer-3m", "real",
        "next character of Python's standard library, 64 characters",
        "causal transformer, width 256, 4 blocks, 3.2 million parameters", 500, 8,
        partial(CharTransformer, 64, 256, 4, 4), partial(sentences, length=64),
        cross_entropy, 128,
    ),
    HeldoutTask(
        "code-lstm-1m", "real",
        "next character of Python's standard library, 32 characters",
        "LSTM, 460 units, 1.0 million parameters", 600, 16,
        partial(CharRecurrent, nn.LSTM, 460, 64), partial(sentences, length=32),
        cross_entropy, 256,
    ),
    HeldoutTask(
        "glyph-resnet", "real",
        "which capital letter a 14 × 14 picture shows",
        "ResNet with BatchNorm, 6 residual blocks, 1.2 million parameters", 500, 32,
        partial(resnet, len(CAPITALS)), partial(glyphs, characters=CAPITALS),
        cross_entropy, 1024,
    ),
    HeldoutTask(
        "photo-conv-autoencoder", "real",
        "16 × 16 patches of the photographs",
        "convolutional autoencoder, 64 numbers of code, 1.3 million parameters", 500, 32,
        conv_autoencoder, square_patches, F.mse_loss, 512,
    ),
)  # fmt: skip
