"""Few-shot tasks: examples to adapt to, and further examples to be evaluated on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from torch import Tensor

from optenv.tasks.stacked import LossFunction


class Examples(NamedTuple):
    """Labelled examples of ``B`` tasks.

    Attributes:
        inputs: ``[B, n, ...]``.
        targets: ``[B, n, ...]``.
    """

    inputs: Tensor
    targets: Tensor


class Episodes(NamedTuple):
    """A batch of ``B`` tasks.

    Attributes:
        support: examples that a learner adapts to.
        query: examples that it is evaluated on after adaptation.
    """

    support: Examples
    query: Examples


class Family(ABC):
    """Distribution of few-shot tasks.

    Inputs are floats of the dtype of the module's parameters (usually float32), and so are
    the targets of a regression. Targets of the cross entropy are class indices, int64 from
    0 on.

    Attributes:
        loss: ``"cross_entropy"``, ``"mse"``, ``"l1"`` or ``"bce_with_logits"``
            (:data:`optenv.tasks.stacked.LOSSES`), or a function of outputs and targets
            ``[n, ...]`` of one task that returns their mean; in the body of a class, a
            static method. With the cross entropy, by name or as torch's function,
            evaluations have accuracies; with any other loss, these are None. For the other
            three names, outputs and targets have the same shape.

    Example:
        >>> import numpy as np, torch
        >>> class Lines(Family):
        ...     loss = "mse"
        ...
        ...     def sample(self, count, rng):
        ...         slopes = rng.normal(size=(count, 1, 1)).astype(np.float32)
        ...
        ...         def examples(n):
        ...             inputs = rng.random((count, n, 1), dtype=np.float32)
        ...             targets = slopes * inputs
        ...             return Examples(torch.from_numpy(inputs), torch.from_numpy(targets))
        ...
        ...         return Episodes(support=examples(5), query=examples(10))
        >>> Lines().sample(3, np.random.default_rng(0)).query.targets.shape
        torch.Size([3, 10, 1])
    """

    loss: str | LossFunction

    @abstractmethod
    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        """Sample tasks.

        Args:
            count: number of tasks ``B``.
            rng: source of all randomness, so that a seed repeats the tasks.

        Returns:
            Support and query with inputs and targets ``[B, n, ...]``; ``n`` is at least 1,
            the same for inputs and targets, and may differ between support and query.
        """
