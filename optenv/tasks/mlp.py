"""Multi-layer perceptrons on generated data, and on digits and tables of scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import is_number, known, quoted
from . import data
from .base import set_sizes
from .generated import LARGE_DATA_SIZE, Examples, GeneratedTask, data_size
from .layers import ACTIVATIONS

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "sample_classification",
    "sample_digits",
    "sample_logistic",
    "sample_regression",
]


#: Largest :attr:`MLP.init_spread`.
MAX_SPREAD = 10.0


@dataclass(frozen=True)
class MLP(GeneratedTask):
    """Train a multi-layer perceptron; ``depth=0`` is a linear model.

    The loss is the cross-entropy if the targets are classes, and half the mean squared
    error otherwise. Each run draws its own gain of the initial weights, which is
    log-normal.

    Attributes:
        source: source of the examples, a key of :data:`optenv.tasks.data.SOURCES`. Each run
            on a table of scikit-learn (``"breast-cancer"``, ``"wine"``, ``"diabetes"``)
            draws rows to train on, and others for validation.
        inputs: number of inputs; for a table, its number of columns.
        outputs: number of classes or of regression targets.
        width: units of each hidden layer.
        depth: number of hidden layers.
        activation: ``"relu"``, ``"tanh"``, ``"gelu"`` or ``"silu"``.
        layer_norm: whether each hidden layer is normalised before its activation.
        init_spread: standard deviation of the log gain of a run's initial weights.
        split: part of the digits to draw from, ``"train"`` or ``"test"``, which are
            disjoint; other sources ignore it.
    """

    source: str = "mixture"
    inputs: int = 16
    outputs: int = 4
    width: int = 32
    depth: int = 1
    activation: str = "relu"
    layer_norm: bool = False
    init_spread: float = 0.4
    split: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, valid in (
            ("activation", tuple(ACTIVATIONS)),
            ("source", tuple(data.SOURCES)),
            ("split", ("train", "test")),
        ):
            known(name, getattr(self, name), valid)
        # A linear model has no hidden layers, and no width.
        hidden = () if self.depth == 0 else ("depth", "width")
        set_sizes(self, "inputs", "outputs", *hidden)
        if not isinstance(self.layer_norm, bool):
            raise TypeError(f"layer_norm must be True or False, got {self.layer_norm!r}")
        if not is_number(self.init_spread) or not 0 <= self.init_spread <= MAX_SPREAD:
            raise ValueError(
                f"init_spread must lie in [0, {MAX_SPREAD:g}], "
                f"got {quoted(self.init_spread)}"
            )

        data.check_sizes(self.source, self)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer, inputs and outputs included."""
        return (self.inputs, *[self.width] * self.depth, self.outputs)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        # Weight [out, in] before bias, as in torch.nn.Linear.
        shapes: list[tuple[int, ...]] = []
        for layer, (fan_in, fan_out) in enumerate(
            zip(self.sizes, self.sizes[1:], strict=False)
        ):
            shapes += [(fan_out, fan_in), (fan_out,)]
            if self.layer_norm and layer < self.depth:
                shapes += [(fan_out,), (fan_out,)]
        return tuple(shapes)

    @property
    def num_classes(self) -> int | None:
        return self.outputs if self.source in data.CLASSIFIED else None

    @property
    def num_features(self) -> int:
        return self.inputs

    @property
    def example_numbers(self) -> int:
        return 2 * self.inputs + (2 if self.num_classes else self.outputs)

    def examples(self, rng: np.random.Generator) -> Examples:
        return data.SOURCES[self.source](self, rng)

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        return torch.from_numpy(np.stack([self._init(g) for g in generators]))

    def _init(self, rng: np.random.Generator) -> np.ndarray:
        gain = np.exp(self.init_spread * rng.standard_normal())
        uniform = rng.uniform(-1.0, 1.0, self.num_params)
        # Kaiming for relu, LeCun otherwise, times the run's gain.
        spread = gain * math.sqrt(6.0 if self.activation == "relu" else 3.0)
        parts, begin, previous = [], 0, 0
        for shape in self.shapes:
            part = uniform[begin : begin + math.prod(shape)]
            begin += len(part)
            if len(shape) == 2:  # weight
                parts.append(part * spread / math.sqrt(shape[1]))
                previous = 0
            else:  # bias, then scale and shift of the layer norm
                parts.append(np.full_like(part, 1.0 if previous == 1 else 0.0))
                previous += 1
        return np.concatenate(parts).astype(np.float32)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = self.forward(params, inputs)
        if targets.is_floating_point():
            return 0.5 * (outputs - targets).square().mean((-2, -1))
        # Classes before examples, which makes torch's log-softmax several times faster.
        return F.cross_entropy(outputs.mT, targets, reduction="none").mean(-1)

    def forward(self, params: tuple[Tensor, ...], inputs: Tensor) -> Tensor:
        """Compute outputs ``[B, n, outputs]`` of inputs ``[B, n, inputs]``.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            inputs: ``[B, n, inputs]``.
        """
        activation = ACTIVATIONS[self.activation]
        remaining = iter(params)
        hidden = inputs
        for layer in range(self.depth + 1):
            weight, bias = next(remaining), next(remaining)
            normed = self.layer_norm and layer < self.depth
            if normed:  # a layer norm is fastest with the units innermost in memory
                hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT)
            else:  # faster: gradients get the same memory layout as the weights
                hidden = torch.baddbmm(bias.unsqueeze(2), weight, hidden.mT).mT
            if layer < self.depth:
                if normed:
                    scale, shift = next(remaining), next(remaining)
                    hidden = F.layer_norm(hidden, hidden.shape[-1:])
                    hidden = hidden * scale.unsqueeze(1) + shift.unsqueeze(1)
                hidden = activation(hidden)
        return hidden


