"""Base classes of gradient-based meta-learners.

A learner has initial parameters and an inner rule. In the inner loop, the rule adapts the
parameters to the support of a task; in the outer loop, both are learned, so that the loss
on the query is low after adaptation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import positive_int
from optenv.tasks.stacked import Stacked, flat, named_loss

from .families.episodes import Episodes, Examples, Family
from .inner import InnerRule, unroll
from .outer import Evaluation, Learner, task_scores
from .validation import (
    check_dtypes,
    check_one_task,
    check_outputs,
    check_same_loss,
    loss_of,
    non_negative_int,
    parameters_of,
    refuse_fixed,
    sample_episodes,
    support_batch,
    support_pair,
    try_module,
)

#: Numbers of inner steps that :meth:`MetaLearner.evaluate` reports by default.
EVALUATED_STEPS = (0, 1, 5, 10)


class MetaLearner(Learner):
    r"""Learn initial parameters, and the parameters of an inner rule, by gradient descent.

    With the initial parameters :math:`\theta_0`, the rule :math:`U_\phi`, the loss
    :math:`L^S` of a task's support and :math:`L^Q` of its query, the outer loop minimises

    .. math::

        \mathbb{E}\, L^Q(\theta_K) \quad\text{with}\quad
        \theta_{k+1} = U_\phi(\theta_k, \nabla L^S(\theta_k))

    over :math:`\theta_0` and :math:`\phi`. The subclasses choose the rule; your own may
    pass any :class:`~agents.meta.InnerRule`.

    The module runs in the mode in which it is given. In training mode, batch normalisation
    uses the statistics of the examples of one call, so that predictions are transductive,
    and torch refuses a single value per channel, such as one example of a layer without
    pixels. Running statistics are then neither used nor updated; to use the stored ones,
    call ``module.eval()`` before making the learner.

    For an ordinary network with adapted parameters, call
    ``module.load_state_dict(learner.adapt(inputs, targets), strict=False)``; to leave the
    module unchanged, use ``torch.func.functional_call(module, learner.adapt(...),
    inputs)``.

    Args:
        module: network, which is copied; learning begins with its parameters.
        family: tasks to learn on.
        rule: update rule of the inner loop, such as
            ``agents.meta.inner.FixedRule(0.01, "sgd")``.
        inner_steps: number of inner steps while learning.
        first_order: treat the gradients of the inner loop as constants.
        vectorize: stack the networks of the tasks (True), run them in a loop (False), or
            stack them if the module allows it (``"auto"``).
        **outer: arguments of :class:`~agents.meta.Learner`: ``meta_lr`` (1e-3),
            ``meta_batch`` (25), ``grad_clip`` (None) and ``seed`` (0).

    Attributes:
        initial: ``[P]`` initial parameters.
        rule: the inner rule.
        inner_steps: number of inner steps while learning.

    Raises:
        ValueError, TypeError: an argument is not valid, or the module does not fit the
            family's tasks.

    Example:
        >>> import torch
        >>> from agents import meta
        >>> from agents.meta.inner import FixedRule
        >>> rule = FixedRule(0.01, "momentum")
        >>> learner = MetaLearner(torch.nn.Linear(1, 1), meta.Sinusoids(), rule)
        >>> learner.learn(2).iterations
        2
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
        # 1. Arguments.
        if vectorize not in ("auto", True, False):
            raise ValueError(f"vectorize must be 'auto' or a bool, got {vectorize!r}")
        parameters_of(module)
        if not isinstance(rule, InnerRule):
            raise TypeError(
                "rule must be an agents.meta.InnerRule, such as "
                f"agents.meta.inner.FixedRule(0.01, 'sgd'), got {rule!r}"
            )
        self.rule, self.first_order = rule, first_order
        self.inner_steps = self._checked_steps(positive_int("inner_steps", inner_steps))
        # 2. The network, tried on one task.
        self.network = Stacked(module, named_loss(loss_of(family)))
        episodes = sample_episodes(family, 1, np.random.default_rng(0))
        support, query = episodes
        check_dtypes(module, (*support, *query))
        self._dimensions = support.inputs.dim() - 1
        check_outputs(family, Episodes._fields, episodes, partial(try_module, module))
        self.network.choose(support.inputs[0], support.targets[0])
        if vectorize != "auto":
            self.network.vectorized = bool(vectorize)
        # 3. The learned parameters.
        self.initial = nn.Parameter(flat(module))
        rule.to(self.initial.dtype)
        super().__init__(family, [self.initial, *rule.parameters()], **outer)

    def _network(self) -> nn.Module:
        return self.network.template

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        *_, adapted = self._adapted(episodes.support, self.inner_steps, differentiable=True)
        params = self.network.unflatten(adapted)
        return self.network.loss(params, *episodes.query).mean()

    def _adapted(
        self, support: Examples, steps: int, *, differentiable: bool = False
    ) -> Iterator[Tensor]:
        """Yield the parameters ``[B, P]`` before the first inner step and after each."""
        params = self.initial.expand(len(support.inputs), -1)
        return unroll(
            self.network, self.rule, params, partial(self._batch, support), steps,
            differentiable=differentiable, first_order=self.first_order,
        )  # fmt: skip

    def _batch(self, support: Examples, step: int) -> Examples:
        """Return the examples of an inner step: the whole support."""
        return support

    def _checked_steps(self, value: int) -> int:
        """Return a number of inner steps that the rule supports as a plain int."""
        steps, max_steps = non_negative_int("steps", value), self.rule.max_steps
        if max_steps is not None and steps > max_steps:
            raise ValueError(
                f"steps must be at most {max_steps}, which the rule was learned for, "
                f"got {steps}"
            )
        return steps

    def adapt(
        self, inputs: Tensor, targets: Tensor, steps: int | None = None
    ) -> dict[str, Tensor]:
        """Return parameters adapted to one task, by name; the learner does not change.

        Args:
            inputs, targets: ``[n, ...]`` support of the task.
            steps: number of inner steps; by default as many as in learning.

        Raises:
            ValueError: there are no examples, or they belong to more than one task; the
                number of steps is negative, or larger than the rule supports.
            TypeError: inputs or targets are not tensors.
        """
        steps = self._checked_steps(self.inner_steps if steps is None else steps)
        support = support_batch((inputs, targets), self._dimensions)
        *_, adapted = self._adapted(support, steps)
        params = self.network.unflatten(adapted.detach())
        return dict(zip(self.network.names, (p[0].clone() for p in params), strict=True))

    def predict(
        self,
        inputs: Tensor,
        support: tuple[Tensor, Tensor] | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Return the outputs ``[n, ...]`` of the network, adapted to a support if given.

        Args:
            inputs: ``[n, ...]`` inputs of one task.
            support: pair of inputs and targets of the task, see :meth:`adapt`.
            steps: number of inner steps, see :meth:`adapt`.

        Raises:
            ValueError: ``inputs`` belong to more than one task; see also :meth:`adapt`.
            TypeError: ``support`` is not a pair of tensors.
        """
        check_one_task(inputs, self._dimensions)
        adapted = None if support is None else self.adapt(*support_pair(support), steps)
        return self._outputs(inputs, adapted)

    @torch.no_grad()
    def _outputs(self, inputs: Tensor, adapted: dict[str, Tensor] | None = None) -> Tensor:
        """Return outputs ``[n, ...]`` with adapted or, by default, initial parameters."""
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
        """Adapt to fresh tasks, and return losses and accuracies on their queries.

        Args:
            family: family of the tasks, with the learner's loss; by default the one that
                the learner learns on.
            tasks: number of tasks.
            steps: numbers of inner steps after which to evaluate; by default 0, 1, 5 and
                10, as far as the rule supports them.
            seed: seed of the tasks.

        Raises:
            ValueError: ``steps`` is empty, or has a negative number or one that the rule
                does not support; the family's loss is not the learner's, or the module's
                outputs do not fit its tasks.
            TypeError: ``family`` is not a family, or does not return :class:`Episodes`.
        """
        # 1. Arguments and tasks.
        positive_int("tasks", tasks)
        if steps is None:
            max_steps = self.rule.max_steps
            steps = [s for s in EVALUATED_STEPS if max_steps is None or s <= max_steps]
        if isinstance(steps, (int, np.integer)) or not len(steps):
            raise ValueError(f"steps must be numbers of steps, at least one, got {steps!r}")
        wanted = sorted({self._checked_steps(s) for s in steps})
        family, episodes = self._evaluation_tasks(family, tasks, seed, wanted[-1] > 0)
        support, query = episodes
        # 2. One inner loop, evaluated at the wanted steps.
        results = []
        for step, adapted in enumerate(self._adapted(support, wanted[-1])):
            if step in wanted:
                params = self.network.unflatten(adapted.detach())
                with torch.no_grad():
                    outputs = self.network.outputs(params, query.inputs)
                    losses = self.network.loss(params, *query)
                results.append(task_scores(family, outputs, losses, query.targets))
        # 3. Arrays [len(steps), tasks].
        losses, accuracies = zip(*results, strict=True)
        stacked = None if accuracies[0] is None else np.stack(accuracies)
        return Evaluation(tuple(wanted), np.stack(losses), stacked)

    def _evaluation_tasks(
        self, family: Family | None, tasks: int, seed: int, adapts: bool
    ) -> tuple[Family, Episodes]:
        """Return the family to evaluate on, and tasks of it that fit the module."""
        rng = np.random.default_rng(seed)
        if family is None or family is self.family:
            return self.family, sample_episodes(self.family, tasks, rng)
        check_same_loss(self.family, family)
        episodes = sample_episodes(family, tasks, rng)
        check_dtypes(self.network.template, (*episodes.support, *episodes.query))
        # Without an inner step, the support is not used.
        parts = Episodes._fields if adapts else ("query",)
        check_outputs(family, parts, episodes, self._outputs)
        return family, episodes


class InnerRuleLearner(MetaLearner):
    """Meta-learner that makes its inner rule from an inner learning rate.

    A subclass implements :meth:`_make_rule`. If it needs further arguments for that, its
    constructor sets them as attributes before it calls this one.

    Args:
        module, family: see :class:`~agents.meta.MetaLearner`.
        inner_lr: initial inner learning rate.
        inner_steps: number of inner steps while learning.
        **outer: arguments of :class:`~agents.meta.MetaLearner`, except ``rule``.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        inner_lr: Any = 0.01,
        inner_steps: int = 5,
        **outer: Any,
    ) -> None:
        refuse_fixed(self, outer, "rule")
        steps = positive_int("inner_steps", inner_steps)
        rule = self._make_rule(module, inner_lr, steps, outer.get("seed", 0))
        super().__init__(module, family, rule, inner_steps=steps, **outer)

    @abstractmethod
    def _make_rule(
        self, module: nn.Module, inner_lr: Any, inner_steps: int, seed: Any
    ) -> InnerRule:
        """Return the inner rule.

        Args:
            module: the network.
            inner_lr: inner learning rate, not yet checked.
            inner_steps: number of inner steps while learning.
            seed: seed of the learner, for the rule's initial parameters.

        Raises:
            ValueError, TypeError: ``inner_lr`` or the module is not valid.
        """
