"""Few-shot tasks: some examples to adapt to, others to be judged on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Examples(NamedTuple):
    """Inputs and targets of ``B`` tasks, ``[B, n, ...]`` each."""

    inputs: Tensor
    targets: Tensor


class Episodes(NamedTuple):
    """``B`` tasks.

    Attributes:
        support: what a learner adapts to.
        query: what it is judged on afterwards.
    """

    support: Examples
    query: Examples


class Family(ABC):
    """Where few-shot tasks come from.

    Attributes:
        loss: name of the loss, a key of :data:`optenv.tasks.stacked.LOSSES`.
    """

    loss: str

    @abstractmethod
    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        """Draw ``count`` tasks."""