def _draw(rng: np.random.Generator, split: str, **fields: Any) -> MLP:
    """Draw an MLP with the given fields; its other fields are random.

    The splits have different widths. Structures of ``"ood"`` do not draw from the train
    part of the digits.
    """
    widths = {
        "train": (16, 24, 32, 48, 64), "test": (20, 40, 72), "ood": (28, 56, 96),
    }[split]  # fmt: skip
    drawn: dict[str, Any] = {
        "batch_size": int(rng.choice((8, 16, 32, 64))),
        **data_size(rng, (64, 128, 512, 2048), LARGE_DATA_SIZE),
        "inputs": int(rng.choice((8, 16, 32))),
        "width": int(rng.choice(widths)),
        "depth": int(rng.integers(1, 6)),
        "activation": str(rng.choice(tuple(ACTIVATIONS))),
        "layer_norm": bool(rng.random() < 0.3),
        "split": "train" if split == "train" else "test",
    }
    return MLP(**{**drawn, **fields})


#: Depths of networks that are deeper than those of ``"train"`` and ``"test"``.
_DEEPER = (6, 7, 8)


def _on_table(rng: np.random.Generator, *names: str) -> dict[str, Any]:
    """Draw a table, and train on half of its rows or on all except the validation rows."""
    source = str(rng.choice(names))
    sizes = data.TABLES[source]
    validation = sizes.rows // 4
    return {
        "source": source,
        "inputs": sizes.inputs,
        "outputs": sizes.outputs,
        "num_train": int(rng.choice((sizes.rows // 2, sizes.rows - validation))),
        "num_validation": validation,
        "data_seed": None,
    }


def sample_logistic(rng: np.random.Generator, split: str) -> MLP:
    """Draw a multinomial logistic regression; the splits have different inputs.

    Structures of ``"ood"`` use real tables, the others Gaussian mixtures.
    """
    if split == "ood":
        tables = _on_table(rng, "breast-cancer", "wine")
        return _draw(rng, split, depth=0, width=0, layer_norm=False, **tables)
    inputs = int(rng.choice({"train": (8, 16, 32), "test": (12, 24, 40)}[split]))
    outputs = int(rng.choice((2, 5, 10)))
    return _draw(
        rng, split, source="mixture", inputs=inputs, outputs=outputs, depth=0,
        width=0, layer_norm=False,
    )  # fmt: skip


def sample_classification(rng: np.random.Generator, split: str) -> MLP:
    """Draw an MLP that classifies Gaussian mixtures, or for ``"ood"`` real tables."""
    if split == "ood":
        return _draw(rng, split, **_on_table(rng, "breast-cancer", "wine"))
    return _draw(rng, split, source="mixture", outputs=int(rng.choice((2, 5, 10))))


def sample_regression(rng: np.random.Generator, split: str) -> MLP:
    """Draw an MLP that learns a random sine network.

    Structures of ``"ood"`` are deeper and learn a real table.
    """
    if split == "ood":
        depth = int(rng.choice(_DEEPER))
        return _draw(rng, split, depth=depth, **_on_table(rng, "diabetes"))
    return _draw(rng, split, source="sine", outputs=int(rng.choice((1, 4))))


def sample_digits(rng: np.random.Generator, split: str) -> MLP:
    """Draw an MLP classifier (3 in 5) or autoencoder on the split's digits.

    Structures of ``"ood"`` are deeper, all with layer norms, and have smaller or larger
    batches; they use the images of ``"test"``.
    """
    reconstruct = bool(rng.random() < 0.4)
    beyond: dict[str, Any] = {}
    if split == "ood":
        beyond = {
            "depth": int(rng.choice(_DEEPER)),
            "batch_size": int(rng.choice((4, 128))),
            "layer_norm": True,
        }
    sizes = {"train": (256, 512, 1024), "test": (256, 448), "ood": (320, 400)}[split]
    return _draw(
        rng, split, inputs=64,
        source="digits-autoencoder" if reconstruct else "digits",
        outputs=64 if reconstruct else 10,
        num_train=int(rng.choice(sizes)),
        num_validation=128,
        data_seed=None,
        **beyond,
    )  # fmt: skip
