"""Samplers of tables: small data sets of scikit-learn, and a generated function.

Samplers map ``(split, generator, n)`` to ``n`` examples: inputs and targets.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from .problem import Batch, Split


@cache
def _table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised inputs and targets of a data set, in random order."""
    from sklearn import datasets

    inputs, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(targets))
    inputs = ((inputs - inputs.mean(0)) / inputs.std(0)).astype(np.float32)
    if targets.dtype.kind == "f":
        targets = ((targets - targets.mean()) / targets.std())[:, None].astype(np.float32)
    return inputs[order], targets[order]


def _pick(
    split: Split, rng: np.random.Generator, n: int, inputs: np.ndarray, targets: np.ndarray
) -> Batch:
    """Sample ``n`` training rows, or return all validation rows: the first third."""
    cut = len(inputs) // 3
    rows = np.arange(cut)
    if split == "train":
        rows = rng.integers(cut, len(inputs), size=n)
    return torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows])


def table(split: Split, rng: np.random.Generator, n: int, name: str) -> Batch:
    """Sample rows of scikit-learn's ``name``: inputs ``[n, d]``, targets ``[n(, 1)]``.

    The validation set always has all its rows, for any ``n``.
    """
    return _pick(split, rng, n, *_table(name))


#: Fraction of the wines that have a random label, for training and validation.
WRONG_WINES = 0.1


@cache
def _wines() -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = _table("wine")
    rng = np.random.default_rng(1)
    wrong = rng.random(len(labels)) < WRONG_WINES
    return inputs, np.where(wrong, rng.integers(3, size=len(labels)), labels)


def wines(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample analyses of wines ``[n, 13]`` and cultivars ``[n]``, some of them wrong."""
    return _pick(split, rng, n, *_wines())


def friedman(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample Friedman's first function of 10 inputs; noise is 4 % of the variance."""
    from sklearn.datasets import make_friedman1

    seed = int(rng.integers(2**31))  # hardly ever drawn twice, so that the splits are apart
    inputs, targets = make_friedman1(n, n_features=10, noise=1.0, random_state=seed)
    inputs = (inputs - 0.5) * np.sqrt(12.0)
    targets = (targets[:, None] - 14.4) / 4.9
    return torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()
