"""scikit-learn's digits as classes of few-shot tasks: some to learn on, others held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .few_shot import Classes

#: Digits to learn on, and held-out ones.
TRAINING, TEST = (0, 1, 2, 3, 4, 5), (6, 7, 8, 9)


def digits(labels: Sequence[int]) -> Classes:
    """Pictures of 8 x 8 pixels, ink 1 and paper 0, from scikit-learn (extra ``train``).

    As many of each class, 174, so that some of the commoner digits are left out.

    Args:
        labels: which digits.

    Raises:
        ValueError: one is none, or there are none.
    """
    from sklearn.datasets import load_digits

    if not len(labels):
        raise ValueError(f"labels must be digits from 0 to 9, at least one, got {labels!r}")
    for label in labels:
        if label not in range(10):
            raise ValueError(f"labels must be digits from 0 to 9, got {label!r}")
    found = load_digits()
    rows = [np.flatnonzero(found.target == label) for label in labels]
    least = np.bincount(found.target).min()
    pictures = np.stack([found.images[row[:least]] for row in rows])
    return Classes(
        (pictures / 16.0).astype(np.float32), tuple(str(label) for label in labels)
    )
