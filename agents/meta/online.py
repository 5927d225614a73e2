"""Learning from a stream, an example at a time, without forgetting what went before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import positive_int
from optenv.core import loss_and_grad
from optenv.tasks.stacked import LossFunction, Stacked, flat, named_loss

from .checks import is_classification, natural, parameters_of
from .memory import Memory
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

    Args:
        module: the network.
        loss: name of the loss, or a function.
        lr: learning rate.
        seed: of what is drawn at random.
    """

    def __init__(
        self, module: nn.Module, loss: str | LossFunction, *, lr: float, seed: int = 0
    ) -> None:
        parameters_of(module)
        self.network = Stacked(module, named_loss(loss))
        self.classifies = is_classification(loss)
        self.params = flat(module)[None]
        self.lr = lr
        self.rng = np.random.default_rng(seed)

    @abstractmethod
    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        """Learn from a batch ``[n, ...]``."""

    @torch.no_grad()
    def score(self, inputs: Tensor, targets: Tensor) -> float:
        """Accuracy on examples ``[n, ...]``, or minus the squared error."""
        outputs = self.network.outputs(self.network.unflatten(self.params), inputs[None])[0]
        if self.classifies:
            return float((outputs.argmax(-1) == targets).float().mean())
        return -float((outputs - targets).square().mean())

    def follow(self, stream: Stream, batch: int = 10) -> Retention:
        """Learn a stream in batches, each once, and take tests after each of its tasks."""
        positive_int("batch", batch)
        scores = []
        for inputs, targets in zip(stream.inputs, stream.targets, strict=True):
            for part in zip(inputs.split(batch), targets.split(batch), strict=True):
                self.observe(*part)
            tests = zip(stream.test_inputs, stream.test_targets, strict=True)
            scores.append([self.score(*test) for test in tests])
        return Retention(np.array(scores))

    def _gradient(self, params: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Gradient ``[1, P]`` on a batch."""
        return loss_and_grad(self.network, params, (inputs[None], targets[None]))[1]


class OnlineSGD(OnlineLearner):
    """Gradient descent on what comes, and nothing else.

    Args:
        module, loss, lr, seed: see :class:`OnlineLearner`.
        mask: ``[P]`` bool, which parameters learn; None for all.
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


class LaMAML(Replay):
    """Look-ahead MAML (Gupta et al., 2020): learning rates that spare what went before.

    An inner loop takes the batch an example at a time, with a learned rate for each
    parameter. The loss behind each of its steps on the batch together with the memory is
    differentiated with respect to rates and parameters; the rates descend, and then the
    parameters do, with the new rates, negative ones as 0.

    Args:
        module, loss, memory, replayed, glances, seed: see :class:`Replay`.
        lr: that all rates begin with.
        rate_lr: learning rate of the rates.
        clip: norm that each of the two gradients is clipped to.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: str | LossFunction,
        *,
        lr: float = 0.15,
        rate_lr: float = 0.3,
        clip: float = 2.0,
        memory: int = 200,
        replayed: int = 10,
        glances: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            module,
            loss,
            lr=lr,
            memory=memory,
            replayed=replayed,
            glances=glances,
            seed=seed,
        )
        self.rates = torch.full_like(self.params, lr)
        self.rate_lr, self.clip = rate_lr, clip

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        for _ in range(self.glances):
            self._look_ahead(inputs, targets)
        self.memory.add(inputs, targets)

    def _look_ahead(self, inputs: Tensor, targets: Tensor) -> None:
        judged = self.memory.joined(inputs, targets, self.replayed)
        start = self.params.requires_grad_()
        rates = self.rates.requires_grad_()
        params, total = start, torch.zeros(())
        for i in self.rng.permutation(len(inputs)):
            one = inputs[i : i + 1], targets[i : i + 1]
            grad = self._gradient(params, *one)  # a constant: first order, as published
            params = params - rates.relu() * grad
            parts = (part[None] for part in judged)
            total = total + self.network.loss(self.network.unflatten(params), *parts).sum()
        grads = torch.autograd.grad(total / len(inputs), (start, rates))
        of_params, of_rates = (_clipped(grad, self.clip) for grad in grads)
        self.rates = (rates - self.rate_lr * of_rates).detach()
        self.params = (start - self.rates.relu() * of_params).detach()


def _clipped(grad: Tensor, norm: float) -> Tensor:
    return grad * (norm / grad.norm().clamp(min=norm))
