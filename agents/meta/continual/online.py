"""Online learners: they learn from the batches of a stream one after the other.

Gradient descent alone forgets earlier tasks; experience replay rehearses them.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import positive_int
from optenv.core import loss_and_grad
from optenv.tasks.stacked import (
    LossFunction,
    Stacked,
    draws_random_numbers,
    flat,
    named_loss,
)

from ...utils.arguments import refuse_unknown
from ..validation import (
    check_dtypes,
    is_classification,
    non_negative_int,
    parameters_of,
)
from .replay_memory import ReplayMemory
from .streams import Stream, check_stream


class Retention(NamedTuple):
    """Scores of a learner on a stream of ``T`` tasks.

    Attributes:
        scores: ``[T, T]``: row ``i``, column ``j`` is the accuracy (or minus the mean
            squared error) on the tests of task ``j`` after learning task ``i``.
    """

    scores: np.ndarray

    @property
    def average(self) -> float:
        """Mean score on all tasks after learning the last one."""
        return float(self.scores[-1].mean())

    @property
    def forgetting(self) -> float:
        """Mean decrease of the score on a task since it was learned, without the last task.

        It is minus the backward transfer of Lopez-Paz & Ranzato (2017).
        """
        return float((np.diag(self.scores) - self.scores[-1])[:-1].mean())


class OnlineLearner(ABC):
    """Base class of learners that learn from batches one after the other.

    The module stays in the mode in which it is given, in :meth:`score` and :meth:`predict`
    too: in training mode, batch normalisation uses the statistics of the batch, and in
    evaluation mode the running statistics of the given module.

    A subclass implements :meth:`observe`, which sets ``params``.

    Args:
        module: network; it is not changed.
        loss: name of the loss, a key of :data:`optenv.tasks.stacked.LOSSES`, or a function
            of outputs and targets.
        lr: learning rate.
        seed: seed of all random choices.

    Attributes:
        params: ``[1, P]`` current values of the module's parameters that require gradients,
            in their order.
        lr: learning rate, which can be set between batches.

    Raises:
        ValueError, TypeError: an argument is not valid.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: str | LossFunction,
        *,
        lr: float,
        seed: int = 0,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown)
        parameters_of(module)
        self.network = Stacked(module, named_loss(loss))
        self.loss, self.classifies = loss, is_classification(loss)
        self.params = flat(module)[None]
        self.lr = lr
        self.rng = np.random.default_rng(seed)
        self._is_deterministic = False

    @abstractmethod
    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        """Learn from a batch of inputs and targets ``[n, ...]``."""

    @property
    def module(self) -> nn.Module:
        """New copy of the module with the current parameters."""
        copied = copy.deepcopy(self.network.template)
        current = self.network.unflatten(self.params.detach())
        with torch.no_grad():
            for p, (value,) in zip(parameters_of(copied).values(), current, strict=True):
                p.copy_(value)
        return copied

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Return outputs ``[n, ...]`` for inputs ``[n, ...]``.

        Raises:
            ValueError: the module draws random numbers.
        """
        self._check_deterministic(inputs)
        return self._outputs(inputs)

    def score(self, inputs: Tensor, targets: Tensor) -> float:
        """Return the accuracy on examples ``[n, ...]``, or minus the mean squared error.

        Raises:
            ValueError: the targets do not fit the loss and the outputs, or the module
                draws random numbers.
        """
        outputs = self.predict(inputs)
        check_targets(self.loss, outputs, targets)
        if self.classifies:
            return float((outputs.argmax(-1) == targets).float().mean())
        return -float((outputs - targets).square().mean())

    def follow(self, stream: Stream, batch: int = 10) -> Retention:
        """Learn a stream batch by batch, and test on all tasks after each task.

        Args:
            stream: one stream, as a family of streams samples it.
            batch: examples of a batch.

        Raises:
            TypeError: ``stream`` is not a stream.
            ValueError: its targets do not fit the loss and the outputs, or the module
                draws random numbers. Nothing has been learned in these cases.

        Warns:
            RuntimeWarning: parameters or scores have become non-finite.
        """
        # 1. Validation, before anything is learned.
        positive_int("batch", batch)
        inputs, targets, *tests = check_stream(stream)
        check_dtypes(self.network.template, (inputs, targets, *tests))
        for x, y in ((inputs, targets), tests):
            check_targets(self.loss, self.predict(x[0][:batch]), y.flatten(0, 1))
        # 2. The tasks in order, each followed by the tests of all.
        scores, finite = [], True
        for task, (x, y) in enumerate(zip(inputs, targets, strict=True), 1):
            batches = zip(x.split(batch), y.split(batch), strict=True)
            for number, examples in enumerate(batches, 1):
                self.observe(*examples)
                if finite and not self.params.isfinite().all():
                    finite = False
                    _warn_non_finite("parameters", f"batch {number} of task {task}")
            scores.append([self.score(*test) for test in zip(*tests, strict=True)])
            if finite and not np.isfinite(scores[-1]).all():
                finite = False
                _warn_non_finite("scores", f"task {task}")
        return Retention(np.array(scores))

    def _check_deterministic(self, inputs: Tensor) -> None:
        """Check on the first inputs that the module draws no random numbers."""
        if self._is_deterministic:
            return
        if draws_random_numbers(lambda: self._outputs(inputs)):
            raise ValueError(
                "the module draws from the global random generator, so that scores would "
                "not repeat; use it without dropout and the like, or in the mode of "
                "evaluation"
            )
        self._is_deterministic = True

    def _outputs(self, inputs: Tensor) -> Tensor:
        params = self.network.unflatten(self.params)
        return self.network.outputs(params, inputs[None])[0]

    def gradient(self, params: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient ``[1, P]`` at ``params`` on a batch ``[n, ...]``."""
        self._check_deterministic(inputs)
        return loss_and_grad(self.network, params, (inputs[None], targets[None]))[1]


