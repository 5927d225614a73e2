"""Learners that make no inner steps: the support is looked at, and that is all.

The other families of few-shot learning, to compare with: prototypes, attention to the
support, and conditional neural processes (:mod:`agents.meta.processes`).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optenv.checks import positive, positive_int
from optenv.tasks.stacked import draws_random_numbers, named_loss

from .checks import check_dtypes, check_one_task, known, loss_of, parameters_of
from .families.episodes import Episodes, Examples, Family
from .outer import Evaluation, Learner, judged
from .samples import check_fit, check_same_loss, draw, is_regression


class AmortizedLearner(Learner):
    """A module that maps support and query to outputs.

    Tasks are looked at one by one, so that normalisation by the batch mixes no two. In
    learning, the module is in the mode in which it is given; in :meth:`predict` and
    :meth:`evaluate`, it is in that of evaluation. The constructor tries it on a task, so
    that what a subclass needs for its outputs is to be set before it is called.

    Args:
        module: the network; its parameters are what learning begins with.
        family: the tasks to learn on.
        **outer: of :class:`~agents.meta.outer.Learner`.

    Attributes:
        module: a copy of it, which learns.

    Raises:
        ValueError, TypeError: an argument is not valid, or the module does not fit the
            family's tasks.
    """

    #: Whether it is for classes alone, for numbers alone, or, as None says, for both.
    _classifies: bool | None = None

    def __init__(self, module: nn.Module, family: Family, **outer: Any) -> None:
        learned = parameters_of(module)
        self.loss_function = named_loss(loss_of(family))
        self.module = copy.deepcopy(module)
        self.family = family
        drawn = self._drawn(family, 1, seed=0)
        self._dimensions = drawn.support.inputs.dim() - 1
        check_draws_nothing(self, drawn)
        self.module = copy.deepcopy(module)
        copied = dict(self.module.named_parameters())
        super().__init__(family, (copied[name] for name in learned), **outer)

    def _drawn(self, family: Family, count: int, seed: int) -> Episodes:
        """Tasks of a kind that the learner is for.

        Raises:
            ValueError, TypeError: they are not.
        """
        drawn, loss = draw(family, count, np.random.default_rng(seed)), loss_of(family)
        check_dtypes(self.module, (*drawn.support, *drawn.query))
        dtype, name = drawn.support.targets.dtype, type(self).__name__
        got = f"got targets {dtype} and the loss {loss!r}"
        if self._classifies and (is_regression(loss) or dtype != torch.int64):
            raise ValueError(
                f"{name} is a classifier: targets must be numbers of classes, torch.int64, "
                f"and the loss 'cross_entropy', {got}"
            )
        if self._classifies is False and not dtype.is_floating_point:
            raise ValueError(
                f"{name} is for regression: targets must be floats, and the loss one of "
                f"outputs and targets of one shape such as 'mse', {got}"
            )
        return drawn

    def _network(self) -> nn.Module:
        return self.module

    @abstractmethod
    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        """Outputs ``[B, n, ...]`` for inputs ``[B, n, ...]`` of ``B`` tasks."""

    def losses(self, support: Examples, query: Examples) -> tuple[Tensor, Tensor]:
        """Outputs ``[B, n, ...]`` on the query and their losses ``[B]``."""
        outputs = self.outputs(support, query.inputs)
        check_fit(loss_of(self.family), "query", outputs, query.targets, "the support has")
        each = zip(outputs, query.targets, strict=True)
        return outputs, torch.stack([self.loss_function(*pair) for pair in each])

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        return self.losses(*episodes)[1].mean()

    @torch.no_grad()
    def predict(self, inputs: Tensor, support: tuple[Tensor, Tensor]) -> Tensor:
        """Outputs ``[n, ...]`` for inputs ``[n, ...]`` of one task.

        Args:
            inputs: ``[n, ...]``.
            support: pair of inputs and targets ``[k, ...]`` of the task.

        Raises:
            ValueError: the support is empty, or inputs are those of more than one task.
            TypeError: ``support`` is no pair of tensors.
        """
        check_one_task(inputs, self._dimensions)
        shown = known(support, self._dimensions)
        with evaluating(self.module):
            return self.outputs(shown, inputs[None])[0]

    @torch.no_grad()
    def evaluate(
        self, family: Family | None = None, tasks: int = 600, seed: int = 1_000_000
    ) -> Evaluation:
        """Losses, and accuracies of classifiers, on fresh tasks.

        Args:
            family: of the tasks, with the same loss; the one that is learned on by default.
            tasks: how many.
            seed: of the tasks.

        Raises:
            ValueError: the family's loss is not that of the learner's, or outputs do not
                fit its tasks.
            TypeError: it is no family, or draws no :class:`Episodes`.
        """
        family = self.family if family is None else family
        check_same_loss(self.family, family)
        drawn = self._drawn(family, positive_int("tasks", tasks), seed)
        targets = drawn.query.targets
        with evaluating(self.module):
            found_each = [self.losses(*each) for each in one_by_one(drawn)]
        outputs, losses = (torch.cat(part) for part in zip(*found_each, strict=True))
        found, right = judged(family, outputs, losses, targets)
        return Evaluation((0,), found[None], None if right is None else right[None])


class Prototypical(AmortizedLearner):
    """Each class is the mean of its embeddings (Snell et al., 2017).

    Logits are minus the squared distances to the means. The module maps inputs ``[n, ...]``
    to embeddings ``[n, d]``.

    Raises:
        ValueError: a class below the highest is absent from a support; the family's tasks
            are no classification.
    """

    _classifies = True

    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        shown, asked = (embed(self.module, x) for x in (support.inputs, inputs))
        classes = F.one_hot(support.targets).to(shown.dtype)
        counts = classes.sum(1)
        absent = (counts == 0).any(0).nonzero().flatten().tolist()
        if absent:
            raise ValueError(
                "every class must have an example in every support, got none of "
                f"{', '.join(map(str, absent))}"
            )
        means = classes.mT @ shown / counts.unsqueeze(-1)
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

    Raises:
        ValueError: the family's tasks are no classification.
    """

    _classifies = True

    def __init__(
        self, module: nn.Module, family: Family, *, scale: float = 10.0, **outer: Any
    ) -> None:
        self.scale = positive("scale", scale)
        super().__init__(module, family, **outer)

    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        shown, asked = (
            F.normalize(embed(self.module, x), dim=-1) for x in (support.inputs, inputs)
        )
        attention = (self.scale * asked @ shown.mT).softmax(-1)
        classes = F.one_hot(support.targets).to(shown.dtype)
        return (attention @ classes).clamp(min=1e-8).log()


def embed(module: nn.Module, inputs: Tensor) -> Tensor:
    """Embeddings ``[B, n, d]`` of ``B`` tasks' inputs ``[B, n, ...]``, each by itself."""
    return torch.stack([module(each) for each in inputs])


def one_by_one(episodes: Episodes) -> Iterator[Episodes]:
    """Each of ``B`` tasks as a batch of one."""
    for i in range(len(episodes.support.inputs)):
        parts = ((x[i : i + 1] for x in part) for part in episodes)
        yield Episodes(*(Examples(*part) for part in parts))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it, the module is in the mode of evaluation; then each part in its own."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def check_draws_nothing(learner: AmortizedLearner, episodes: Episodes) -> None:
    """Check that a learner's loss draws no random numbers.

    Raises:
        ValueError: it does.
        Exception: what the module raises on the tasks.
    """
    with torch.no_grad():
        drawn = draws_random_numbers(lambda: learner._outer_loss(episodes))
    if drawn:
        raise ValueError(
            "the module draws from the global random generator, so that a seed would not "
            "repeat the learning; use it without dropout and the like"
        )
