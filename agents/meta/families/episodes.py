"""Few-shot tasks: some examples to adapt to, others to be judged on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from torch import Tensor

from optenv.tasks.stacked import LossFunction


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

    Inputs, and targets of a regression, are floats of the type of the module's parameters
    (float32, if it is made as usual); targets of the cross entropy are numbers of classes,
    int64 from 0 on.

    Attributes:
        loss: ``"cross_entropy"``, ``"mse"``, ``"l1"`` or ``"bce_with_logits"``
            (:data:`optenv.tasks.stacked.LOSSES`), or a function of outputs and targets
            ``[n, ...]`` of one task that returns their mean; in the body of a class, a
            static method. With the cross entropy, by name or as torch's function,
            evaluations have accuracies; with all else, these are None. Outputs and targets
            of the other three have the same shape.
    """

    loss: str | LossFunction

    @abstractmethod
    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        """Draw ``count`` tasks, whose tensors are ``[count, n, ...]``, ``n`` at least 1.

        Inputs and targets have the same ``n``; support and query may differ in it.
        """
