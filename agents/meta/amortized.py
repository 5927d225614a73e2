"""Learners that make no inner steps: the support is looked at, and that is all.

The other families of few-shot learning, to compare with: prototypes, attention to the
support, and conditional neural processes.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .episodes import Episodes, Examples, Family
from .outer import Evaluation, Learner, judged


class AmortizedLearner(Learner):
    """A module that maps support and query to outputs.

    Args:
        module: what is learned; a copy is not made.
        family: the tasks to learn on.
        **outer: of :class:`~agents.meta.outer.Learner`.
    """

    def __init__(self, module: nn.Module, family: Family, **outer: Any) -> None:
        self.module = module
        super().__init__(family, module.parameters(), **outer)

    @abstractmethod
    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        """Outputs ``[B, n, ...]`` for inputs ``[B, n, ...]`` of ``B`` tasks."""

    def losses(self, support: Examples, query: Examples) -> tuple[Tensor, Tensor]:
        """Outputs ``[B, n, ...]`` on the query and their losses ``[B]``."""
        outputs = self.outputs(support, query.inputs)
        if self.family.loss == "cross_entropy":
            each = F.cross_entropy(outputs.movedim(-1, 1), query.targets, reduction="none")
        else:
            each = (outputs - query.targets).square()
        return outputs, each.flatten(1).mean(1)

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        return self.losses(*episodes)[1].mean()

    @torch.no_grad()
    def predict(self, inputs: Tensor, support: tuple[Tensor, Tensor]) -> Tensor:
        """Outputs ``[n, ...]`` for inputs ``[n, ...]`` of one task.

        Args:
            inputs: ``[n, ...]``.
            support: inputs and targets ``[k, ...]`` of the task.
        """
        known = Examples(*(part[None] for part in support))
        return self.outputs(known, inputs[None])[0]

    @torch.no_grad()
    def evaluate(
        self, family: Family | None = None, tasks: int = 600, seed: int = 1_000_000
    ) -> Evaluation:
        """Losses, and accuracies of classifiers, on fresh tasks.

        Args:
            family: of the tasks; the one that is learned on by default.
            tasks: how many.
            seed: of the tasks.
        """
        family = family or self.family
        support, query = family.sample(tasks, np.random.default_rng(seed))
        outputs, losses = self.losses(support, query)
        found, right = judged(family, outputs, losses, query.targets)
        return Evaluation((0,), found[None], None if right is None else right[None])


class Prototypical(AmortizedLearner):
    """Each class is the mean of its embeddings (Snell et al., 2017).

    Logits are minus the squared distances to the means. The module maps inputs ``[n, ...]``
    to embeddings ``[n, d]``.
    """

    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        known, asked = (embed(self.module, x) for x in (support.inputs, inputs))
        classes = F.one_hot(support.targets).to(known.dtype)
        means = classes.mT @ known / classes.sum(1).unsqueeze(-1)
        return -torch.cdist(asked, means).square()


class Matching(AmortizedLearner):
    """Attention to the embeddings of the support (Vinyals et al., 2016).

    Probabilities are the sums of the softmax of scaled cosines over each class's examples;
    outputs are their logarithms. Without the paper's full-context embeddings.

    Args:
        module: maps inputs ``[n, ...]`` to embeddings ``[n, d]``.
        family: the tasks to learn on.
        scale: of the cosines; the paper's 1 leaves probabilities near even.
        **outer: of :class:`~agents.meta.outer.Learner`.
    """

    def __init__(
        self, module: nn.Module, family: Family, *, scale: float = 10.0, **outer: Any
    ) -> None:
        self.scale = scale
        super().__init__(module, family, **outer)

    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        known, asked = (
            F.normalize(embed(self.module, x), dim=-1) for x in (support.inputs, inputs)
        )
        attention = (self.scale * asked @ known.mT).softmax(-1)
        classes = F.one_hot(support.targets).to(known.dtype)
        return (attention @ classes).clamp(min=1e-8).log()


class NeuralProcess(AmortizedLearner):
    """A conditional neural process for regression (Garnelo et al., 2018).

    The module is a :class:`ProcessNetwork`, which gives a mean and a deviation for each
    input; it learns by the Gaussian likelihood, and is judged by the mean's squared error.
    """

    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        return self.module(*support, inputs)[0]

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        mean, deviation = self.module(*episodes.support, episodes.query.inputs)
        return F.gaussian_nll_loss(mean, episodes.query.targets, deviation.square())


class ProcessNetwork(nn.Module):
    """Encoder of examples, their mean, and a decoder that sees it beside each input.

    Args:
        inputs: of an example.
        outputs: of an example.
        width: units of each hidden layer, and numbers that the support is summed up in.
    """

    def __init__(self, inputs: int = 1, outputs: int = 1, width: int = 64) -> None:
        super().__init__()
        self.encoder = _perceptron(inputs + outputs, width, width)
        self.decoder = _perceptron(inputs + width, width, 2 * outputs)

    def forward(
        self, known: Tensor, values: Tensor, asked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means and deviations ``[B, n, outputs]`` at ``asked [B, n, inputs]``.

        Args:
            known, values: inputs and targets ``[B, k, ...]`` of the support.
            asked: inputs of the query.
        """
        summary = self.encoder(torch.cat([known, values], dim=-1)).mean(1, keepdim=True)
        wide = summary.expand(-1, asked.shape[1], -1)
        mean, spread = self.decoder(torch.cat([asked, wide], dim=-1)).chunk(2, dim=-1)
        return mean, 0.01 + F.softplus(spread)


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def embed(module: nn.Module, inputs: Tensor) -> Tensor:
    """Embeddings ``[B, n, d]`` of ``B`` tasks' inputs ``[B, n, ...]``, all in one batch."""
    return module(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
