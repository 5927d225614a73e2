"""Examples in rows: wines, and a generated function.

Every sampler is ``(split, generator, n)`` to ``n`` examples.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from .problem import Batch, Split

#: Share of the wines whose cultivar is given wrong.
WRONG_WINES = 0.1


@cache
def _wines() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_wine

    inputs, labels = load_wine(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    wrong = rng.random(len(labels)) < WRONG_WINES
    noisy = np.where(wrong, rng.integers(3, size=len(labels)), labels)
    return inputs[order].astype(np.float32), noisy[order]


def wines(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Analyses of wines ``[n, 13]`` and their cultivar ``[n]``, with noise."""
    inputs, labels = _wines()
    low, high = (0, 60) if split == "validation" else (60, len(labels))
    rows = rng.integers(low, high, size=n)
    return torch.from_numpy(inputs[rows]), torch.from_numpy(labels[rows])


def friedman(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Friedman's first function of 10 uniform inputs, noise of 4 % of the variance."""
    from sklearn.datasets import make_friedman1

    seed = int(rng.integers(2**31))  # never drawn twice: both splits are unlimited
    inputs, targets = make_friedman1(n, n_features=10, noise=1.0, random_state=seed)
    inputs = (inputs - 0.5) * np.sqrt(12.0)
    targets = (targets[:, None] - 14.4) / 4.9
    return torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()