def _warn_non_finite(name: str, position: str) -> None:
    """Warn the caller of :meth:`OnlineLearner.follow`."""
    warnings.warn(
        f"{name} are not finite after {position}, counted from 1; a lower lr may help",
        RuntimeWarning,
        stacklevel=3,
    )


def check_targets(loss: str | LossFunction, outputs: Tensor, targets: Tensor) -> None:
    """Check that targets fit a loss and outputs.

    Args:
        loss: name of the loss, or the function.
        outputs: ``[n, ...]``.
        targets: ``[m, ...]``, of the same examples or of others.

    Raises:
        ValueError: they do not fit.
    """
    name = repr(loss) if isinstance(loss, str) else getattr(loss, "__name__", repr(loss))
    shapes = (f"{list(tensor.shape)} of {tensor.dtype}" for tensor in (targets, outputs))
    got = "targets {} for outputs {}".format(*shapes)
    if not is_classification(loss):
        if targets.shape[1:] != outputs.shape[1:]:
            raise ValueError(
                f"with the loss {name}, targets must have the shape of the outputs, got "
                f"{got}; targets that are classes are for the loss 'cross_entropy'"
            )
        return
    if targets.is_floating_point() or targets.dim() != 1 or outputs.dim() != 2:
        raise ValueError(
            f"with the loss {name}, targets must be integers [n], the classes, and outputs "
            f"[n, classes], got {got}; targets that are numbers are for the loss 'mse'"
        )
    if len(targets) and int(targets.max()) >= outputs.shape[1]:
        raise ValueError(
            f"targets must be classes less than {outputs.shape[1]}, the number of outputs, "
            f"got {int(targets.max())}"
        )


class OnlineSGD(OnlineLearner):
    r"""Stochastic gradient descent on the batches of a stream: the baseline that forgets.

    Nothing is meta-learned. The update is :math:`\theta \leftarrow \theta - \alpha\, m
    \circ \nabla L(\theta)` with an optional mask :math:`m`.

    Args:
        module, loss, lr, seed: see :class:`~agents.meta.OnlineLearner`.
        mask: ``[P]`` bool, True for parameters that learn; None for all.
            :func:`agents.meta.maml.mask_of` makes one from names.
        glances: steps on each batch.

    Raises:
        ValueError, TypeError: an argument is not valid.

    Example:
        >>> import numpy as np
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> stream = meta.DigitStream(tasks=2).sample(np.random.default_rng(0))
        >>> learner = OnlineSGD(perceptron(64, 16, 10), "cross_entropy", lr=0.1)
        >>> learner.follow(stream).scores.shape
        (2, 2)
    """

    def __init__(
        self,
        module: nn.Module,
        loss: str | LossFunction,
        *,
        lr: float,
        mask: Tensor | None = None,
        glances: int = 1,
        **online: Any,
    ) -> None:
        super().__init__(module, loss, lr=lr, **online)
        self.mask: Tensor | float = 1.0 if mask is None else mask
        self.glances = positive_int("glances", glances)

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        for _ in range(self.glances):
            self._step(inputs, targets)

    def _step(self, inputs: Tensor, targets: Tensor) -> None:
        """Make one of the ``glances`` steps on a batch."""
        grad = self.mask * self.gradient(self.params, inputs, targets)
        self.params = self.params - self.lr * grad


class Replay(OnlineSGD):
    r"""Experience replay with a reservoir (Chaudhry et al., 2019).

    Nothing is meta-learned. The update is :math:`\theta \leftarrow \theta - \alpha \nabla
    L(\theta)` on the batch together with examples of a replay memory.

    Args:
        module, loss, lr, mask, glances, seed: see :class:`~agents.meta.OnlineSGD`.
        memory: maximal number of stored examples.
        replayed: stored examples in each step; 0 for no replay.

    Raises:
        ValueError, TypeError: an argument is not valid.

    Example:
        >>> import numpy as np
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> stream = meta.DigitStream(tasks=2).sample(np.random.default_rng(0))
        >>> learner = Replay(perceptron(64, 16, 10), "cross_entropy", lr=0.1, memory=40)
        >>> learner.follow(stream).scores.shape
        (2, 2)
    """

    def __init__(
        self,
        module: nn.Module,
        loss: str | LossFunction,
        *,
        lr: float,
        memory: int = 200,
        replayed: int = 10,
        **online: Any,
    ) -> None:
        super().__init__(module, loss, lr=lr, **online)
        self.memory = ReplayMemory(memory, self.rng)
        self.replayed = non_negative_int("replayed", replayed)

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        super().observe(inputs, targets)
        self.memory.add(inputs, targets)

    def _step(self, inputs: Tensor, targets: Tensor) -> None:
        super()._step(*self.memory.join(inputs, targets, self.replayed))
