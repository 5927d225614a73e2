"""The outer loop, which all learners of few-shot tasks have in common."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import positive, positive_int

from ..utils.arguments import refuse_unknown
from ..utils.progress import progress_range
from .checks import is_classification, loss_of
from .families.episodes import Episodes, Family
from .files import arguments_of, described, read, restore
from .samples import draw

#: Called after each outer step with the learner and the loss. What is false ends the
#: learning, but for None.
Callback = Callable[["Learner", float], object]


class Evaluation(NamedTuple):
    """How a learner does on tasks, after each of some numbers of steps.

    Attributes:
        steps: these numbers; 0 alone of a learner that makes none.
        losses: ``[steps, tasks]`` on the queries.
        accuracies: ``[steps, tasks]``, or None if the family's tasks are no classification.
    """

    steps: tuple[int, ...]
    losses: np.ndarray
    accuracies: np.ndarray | None


class Learner(ABC):
    """Learns from one batch of tasks after the other, by Adam.

    Args:
        family: the tasks to learn on.
        parameters: what is learned.
        meta_lr: learning rate of Adam.
        meta_batch: tasks of an outer step.
        grad_clip: norm that the outer gradient is clipped to; None leaves it.
        seed: of the tasks.

    Attributes:
        parameters: what is learned.
        iterations: outer steps made.
        dropped: those of them whose gradient was not finite, and changed nothing.

    Raises:
        ValueError, TypeError: an argument is not valid.
    """

    _given: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        learner = super().__new__(cls)
        learner._given = args, kwargs  # those of the class itself, for save()
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
        """The module that the learner holds, if it holds one: for files."""
        return None

    def _make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters, lr=meta_lr)

    @abstractmethod
    def _outer_loss(self, episodes: Episodes) -> Tensor:
        """What is descended."""

    def learn(
        self,
        total_iterations: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
    ) -> Self:
        """Make outer steps.

        Args:
            total_iterations: how many, beside those already made.
            callback: called after each outer step with the learner, which it may look at
                and evaluate, and the loss of the step's tasks before it; learning ends if
                it returns something false other than None.
            progress_bar: show one.

        Raises:
            ValueError, TypeError: ``total_iterations`` is not positive, or what the family
                draws is not what :meth:`Family.sample` is to return.

        Warns:
            RuntimeWarning: gradients of some steps were not finite; see ``dropped``.
        """
        positive_int("total_iterations", total_iterations)
        begun, dropped = self.iterations, self.dropped
        for done in progress_range(total_iterations, progress_bar):
            episodes = draw(self.family, self.meta_batch, self.rng)
            loss = self._outer_step(episodes, done / total_iterations)
            self.iterations += 1
            answer = None if callback is None else callback(self, loss)
            if answer is not None and not answer:
                break
        if self.dropped > dropped:
            warnings.warn(
                f"{self.dropped - dropped} of {self.iterations - begun} outer steps were "
                "dropped, because their gradients were not finite",
                RuntimeWarning,
                stacklevel=2,
            )
        return self

    def _outer_step(self, episodes: Episodes, progress: float) -> float:
        """One step on these tasks; its loss, before it.

        Args:
            episodes: the tasks.
            progress: from 0 to 1, within this call of :meth:`learn`.
        """
        self.optimizer.zero_grad()
        loss = self._outer_loss(episodes)
        loss.backward()
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(grads)
        if not norm.isfinite():
            self.dropped += 1
            return loss.item()
        if self.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.grad_clip, norm)
        self.optimizer.step()
        return loss.item()

    def save(self, path: str | Path) -> None:
        """Write the learner to a file, from which learning can go on.

        Module and family are not in it; :meth:`load` is to be given them. What is frozen
        in the module, and its buffers, are. Folders that there are not are made.

        Raises:
            TypeError: an argument that the learner was made with cannot be read back, for
                it is neither number, string nor tensor, nor made up of them.
        """
        args, kwargs = self._given
        module = self._network()
        state = {
            "learner": type(self).__name__,
            "arguments": arguments_of(type(self).__init__, args, kwargs),
            "module": None if module is None else described(module),
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "counts": (self.iterations, self.dropped),
            "rng": self.rng.bit_generator.state,
        }
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)

    @classmethod
    def load(cls, path: str | Path, module: nn.Module, family: Family) -> Self:
        """Learner of this class from a file.

        Args:
            path: that :meth:`save` has written.
            module: with parameters and buffers of the same names and shapes; their values
                are those of the file.
            family: to learn on.

        Raises:
            ValueError: the file is no learner's or of another class, or of a module with
                other names or shapes.
            OSError: it cannot be read.
        """
        state = read(path)
        if state["learner"] != cls.__name__:
            raise ValueError(
                f"{str(path)!r} holds a {state['learner']}, not a {cls.__name__}"
            )
        make: Any = cls  # a class that can be called begins with module and family
        learner: Self = make(module, family, **state["arguments"])
        held = learner._network()
        theirs, ours = (
            [tuple(p.shape) for p in each]
            for each in (state["parameters"], learner.parameters)
        )
        with torch.no_grad():
            if held is not None:
                restore(held, state["module"], path)
            if theirs != ours:
                raise ValueError(
                    f"{str(path)!r} is of a learner with parameters of shapes {theirs}, "
                    f"got one with {ours}"
                )
            for parameter, value in zip(
                learner.parameters, state["parameters"], strict=True
            ):
                parameter.copy_(value)
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.iterations, learner.dropped = state["counts"]
        learner.rng.bit_generator.state = state["rng"]
        return learner


def judged(
    family: Family, outputs: Tensor, losses: Tensor, targets: Tensor
) -> tuple[np.ndarray, np.ndarray | None]:
    """Losses ``[B]``, and accuracies ``[B]`` of classifiers.

    Args:
        family: of the tasks.
        outputs: ``[B, n, ...]``.
        losses: ``[B]``.
        targets: ``[B, n, ...]``.
    """
    right = None
    if is_classification(loss_of(family)):
        right = (outputs.argmax(-1) == targets).float().mean(1).numpy()
    return losses.numpy(), right
