"""Amortized learners: predict from the support in one forward pass, without inner steps.

They serve as baselines for gradient-based learners: prototypes, attention to the support,
and conditional neural processes.
"""

from __future__ import annotations

import copy
import inspect
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

from .families.episodes import Episodes, Examples, Family
from .outer import Evaluation, Learner, task_scores
from .validation import (
    check_dtypes,
    check_fit,
    check_one_task,
    check_same_loss,
    is_regression,
    loss_of,
    parameters_of,
    sample_episodes,
    support_batch,
)

#: Smallest probability of a class in :class:`Matching`, whose logarithm stays finite.
MIN_PROBABILITY = 1e-8


class AmortizedLearner(Learner):
    """Base class of learners whose module maps support and query inputs to outputs.

    Tasks are evaluated one by one, so that batch normalisation does not mix them. While
    learning, the module is in the mode in which it is given; in :meth:`predict` and
    :meth:`evaluate`, it is in evaluation mode.

    A subclass implements :meth:`outputs`. The constructor calls it on one task, so the
    subclass must set all attributes that it needs before.

    Args:
        module: network, which is copied; learning begins with its parameters.
        family: tasks to learn on.
        **outer: arguments of :class:`~agents.meta.Learner`.

    Attributes:
        module: the copy, which learns.

    Raises:
        ValueError, TypeError: an argument is not valid, or the module does not fit the
            family's tasks.
    """

    #: True for classification only, False for regression only, None for both.
    _classifies: bool | None = None

    def __init__(self, module: nn.Module, family: Family, **outer: Any) -> None:
        learned = parameters_of(module)
        self.loss_function = named_loss(loss_of(family))
        # 1. A copy is tried on one task, which may change its buffers.
        self.module = copy.deepcopy(module)
        self.family = family
        episodes = self._sample(family, 1, seed=0)
        self._dimensions = episodes.support.inputs.dim() - 1
        self._check_deterministic(episodes)
        # 2. A fresh copy learns.
        self.module = copy.deepcopy(module)
        copied = dict(self.module.named_parameters())
        super().__init__(family, (copied[name] for name in learned), **outer)

    def _check_deterministic(self, episodes: Episodes) -> None:
        """Check that the loss draws no random numbers.

        Raises:
            ValueError: it does.
            Exception: an error of the module on the tasks.
        """
        with torch.no_grad():
            random = draws_random_numbers(lambda: self._outer_loss(episodes))
        if random:
            raise ValueError(
                "the module draws from the global random generator, so that a seed would "
                "not repeat the learning; use it without dropout and the like"
            )

    def _sample(self, family: Family, count: int, seed: int) -> Episodes:
        """Sample tasks, and check that they are of a kind that the learner supports.

        Raises:
            ValueError, TypeError: they are not.
        """
        episodes = sample_episodes(family, count, np.random.default_rng(seed))
        loss = loss_of(family)
        check_dtypes(self.module, (*episodes.support, *episodes.query))
        dtype, name = episodes.support.targets.dtype, type(self).__name__
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
        return episodes

    def _network(self) -> nn.Module:
        return self.module

    @abstractmethod
    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        """Return outputs ``[B, n, ...]`` for inputs ``[B, n, ...]`` of the query."""

    def losses(self, support: Examples, query: Examples) -> tuple[Tensor, Tensor]:
        """Return outputs ``[B, n, ...]`` on the query, and their losses ``[B]``."""
        outputs = self.outputs(support, query.inputs)
        check_fit(loss_of(self.family), "query", outputs, query.targets, "the support has")
        pairs = zip(outputs, query.targets, strict=True)
        return outputs, torch.stack([self.loss_function(*pair) for pair in pairs])

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        return self.losses(*episodes)[1].mean()

    @torch.no_grad()
    def predict(self, inputs: Tensor, support: tuple[Tensor, Tensor]) -> Tensor:
        """Return outputs ``[n, ...]`` for inputs of one task.

        Args:
            inputs: ``[n, ...]``.
            support: pair of inputs and targets ``[k, ...]`` of the task.

        Raises:
            ValueError: the support is empty, or inputs belong to more than one task.
            TypeError: ``support`` is not a pair of tensors.
        """
        check_one_task(inputs, self._dimensions)
        batch = support_batch(support, self._dimensions)
        with evaluation_mode(self.module):
            return self.outputs(batch, inputs[None])[0]

    @torch.no_grad()
    def evaluate(
        self, family: Family | None = None, tasks: int = 600, seed: int = 1_000_000
    ) -> Evaluation:
        """Return losses and accuracies on the queries of fresh tasks.

        Args:
            family: family of the tasks, with the learner's loss; by default the one that
                the learner learns on.
            tasks: number of tasks.
            seed: seed of the tasks.

        Raises:
            ValueError: the family's loss is not the learner's, or outputs do not fit its
                tasks.
            TypeError: ``family`` is not a family, or does not return :class:`Episodes`.
        """
        family = self.family if family is None else family
        check_same_loss(self.family, family)
        episodes = self._sample(family, positive_int("tasks", tasks), seed)
        with evaluation_mode(self.module):
            results = [self.losses(*task) for task in one_by_one(episodes)]
        outputs, losses = (torch.cat(parts) for parts in zip(*results, strict=True))
        scores, right = task_scores(family, outputs, losses, episodes.query.targets)
        return Evaluation((0,), scores[None], None if right is None else right[None])


