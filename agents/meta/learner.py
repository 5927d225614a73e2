"""What gradient-based meta-learners have in common.

A learner holds initial parameters and an inner rule. In the inner loop the rule adapts the
parameters to the support of a task; in the outer loop both are learned, so that the loss on
the query is low afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import positive_int
from optenv.tasks.stacked import Stacked, flat, named_loss

from .checks import (
    check_dtypes,
    check_one_task,
    check_output,
    known,
    loss_of,
    natural,
    pair_of,
    parameters_of,
)
from .families.episodes import Episodes, Examples, Family
from .inner_rules import InnerRule
from .outer import Evaluation, Learner, judged
from .samples import check_same_loss, check_tasks, draw
from .unroll import unroll


class MetaLearner(Learner):
    """Learns initial parameters, and what its rule has to learn, by gradient descent.

    The module runs in the mode in which it is given. In training mode, normalisation by the
    batch takes the statistics of the examples that are seen together: predictions are
    transductive, and torch refuses a single value per channel, as of one example of a
    layer without pixels. Running statistics are then neither used nor updated; to use those
    that are stored, call ``module.eval()`` before the learner is made.

    An ordinary network of the adapted parameters is the module after
    ``module.load_state_dict(learner.adapt(inputs, targets), strict=False)``, or, with the
    module unchanged, ``torch.func.functional_call(module, learner.adapt(...), inputs)``.

    Args:
        module: the network, of which a copy is made; its parameters are what learning
            begins with.
        family: the tasks to learn on.
        rule: of the inner loop, such as ``agents.meta.inner_rules.Fixed(0.01, "sgd")``.
        inner_steps: of the inner loop while learning.
        first_order: take the inner loop's gradients for constants.
        vectorize: stack the tasks' networks (True), run them in a loop (False), or find
            out which is possible (``"auto"``).
        **outer: of :class:`~agents.meta.outer.Learner`: ``meta_lr`` (1e-3), ``meta_batch``
            (25), ``grad_clip`` (None) and ``seed`` (0).

    Attributes:
        initial: ``[P]`` initial parameters.

    Raises:
        ValueError, TypeError: an argument is not valid, or the module does not fit the
            family's tasks.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        rule: InnerRule,
        *,
        inner_steps: int = 1,
        first_order: bool = False,
        vectorize: bool | str = "auto",
        **outer: Any,
    ) -> None:
        if vectorize not in ("auto", True, False):
            raise ValueError(f"vectorize must be 'auto' or a bool, got {vectorize!r}")
        parameters_of(module)
        if not isinstance(rule, InnerRule):
            raise TypeError(
                "rule must be an agents.meta.inner_rules.InnerRule, such as "
                "Fixed(0.01, 'sgd'), "
                f"got {rule!r}"
            )
        self.rule, self.first_order = rule, first_order
        self.inner_steps = self._checked(positive_int("inner_steps", inner_steps))
        self.network = Stacked(module, named_loss(loss_of(family)))
        drawn = draw(family, 1, np.random.default_rng(0))
        support, query = drawn
        check_dtypes(module, (*support, *query))
        self._dimensions = support.inputs.dim() - 1
        check_tasks(family, Episodes._fields, drawn, partial(check_output, module))
        self.network.choose(support.inputs[0], support.targets[0])
        if vectorize != "auto":
            self.network.vectorized = bool(vectorize)
        self.initial = nn.Parameter(flat(module))
        rule.to(self.initial.dtype)
        super().__init__(family, [self.initial, *rule.parameters()], **outer)

    def _network(self) -> nn.Module:
        return self.network.template

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        *_, last = self._adapted(episodes.support, self.inner_steps, differentiable=True)
        return self.network.loss(self.network.unflatten(last), *episodes.query).mean()

    def _adapted(
        self, support: Examples, steps: int, *, differentiable: bool = False
    ) -> Iterator[Tensor]:
        """Parameters ``[B, P]`` before the first step and after each."""
        params = self.initial.expand(len(support.inputs), -1)
        return unroll(
            self.network, self.rule, params, partial(self._batch, support), steps,
            differentiable=differentiable, first_order=self.first_order,
        )  # fmt: skip

    def _batch(self, support: Examples, step: int) -> Examples:
        """What a step of the inner loop is taken on."""
        return support

    def _checked(self, wanted: int) -> int:
        steps, most = natural("steps", wanted), self.rule.max_steps
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
            ValueError: no examples, or those of more than one task; a negative number of
                steps, or more of them than the rule is good for.
            TypeError: inputs or targets are no tensors.
        """
        steps = self._checked(self.inner_steps if steps is None else steps)
        *_, last = self._adapted(known((inputs, targets), self._dimensions), steps)
        parts = self.network.unflatten(last.detach())
        return dict(zip(self.network.names, (p[0].clone() for p in parts), strict=True))

    def predict(
        self,
        inputs: Tensor,
        support: tuple[Tensor, Tensor] | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Outputs ``[n, ...]`` of the network, adapted to ``support`` if there is one.

        Args:
            inputs: ``[n, ...]``.
            support: pair of inputs and targets of the task, see :meth:`adapt`.
            steps: see :meth:`adapt`.

        Raises:
            ValueError: ``inputs`` are those of more than one task; see also :meth:`adapt`.
            TypeError: ``support`` is no pair of tensors.
        """
        check_one_task(inputs, self._dimensions)
        adapted = None if support is None else self.adapt(*pair_of(support), steps)
        return self._outputs(inputs, adapted)

    @torch.no_grad()
    def _outputs(self, inputs: Tensor, adapted: dict[str, Tensor] | None = None) -> Tensor:
        """Outputs ``[n, ...]`` with adapted parameters, or else the initial ones."""
        if adapted is None:
            params = self.network.unflatten(self.initial[None])
        else:
            params = tuple(adapted[name][None] for name in self.network.names)
        return self.network.outputs(params, inputs[None])[0]

    def evaluate(
        self,
        family: Family | None = None,
        tasks: int = 600,
        steps: Sequence[int] | None = None,
        seed: int = 1_000_000,
    ) -> Evaluation:
        """Losses, and accuracies of classifiers, on fresh tasks.

        Args:
            family: of the tasks, with the same loss; the one that is learned on by default.
            tasks: how many.
            steps: after which numbers of steps of the inner loop; by default those of 0,
                1, 5 and 10 that the rule is good for.
            seed: of the tasks.

        Raises:
            ValueError: no steps, a negative number of them, or more than the rule is good
                for; the family's loss is not that of the learner's, or the module's outputs
                do not fit its tasks.
            TypeError: it is no family, or draws no :class:`Episodes`.
        """
        positive_int("tasks", tasks)
        if steps is None:
            most = self.rule.max_steps
            steps = [s for s in (0, 1, 5, 10) if most is None or s <= most]
        if isinstance(steps, (int, np.integer)) or not len(steps):
            raise ValueError(f"steps must be numbers of steps, at least one, got {steps!r}")
        wanted = sorted({self._checked(s) for s in steps})
        family, drawn = self._drawn(family, tasks, seed, adapts=wanted[-1] > 0)
        support, query = drawn
        found = []
        for step, flat_params in enumerate(self._adapted(support, wanted[-1])):
            if step in wanted:
                params = self.network.unflatten(flat_params.detach())
                with torch.no_grad():
                    outputs = self.network.outputs(params, query.inputs)
                    losses = self.network.loss(params, *query)
                found.append(judged(family, outputs, losses, query.targets))
        losses, right = zip(*found, strict=True)
        accuracies = None if right[0] is None else np.stack(right)
        return Evaluation(tuple(wanted), np.stack(losses), accuracies)

    def _drawn(
        self, family: Family | None, tasks: int, seed: int, adapts: bool
    ) -> tuple[Family, Episodes]:
        """The family to evaluate on, and tasks of it that the module fits."""
        rng = np.random.default_rng(seed)
        if family is None or family is self.family:
            return self.family, draw(self.family, tasks, rng)
        check_same_loss(self.family, family)
        drawn = draw(family, tasks, rng)
        check_dtypes(self.network.template, (*drawn.support, *drawn.query))
        # Without a step, nobody looks at the support.
        check_tasks(family, Episodes._fields[not adapts :], drawn, self._outputs)
        return family, drawn
