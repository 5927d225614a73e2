"""Learning from a stream, an example at a time, without forgetting what went before."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from typing import NamedTuple

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

from ..checks import check_dtypes, is_classification, natural, parameters_of
from .checks import check_targets, one_stream
from .replay_memory import Memory
from .streams import Stream


class Retention(NamedTuple):
    """How a learner did on a stream.

    Attributes:
        scores: ``[T, T]``, accuracy (or minus the squared error) on the tests of each task
            (second) after learning each task (first).
    """

    scores: np.ndarray

    @property
    def average(self) -> float:
        """Mean score on all tasks after the last."""
        return float(self.scores[-1].mean())

    @property
    def forgetting(self) -> float:
        """Mean loss of score since each task had been learned, but for the last task.

        Minus the backward transfer of Lopez-Paz & Ranzato (2017).
        """
        return float((np.diag(self.scores) - self.scores[-1])[:-1].mean())


class OnlineLearner(ABC):
    """Learns from batches as they come.

    The module stays in the mode in which it is given, in :meth:`score` and :meth:`predict`
    too: in training mode, BatchNorm normalises by the batch that it gets, and by what it
    came with in that of evaluation.

    Args:
        module: the network; it is not changed.
        loss: name of the loss, a key of :data:`optenv.tasks.stacked.LOSSES`, or a function
            of outputs and targets.
        lr: learning rate.
        seed: of what is drawn at random.

    Attributes:
        params: ``[1, P]`` present values of the module's parameters that require gradients,
            in their order.
        lr: as given; it can be set between batches.
    """

    def __init__(
        self, module: nn.Module, loss: str | LossFunction, *, lr: float, seed: int = 0
    ) -> None:
        parameters_of(module)
        self.network = Stacked(module, named_loss(loss))
        self.loss, self.classifies = loss, is_classification(loss)
        self.params = flat(module)[None]
        self.lr = lr
        self.rng = np.random.default_rng(seed)
        self._tried = False

    @abstractmethod
    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        """Learn from a batch ``[n, ...]``."""

    @property
    def module(self) -> nn.Module:
        """A new copy of the module with the present parameters."""
        copied = copy.deepcopy(self.network.template)
        now = self.network.unflatten(self.params.detach())
        with torch.no_grad():
            for ours, (value,) in zip(parameters_of(copied).values(), now, strict=True):
                ours.copy_(value)
        return copied

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Outputs ``[n, ...]`` for inputs ``[n, ...]``.

        Raises:
            ValueError: the module draws random numbers.
        """
        self._try(inputs)
        return self._outputs(inputs)

    def score(self, inputs: Tensor, targets: Tensor) -> float:
        """Accuracy on examples ``[n, ...]``, or minus the squared error.

        Raises:
            ValueError: the targets do not suit the loss and the outputs, or the module
                draws random numbers.
        """
        outputs = self.predict(inputs)
        check_targets(self.loss, outputs, targets)
        if self.classifies:
            return float((outputs.argmax(-1) == targets).float().mean())
        return -float((outputs - targets).square().mean())

    def follow(self, stream: Stream, batch: int = 10) -> Retention:
        """Learn a stream in batches, each once, and take tests after each of its tasks.

        Args:
            stream: one, as families of streams draw it.
            batch: examples to learn from at a time.

        Raises:
            TypeError: it is no stream.
            ValueError: its targets do not suit the loss and the outputs, or the module
                draws random numbers. Nothing has been learned then.

        Warns:
            RuntimeWarning: parameters or scores are not finite any more.
        """
        positive_int("batch", batch)
        inputs, targets, *tests = one_stream(stream)
        check_dtypes(self.network.template, (inputs, targets, *tests))
        for x, y in ((inputs, targets), tests):
            check_targets(self.loss, self.predict(x[0][:batch]), y.flatten(0, 1))
        scores, finite = [], True
        for task, (x, y) in enumerate(zip(inputs, targets, strict=True), 1):
            parts = zip(x.split(batch), y.split(batch), strict=True)
            for number, part in enumerate(parts, 1):
                self.observe(*part)
                if finite and not self.params.isfinite().all():
                    finite = _warn("parameters", f"batch {number} of task {task}")
            scores.append([self.score(*test) for test in zip(*tests, strict=True)])
            if finite and not np.isfinite(scores[-1]).all():
                finite = _warn("scores", f"task {task}")
        return Retention(np.array(scores))

    def _try(self, inputs: Tensor) -> None:
        """Refuse, on the first inputs, a module that draws random numbers."""
        if self._tried:
            return
        if draws_random_numbers(lambda: self._outputs(inputs)):
            raise ValueError(
                "the module draws from the global random generator, so that scores would "
                "not repeat; use it without dropout and the like, or in the mode of "
                "evaluation"
            )
        self._tried = True

    def _outputs(self, inputs: Tensor) -> Tensor:
        params = self.network.unflatten(self.params)
        return self.network.outputs(params, inputs[None])[0]

    def _gradient(self, params: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Gradient ``[1, P]`` on a batch."""
        self._try(inputs)
        return loss_and_grad(self.network, params, (inputs[None], targets[None]))[1]


def _warn(what: str, when: str) -> bool:
    warnings.warn(
        f"{what} are not finite after {when}, counted from 1; a lower lr may help",
        RuntimeWarning,
        stacklevel=3,
    )
    return False


class OnlineSGD(OnlineLearner):
    """Gradient descent on what comes, and nothing else.

    Args:
        module, loss, lr, seed: see :class:`OnlineLearner`.
        mask: ``[P]`` bool, which parameters learn; None for all. Of names,
            :func:`agents.meta.maml.mask_of` makes one.
        glances: steps on each batch.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: str | LossFunction,
        *,
        lr: float,
        mask: Tensor | None = None,
        glances: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(module, loss, lr=lr, seed=seed)
        self.mask: Tensor | float = 1.0 if mask is None else mask
        self.glances = positive_int("glances", glances)

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        for _ in range(self.glances):
            grad = self.mask * self._gradient(self.params, inputs, targets)
            self.params = self.params - self.lr * grad


class Replay(OnlineLearner):
    """Gradient descent on each batch and as many examples of a memory.

    Experience replay with a reservoir (Chaudhry et al., 2019).

    Args:
        module, loss, lr, seed: see :class:`OnlineLearner`.
        memory: examples kept.
        replayed: examples drawn for each step; with 0, nothing is replayed.
        glances: steps on each batch.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: str | LossFunction,
        *,
        lr: float,
        memory: int = 200,
        replayed: int = 10,
        glances: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(module, loss, lr=lr, seed=seed)
        self.memory = Memory(memory, self.rng)
        self.replayed = natural("replayed", replayed)
        self.glances = positive_int("glances", glances)

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        for _ in range(self.glances):
            batch = self.memory.joined(inputs, targets, self.replayed)
            self.params = self.params - self.lr * self._gradient(self.params, *batch)
        self.memory.add(inputs, targets)
