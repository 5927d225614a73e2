"""Examples in rows: a generated function.

Every sampler is ``(split, generator, n)`` to ``n`` examples.
"""

from __future__ import annotations

import numpy as np
import torch

from .problem import Batch, Split


def friedman(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Friedman's first function of 10 uniform inputs, noise of 4 % of the variance."""
    from sklearn.datasets import make_friedman1

    seed = int(rng.integers(2**31))  # never drawn twice: both splits are unlimited
    inputs, targets = make_friedman1(n, n_features=10, noise=1.0, random_state=seed)
    inputs = (inputs - 0.5) * np.sqrt(12.0)
    targets = (targets[:, None] - 14.4) / 4.9
    return torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()
