"""Tasks with few examples, on which a network overfits; for ``weight_decay.py``.

They belong to no suite: policies are neither trained nor selected on them, and the
benchmark does not report them. Their data are data of selection tasks, scikit-learn's
digits (on which policies are trained), and generated tables. They use no data set of the
benchmark, and no convolution with BatchNorm, which is reserved for the benchmark, too.

Each network sees the same few rows again and again; validation is on other rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from agents.evaluation.tasks.networks import (
    cross_entropy,
    perceptron,
    small_context_model,
)
from agents.evaluation.tasks.problem import Batch, HeldoutTask, Split
from agents.evaluation.tasks.tabular import wines
from agents.evaluation.tasks.words import CATEGORIES, TRIGRAMS, contexts, names

__all__ = ["FEW_EXAMPLES", "batchnorm_perceptron", "few"]

Sampler = Callable[[Split, np.random.Generator, int], Batch]


def batchnorm_perceptron(*sizes: int) -> nn.Sequential:
    """Make fully connected layers of these sizes with BatchNorm and ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


@cache
def _pool(sample: Sampler, rows: int) -> Batch:
    return sample("train", np.random.default_rng(0), rows)


def few(
    split: Split, rng: np.random.Generator, n: int, sample: Sampler, rows: int
) -> Batch:
    """Sample from the first ``rows`` examples of a task's training data.

    Args:
        split: validation examples are those of the task.
        rng: generator of the batch.
        n: number of examples.
        sample: sampler of the task; one object, since its rows are kept.
        rows: number of training examples.
    """
    if split == "validation":
        return sample(split, rng, n)
    inputs, targets = _pool(sample, rows)
    picked = torch.from_numpy(rng.integers(rows, size=n))
    return inputs[picked], targets[picked]


def noisy_table(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample rows ``[n, 20]`` of a generated table, and classes ``[n]``, 15 % wrong.

    Four columns and two mixtures of them tell the class; 14 are noise.
    """
    from sklearn.datasets import make_classification

    inputs, labels = make_classification(
        8000, n_features=20, n_informative=4, n_redundant=2, n_clusters_per_class=3,
        flip_y=0.3, class_sep=1.0, random_state=0,
    )  # fmt: skip
    rows = rng.integers(0, 4000, n) + (4000 if split == "validation" else 0)
    return torch.from_numpy(inputs[rows]).float(), torch.from_numpy(labels[rows])


def impedance(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample Friedman's third function of 4 inputs ``[n, 4]``, with noise, ``[n, 1]``."""
    from sklearn.datasets import make_friedman3

    seed = int(rng.integers(2**31))  # hardly ever drawn twice, so that the splits are apart
    inputs, targets = make_friedman3(n, noise=0.15, random_state=seed)
    inputs = (inputs - [50.0, 942.5, 0.5, 6.0]) / [28.9, 453.0, 0.289, 2.89]
    targets = (targets[:, None] - 1.325) / 0.35
    return torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()


def digits(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample pictures ``[n, 64]`` and classes ``[n]`` of scikit-learn's digits.

    Validation is on the last third.
    """
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    cut = 2 * len(labels) // 3
    low, high = (cut, len(labels)) if split == "validation" else (0, cut)
    rows = rng.integers(low, high, n)
    return torch.from_numpy(inputs[rows] / 8 - 1).float(), torch.from_numpy(labels[rows])


_characters = partial(contexts, length=4)

FEW_EXAMPLES: tuple[HeldoutTask, ...] = (
    HeldoutTask(
        "wine-batchnorm", "real",
        "scikit-learn's wine table, 178 rows, 10 % of the labels random",
        "MLP 13-64-64-3, BatchNorm, ReLU", 500, 32,
        partial(batchnorm_perceptron, 13, 64, 64, 3), wines, cross_entropy, 59,
    ),
    HeldoutTask(
        "table-batchnorm", "generated",
        "generated table, 400 rows, 15 % of the labels wrong",
        "MLP 20-64-64-2, BatchNorm, ReLU", 600, 32,
        partial(batchnorm_perceptron, 20, 64, 64, 2),
        partial(few, sample=noisy_table, rows=400), cross_entropy, 2000,
    ),
    HeldoutTask(
        "impedance-batchnorm", "generated",
        "Friedman's third function with noise, 200 rows",
        "MLP 4-64-64-1, BatchNorm, ReLU", 600, 32,
        partial(batchnorm_perceptron, 4, 64, 64, 1),
        partial(few, sample=impedance, rows=200), F.mse_loss, 2000,
    ),
    HeldoutTask(
        "digits-few", "real",
        "scikit-learn's digits, 150 pictures",
        "MLP 64-128-10, ReLU", 500, 32,
        partial(perceptron, (64, 128, 10), nn.ReLU),
        partial(few, sample=digits, rows=150), cross_entropy, 599,
    ),
    HeldoutTask(
        "names-few", "real",
        "category of a character, from the trigrams of its Unicode name; 500 names",
        "MLP 192-64-8, ReLU", 500, 32,
        partial(perceptron, (TRIGRAMS, 64, len(CATEGORIES)), nn.ReLU),
        partial(few, sample=names, rows=500), cross_entropy, 2000,
    ),
    HeldoutTask(
        "english-few", "real",
        "next character of Python's built-in help, 4 characters; 4,000 examples",
        "4 characters, MLP 32-48-96, ReLU", 1000, 32,
        partial(small_context_model, 4, 48),
        partial(few, sample=_characters, rows=4000), cross_entropy, 2000,
    ),
)  # fmt: skip