class Prototypical(AmortizedLearner):
    r"""Prototypical networks (Snell et al., 2017), for classification.

    Meta-learns an embedding :math:`e`. The prototype :math:`c_y` of a class is the mean
    embedding of its support; logits are :math:`-\|e(x) - c_y\|^2`.

    Args:
        module: network from inputs ``[n, ...]`` to embeddings ``[n, d]``.
        family: tasks to learn on.
        **outer: arguments of :class:`~agents.meta.Learner`.

    Raises:
        ValueError: the family's tasks are not classification, or a support lacks examples
            of a class.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> family = meta.FewShot(meta.digits(range(6)), ways=3, queries=5)
        >>> learner = Prototypical(perceptron(64, 16), family).learn(2)
        >>> learner.evaluate(tasks=10).accuracies.shape
        (1, 10)
    """

    _classifies = True

    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        """Return logits ``[B, n, classes]``."""
        known, query = (embed(self.module, x) for x in (support.inputs, inputs))
        one_hot = F.one_hot(support.targets).to(known.dtype)
        counts = one_hot.sum(1)
        absent = (counts == 0).any(0).nonzero().flatten().tolist()
        if absent:
            raise ValueError(
                "every class must have an example in every support, got none of "
                f"{', '.join(map(str, absent))}"
            )
        prototypes = one_hot.mT @ known / counts.unsqueeze(-1)
        return -torch.cdist(query, prototypes).square()


class Matching(AmortizedLearner):
    r"""Matching networks (Vinyals et al., 2016), for classification.

    Meta-learns an embedding :math:`e`. The probability of a class is the sum of the
    attention :math:`\operatorname{softmax}_i(s \cos(e(x), e(x_i)))` over its examples
    :math:`x_i` of the support; outputs are its logarithm. The paper's full-context
    embeddings are left out.

    Args:
        module: network from inputs ``[n, ...]`` to embeddings ``[n, d]``.
        family: tasks to learn on.
        scale: factor :math:`s` of the cosines. With the paper's 1, probabilities stay
            nearly uniform.
        **outer: arguments of :class:`~agents.meta.Learner`.

    Raises:
        ValueError: the family's tasks are not classification.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> family = meta.FewShot(meta.digits(range(6)), ways=3, queries=5)
        >>> Matching(perceptron(64, 16), family).learn(2).iterations
        2
    """

    _classifies = True

    def __init__(
        self, module: nn.Module, family: Family, *, scale: float = 10.0, **outer: Any
    ) -> None:
        self.scale = positive("scale", scale)
        super().__init__(module, family, **outer)

    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        """Return log-probabilities ``[B, n, classes]``."""
        known, query = (
            F.normalize(embed(self.module, x), dim=-1) for x in (support.inputs, inputs)
        )
        attention = (self.scale * query @ known.mT).softmax(-1)
        one_hot = F.one_hot(support.targets).to(known.dtype)
        return (attention @ one_hot).clamp(min=MIN_PROBABILITY).log()


class NeuralProcess(AmortizedLearner):
    r"""Conditional neural process (Garnelo et al., 2018), for regression.

    Meta-learns a network that predicts mean :math:`\mu` and standard deviation
    :math:`\sigma` of a target from the support and the input. It learns by the Gaussian
    likelihood, :math:`-\log \mathcal{N}(y; \mu, \sigma^2)`, and is evaluated by the
    family's loss of the mean.

    Args:
        module: a :class:`~agents.meta.ProcessNetwork`, or another module that takes inputs
            ``[B, k, ...]`` and targets of the support and inputs ``[B, n, ...]`` of the
            query, and returns means and standard deviations ``[B, n, ...]``.
        family: tasks to learn on.
        **outer: arguments of :class:`~agents.meta.Learner`.

    Raises:
        ValueError: the family's tasks are classification, or an argument is not valid.
        TypeError: the module has other arguments or results, or an argument is not valid.

    Example:
        >>> from agents import meta
        >>> learner = NeuralProcess(meta.ProcessNetwork(width=8), meta.Sinusoids())
        >>> learner.learn(2).evaluate(tasks=10).losses.shape
        (1, 10)
    """

    _classifies = False

    def __init__(self, module: nn.Module, family: Family, **outer: Any) -> None:
        parameters_of(module)
        try:
            inspect.signature(module.forward).bind(*Examples._fields, "query")
        except TypeError:
            raise _process_error(module, "whose forward takes other arguments") from None
        super().__init__(module, family, **outer)

    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        """Return the means ``[B, n, ...]``."""
        return self._distribution(support, inputs)[0]

    def _distribution(self, support: Examples, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations ``[B, n, ...]``."""
        result = self.module(*support, inputs)
        is_pair = isinstance(result, tuple) and len(result) == 2
        if not is_pair or not all(isinstance(part, Tensor) for part in result):
            raise _process_error(self.module, f"which returns a {type(result).__name__}")
        return result

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        mean, deviation = self._distribution(episodes.support, episodes.query.inputs)
        check_fit("mse", "query", mean, episodes.query.targets)
        return F.gaussian_nll_loss(mean, episodes.query.targets, deviation.square())


def _process_error(module: nn.Module, reason: str) -> TypeError:
    return TypeError(
        "the module must be a ProcessNetwork, or another that takes inputs and targets of "
        "the support and inputs of the query, and returns a pair of means and deviations, "
        f"got {type(module).__name__}, {reason}"
    )


def embed(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return embeddings ``[B, n, d]`` of inputs ``[B, n, ...]``, one task at a time."""
    return torch.stack([module(task) for task in inputs])


def one_by_one(episodes: Episodes) -> Iterator[Episodes]:
    """Yield each task as a batch of one."""
    for i in range(len(episodes.support.inputs)):
        parts = ((x[i : i + 1] for x in part) for part in episodes)
        yield Episodes(*(Examples(*part) for part in parts))


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Set a module to evaluation mode, and restore all modes afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
