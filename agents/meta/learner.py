"""What all gradient-based meta-learners have in common.

A learner holds initial parameters and an inner rule. In the inner loop the rule adapts the
parameters to the support of a task; in the outer loop both are learned, so that the loss on
the query is low afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import positive_int
from optenv.tasks.stacked import Stacked, flat, named_loss

from .episodes import Episodes, Examples, Family
from .rules import InnerRule
from .unroll import unroll

#: Called after each outer step with the learner and the loss; False ends the learning.
Callback = Callable[["MetaLearner", float], object]


class Evaluation(NamedTuple):
    """How a learner does on tasks, after each of some numbers of steps.

    Attributes:
        steps: these numbers.
        losses: ``[steps, tasks]`` on the queries.
        accuracies: ``[steps, tasks]``, or None if the family's tasks are no classification.
    """

    steps: tuple[int, ...]
    losses: np.ndarray
    accuracies: np.ndarray | None


class MetaLearner:
    """Learns initial parameters, and what its rule has to learn, by gradient descent.

    Args:
        module: the network; its parameters are what learning begins with.
        family: the tasks to learn on.
        rule: of the inner loop.
        inner_steps: of the inner loop while learning.
        meta_lr: learning rate of the outer loop's Adam.
        meta_batch: tasks of an outer step.
        first_order: take the inner loop's gradients for constants.
        grad_clip: norm that the outer gradient is clipped to; None leaves it.
        vectorize: stack the tasks' networks (True), run them in a loop (False), or find
            out which is possible (``"auto"``).
        seed: of the tasks.

    Attributes:
        initial: ``[P]`` initial parameters.
        iterations: outer steps made.
        dropped: those of them whose gradient was not finite, and changed nothing.

    Raises:
        ValueError, TypeError: an argument is not valid, or the module does not fit the
            family's tasks.
    """

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        learner = super().__new__(cls)
        learner._arguments = kwargs  # those of the class itself, for save()
        return learner

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        rule: InnerRule,
        *,
        inner_steps: int = 1,
        meta_lr: float = 1e-3,
        meta_batch: int = 25,
        first_order: bool = False,
        grad_clip: float | None = None,
        vectorize: bool | str = "auto",
        seed: int = 0,
    ) -> None:
        if vectorize not in ("auto", True, False):
            raise ValueError(f"vectorize must be 'auto' or a bool, got {vectorize!r}")
        self.family, self.rule = family, rule
        self.inner_steps = self._checked(positive_int("inner_steps", inner_steps))
        self.meta_batch = positive_int("meta_batch", meta_batch)
        self.first_order, self.grad_clip = first_order, grad_clip
        self.rng = np.random.default_rng(seed)
        self.network = Stacked(module, named_loss(family.loss))
        support = family.sample(1, np.random.default_rng(0)).support
        self.network.choose(support.inputs[0], support.targets[0])
        if vectorize != "auto":
            self.network.vectorized = bool(vectorize)
        self.initial = nn.Parameter(flat(module))
        self.optimizer = self._make_optimizer(meta_lr)
        self.iterations = self.dropped = 0

    def meta_parameters(self) -> list[nn.Parameter]:
        """What the outer loop learns."""
        return [self.initial, *self.rule.parameters()]

    def _make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.meta_parameters(), lr=meta_lr)

    def learn(
        self,
        total_iterations: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
    ) -> Self:
        """Make outer steps.

        Args:
            total_iterations: how many, beside those already made.
            callback: see :data:`Callback`.
            progress_bar: show one.
        """
        positive_int("total_iterations", total_iterations)
        for done in _range(total_iterations, progress_bar):
            episodes = self.family.sample(self.meta_batch, self.rng)
            loss = self._outer_step(episodes, done / total_iterations)
            self.iterations += 1
            if callback is not None and callback(self, loss) is False:
                break
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
        parameters = self.meta_parameters()
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not norm.isfinite():
            self.dropped += 1
            return loss.item()
        if self.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.grad_clip, norm)
        self.optimizer.step()
        return loss.item()

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        *_, last = self._adapted(episodes.support, self.inner_steps, differentiable=True)
        return self.network.loss(self.network.unflatten(last), *episodes.query).mean()

    def _adapted(
        self, support: Examples, steps: int, *, differentiable: bool = False
    ) -> Iterator[Tensor]:
        """Parameters ``[B, P]`` before the first step and after each."""
        params = self.initial.expand(len(support.inputs), -1)
        return unroll(
            self.network, self.rule, params, lambda step: support, steps,
            differentiable=differentiable, first_order=self.first_order,
        )  # fmt: skip

    def _checked(self, steps: int) -> int:
        most = self.rule.max_steps
        if most is not None and steps > most:
            raise ValueError(
                f"steps must be at most {most}, which the rule was learned for, got {steps}"
            )
        return steps

    def adapt(
        self, inputs: Tensor, targets: Tensor, steps: int | None = None
    ) -> dict[str, Tensor]:
        """Parameters adapted to one task, by name; the learner stays as it is.

        Args:
            inputs, targets: ``[n, ...]`` the task's examples.
            steps: of the inner loop; as many as in learning by default.

        Raises:
            ValueError: more steps than the rule is good for.
        """
        steps = self._checked(self.inner_steps if steps is None else steps)
        *_, last = self._adapted(Examples(inputs[None], targets[None]), steps)
        parts = self.network.unflatten(last.detach())
        return dict(zip(self.network.names, (p[0] for p in parts), strict=True))

    def predict(
        self,
        inputs: Tensor,
        support: tuple[Tensor, Tensor] | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Outputs ``[n, ...]`` of the network, adapted to ``support`` if there is one.

        Args:
            inputs: ``[n, ...]``.
            support: inputs and targets of the task, see :meth:`adapt`.
            steps: see :meth:`adapt`.
        """
        if support is None:
            params = self.network.unflatten(self.initial.detach()[None])
        else:
            adapted = self.adapt(*support, steps)
            params = tuple(adapted[name][None] for name in self.network.names)
        with torch.no_grad():
            return self.network.outputs(params, inputs[None])[0]

    def evaluate(
        self,
        family: Family | None = None,
        tasks: int = 600,
        steps: Sequence[int] = (0, 1, 5, 10),
        seed: int = 1_000_000,
    ) -> Evaluation:
        """Losses, and accuracies of classifiers, on fresh tasks.

        Args:
            family: of the tasks; the one that is learned on by default.
            tasks: how many.
            steps: after which numbers of steps of the inner loop.
            seed: of the tasks.

        Raises:
            ValueError: more steps than the rule is good for.
        """
        family, wanted = family or self.family, tuple(steps)
        self._checked(max(wanted))
        episodes = family.sample(tasks, np.random.default_rng(seed))
        losses, accuracies = [], []
        for step, flat_params in enumerate(self._adapted(episodes.support, max(wanted))):
            if step not in wanted:
                continue
            params = self.network.unflatten(flat_params.detach())
            with torch.no_grad():
                losses.append(self.network.loss(params, *episodes.query).numpy())
                if family.loss == "cross_entropy":
                    outputs = self.network.outputs(params, episodes.query.inputs)
                    right = outputs.argmax(-1) == episodes.query.targets
                    accuracies.append(right.float().mean(1).numpy())
        found = np.stack(accuracies) if accuracies else None
        return Evaluation(tuple(sorted(set(wanted))), np.stack(losses), found)

    def save(self, path: str | Path) -> None:
        """Write the learner to a file, from which learning can go on.

        Module and family are not in it; :meth:`load` is to be given them.
        """
        state = {
            "learner": type(self).__name__,
            "arguments": self._arguments,
            "initial": self.initial.detach(),
            "rule": self.rule.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counts": (self.iterations, self.dropped),
            "rng": self.rng.bit_generator.state,
        }
        torch.save(state, path)

    @classmethod
    def load(cls, path: str | Path, module: nn.Module, family: Family) -> Self:
        """Learner of this class from a file.

        Args:
            path: that :meth:`save` has written.
            module: with parameters of the same shapes.
            family: to learn on.

        Raises:
            ValueError: the file is of another class, or of a module of another size.
        """
        state = torch.load(path, weights_only=True)
        if state["learner"] != cls.__name__:
            raise ValueError(
                f"{str(path)!r} holds a {state['learner']}, not a {cls.__name__}"
            )
        learner = cls(module, family, **state["arguments"])
        if len(state["initial"]) != len(learner.initial):
            raise ValueError(
                f"{str(path)!r} is of a module with {len(state['initial'])} parameters, "
                f"got one with {len(learner.initial)}"
            )
        learner.initial.data.copy_(state["initial"])
        learner.rule.load_state_dict(state["rule"])
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.iterations, learner.dropped = state["counts"]
        learner.rng.bit_generator.state = state["rng"]
        return learner


def _range(total: int, progress_bar: bool) -> Iterable[int]:
    if not progress_bar:
        return range(total)
    from tqdm import trange  # type: ignore[import-untyped]

    return trange(total)
