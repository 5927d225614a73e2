"""Examples in rows: small data sets of scikit-learn, and a generated function.

Every sampler is ``(split, generator, n)`` to ``n`` examples.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from .problem import Batch, Split


@cache
def _table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised inputs and targets of a data set of scikit-learn, in random order."""
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
    """``n`` random training rows, or all that validate: the first third."""
    cut = len(inputs) // 3
    rows = np.arange(cut)
    if split == "train":
        rows = rng.integers(cut, len(inputs), size=n)
    return torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows])


def table(split: Split, rng: np.random.Generator, n: int, name: str) -> Batch:
    """Examples of scikit-learn's ``name``: inputs ``[n, d]``, targets ``[n(, 1)]``.

    Of a validation set all rows are given, whatever ``n``.
    """
    return _pick(split, rng, n, *_table(name))


#: Share of the wines whose cultivar is given at random, for training and validation.
WRONG_WINES = 0.1


@cache
def _wines() -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = _table("wine")
    rng = np.random.default_rng(1)
    wrong = rng.random(len(labels)) < WRONG_WINES
    return inputs, np.where(wrong, rng.integers(3, size=len(labels)), labels)


def wines(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Analyses of wines ``[n, 13]`` and their cultivar ``[n]``, some of them wrong."""
    return _pick(split, rng, n, *_wines())


def friedman(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Friedman's first function of 10 uniform inputs, noise of 4 % of the variance."""
    from sklearn.datasets import make_friedman1

    seed = int(rng.integers(2**31))  # never drawn twice: both splits are unlimited
    inputs, targets = make_friedman1(n, n_features=10, noise=1.0, random_state=seed)
    inputs = (inputs - 0.5) * np.sqrt(12.0)
    targets = (targets[:, None] - 14.4) / 4.9
    return torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()
