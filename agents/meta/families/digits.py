"""scikit-learn's digits as classes of few-shot tasks, split into training and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .few_shot import Classes

#: Digits to learn on.
TRAINING = (0, 1, 2, 3, 4, 5)

#: Held-out digits.
TEST = (6, 7, 8, 9)


def digits(labels: Sequence[int]) -> Classes:
    """Load scikit-learn's handwritten digits (extra ``train``).

    Each class has 174 pictures, the number of the rarest digit; more of the other digits
    are left out.

    Args:
        labels: digits from 0 to 9, each a class.

    Returns:
        Classes with pictures ``[len(labels), 174, 8, 8]``, ink 1 and paper 0, each in the
        group of its digit's name.

    Raises:
        ValueError: a label is not a digit, or there are none.

    Example:
        >>> digits((3, 7)).pictures.shape
        (2, 174, 8, 8)
    """
    from sklearn.datasets import load_digits

    if not len(labels):
        raise ValueError(f"labels must be digits from 0 to 9, at least one, got {labels!r}")
    for label in labels:
        if label not in range(10):
            raise ValueError(f"labels must be digits from 0 to 9, got {label!r}")
    bunch = load_digits()
    rows = [np.flatnonzero(bunch.target == label) for label in labels]
    per_class = np.bincount(bunch.target).min()
    pictures = np.stack([bunch.images[row[:per_class]] for row in rows])
    return Classes(
        (pictures / 16.0).astype(np.float32), tuple(str(label) for label in labels)
    )
