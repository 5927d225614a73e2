"""The outer loop, which all few-shot learners share: Adam on batches of tasks."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from optenv.atomic import replacing
from optenv.checks import positive, positive_int

from ..utils.arguments import refuse_unknown
from ..utils.progress import progress_range
from .checkpoint import (
    constructor_arguments,
    module_state,
    read_checkpoint,
    restore_module,
)
from .families.episodes import Episodes, Family
from .validation import is_classification, loss_of, sample_episodes

#: Function called after each outer step with the learner and the loss. Learning ends if it
#: returns a false value other than None.
Callback = Callable[["Learner", float], object]


class Evaluation(NamedTuple):
    """Results on a number of tasks, after given numbers of inner steps.

    Attributes:
        steps: the numbers of inner steps; ``(0,)`` for a learner without an inner loop.
        losses: ``[len(steps), tasks]`` on the queries.
        accuracies: ``[len(steps), tasks]`` on the queries, or None if the tasks are not
            classification.
    """

    steps: tuple[int, ...]
    losses: np.ndarray
    accuracies: np.ndarray | None


class Learner(ABC):
    """Base class of few-shot learners: the outer loop, and files.

    Each outer step samples ``meta_batch`` tasks and updates the learned parameters by Adam
    on the mean loss of their queries. A step with a non-finite gradient is skipped.

    A subclass implements ``_outer_loss(episodes)``. Its constructor begins with a module
    and a family.

    Args:
        family: tasks to learn on.
        parameters: parameters to learn.
        meta_lr: learning rate of the outer loop.
        meta_batch: tasks of an outer step.
        grad_clip: maximal norm of the outer gradient; None for no clipping.
        seed: seed of the tasks.

    Attributes:
        parameters: the learned parameters.
        iterations: number of outer steps so far.
        dropped: number of them that were skipped, because of a non-finite gradient.
        rng: generator of the tasks.

    Raises:
        ValueError, TypeError: an argument is not valid.
    """

    _given: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        learner = super().__new__(cls)
        # The arguments of the outermost class, for `save`.
        learner._given = args, kwargs
        return learner

    def __init__(
        self,
        family: Family,
        parameters: Iterable[nn.Parameter],
        *,
        meta_lr: float = 1e-3,
        meta_batch: int = 25,
        grad_clip: float | None = None,
        seed: int = 0,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown)
        self.family, self.parameters = family, list(parameters)
        self.meta_batch = positive_int("meta_batch", meta_batch)
        self.grad_clip = None if grad_clip is None else positive("grad_clip", grad_clip)
        self.rng = np.random.default_rng(seed)
        self.optimizer = self._make_optimizer(meta_lr)
        self.iterations = self.dropped = 0

    def _network(self) -> nn.Module | None:
        """Return the learner's module, if it has one, for files."""
        return None

    def _make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        """Return the optimizer of the outer loop."""
        return torch.optim.Adam(self.parameters, lr=meta_lr)

    @abstractmethod
    def _outer_loss(self, episodes: Episodes) -> Tensor:
        """Return the differentiable scalar that the outer loop minimises."""

    def learn(
        self,
        total_iterations: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
    ) -> Self:
        """Make outer steps.

        Args:
            total_iterations: number of steps, in addition to those already made.
            callback: called after each outer step with the learner, which it may inspect
                and evaluate, and the loss of the step's tasks before the step. Learning
                ends if it returns a false value other than None.
            progress_bar: show a progress bar.

        Returns:
            The learner itself.

        Raises:
            ValueError, TypeError: ``total_iterations`` is not positive, or the family's
                tasks are not valid, see :meth:`Family.sample`.

        Warns:
            RuntimeWarning: steps were skipped because of non-finite gradients.
        """
        positive_int("total_iterations", total_iterations)
        first, dropped_before = self.iterations, self.dropped
        for done in progress_range(total_iterations, progress_bar):
            episodes = sample_episodes(self.family, self.meta_batch, self.rng)
            loss = self._outer_step(episodes, done / total_iterations)
            self.iterations += 1
            proceed = None if callback is None else callback(self, loss)
            if proceed is not None and not proceed:
                break
        if self.dropped > dropped_before:
            warnings.warn(
                f"{self.dropped - dropped_before} of {self.iterations - first} outer steps "
                "were dropped, because their gradients were not finite",
                RuntimeWarning,
                stacklevel=2,
            )
        return self

    def _outer_step(self, episodes: Episodes, progress: float) -> float:
        """Make one outer step.

        Args:
            episodes: tasks of the step.
            progress: position within this call of :meth:`learn`, from 0 to 1.

        Returns:
            Loss of the tasks before the step.
        """
        # 1. The outer gradient.
        self.optimizer.zero_grad()
        loss = self._outer_loss(episodes)
        loss.backward()
        grads = [p.grad for p in self.parameters if p.grad is not None]
        # 2. Skip a non-finite gradient, clip a large one.
        norm = nn.utils.get_total_norm(grads)
        if not norm.isfinite():
            self.dropped += 1
            return loss.item()
        if self.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.grad_clip, norm)
        # 3. The update.
        self.optimizer.step()
        return loss.item()

    def save(self, path: str | Path) -> None:
        """Write the learner to a file, from which learning can be resumed.

        The file holds the constructor's arguments, the learned parameters, the state of the
        outer optimizer and of the generator, and the frozen parameters and buffers of the
        module. Module and family are not part of it; :meth:`load` takes them. Missing
        folders are created.

        Raises:
            TypeError: a constructor's argument is not a number, string or tensor, nor a
                list, tuple or dict of them.
        """
        args, kwargs = self._given
        module = self._network()
        state = {
            "learner": type(self).__name__,
            "arguments": constructor_arguments(type(self).__init__, args, kwargs),
            "module": None if module is None else module_state(module),
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "counts": (self.iterations, self.dropped),
            "rng": self.rng.bit_generator.state,
        }
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            torch.save(state, part)

    @classmethod
    def load(cls, path: str | Path, module: nn.Module, family: Family) -> Self:
        """Load a learner of this class from a file.

        Args:
            path: file written by :meth:`save`.
            module: module with parameters and buffers of the same names and shapes; their
                values are taken from the file.
            family: tasks to learn on.

        Raises:
            ValueError: the file is not a learner's, or is of another class, or of a module
                with other names or shapes.
            OSError: it cannot be read.
        """
        state = read_checkpoint(path)
        if state["learner"] != cls.__name__:
            raise ValueError(
                f"{str(path)!r} holds a {state['learner']}, not a {cls.__name__}"
            )
        # 1. A new learner with the same arguments.
        make: Any = cls  # constructors of concrete classes begin with module and family
        learner: Self = make(module, family, **state["arguments"])
        # 2. Its module and parameters.
        saved, ours = (
            [tuple(p.shape) for p in parameters]
            for parameters in (state["parameters"], learner.parameters)
        )
        network = learner._network()
        with torch.no_grad():
            if network is not None:
                restore_module(network, state["module"], path)
            if saved != ours:
                raise ValueError(
                    f"{str(path)!r} is of a learner with parameters of shapes {saved}, "
                    f"got one with {ours}"
                )
            for parameter, value in zip(
                learner.parameters, state["parameters"], strict=True
            ):
                parameter.copy_(value)
        # 3. The outer loop.
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.iterations, learner.dropped = state["counts"]
        learner.rng.bit_generator.state = state["rng"]
        return learner


def task_scores(
    family: Family, outputs: Tensor, losses: Tensor, targets: Tensor
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return losses ``[B]`` and, for classification, accuracies ``[B]`` as arrays.

    Args:
        family: family of the tasks.
        outputs: ``[B, n, ...]``.
        losses: ``[B]``.
        targets: ``[B, n, ...]``.
    """
    accuracies = None
    if is_classification(loss_of(family)):
        accuracies = (outputs.argmax(-1) == targets).float().mean(1).numpy()
    return losses.numpy(), accuracies
