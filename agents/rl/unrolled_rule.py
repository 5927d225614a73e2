"""Update rules learned by differentiating through training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from optenv import rules
from optenv.checks import positive, positive_int
from optenv.group import Group
from optenv.rules.mlp import MLP, first_weights

from .unrolled import UnrolledLR

__all__ = ["UnrolledRule"]


class UnrolledRule(UnrolledLR):
    """Learner of an MLP update rule, together with a policy for its learning rate.

    The rule is the small network of :func:`optenv.rules.network`, which is applied to each
    parameter. Rule and policy ascend the rewards of the same segments. Each run has its own
    copy of the rule's weights, so that gradients are clipped per run. The initial rule is
    Adam. The rule's inputs, which are functions of a parameter and its gradients, are not
    differentiated, so that gradients are approximate.

    To continue from a learned rule, give its weights: ``{"rule": {"name": "network",
    "weights": learner.weights.tolist()}}``. The policy for the learning rate starts anew.

    Args:
        arguments: see :class:`~agents.rl.unrolled.UnrolledLR`; the rule, ``"network"``
            by default, may have initial weights.
        hidden: number of hidden units of the rule's network, unless the rule has weights.
        rule_lr: learning rate of Adam on the rule's weights.
        **unrolled: other arguments of :class:`~agents.rl.unrolled.UnrolledLR`.

    Attributes:
        weights: weights of the rule, ``[W]``.

    Raises:
        ValueError, TypeError: an argument is not valid.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        *,
        hidden: int = 8,
        rule_lr: float = 1e-3,
        **unrolled: Any,
    ) -> None:
        super().__init__({"rule": "network", **arguments}, **unrolled)
        self.rule = rules.get(self.settings.rule)
        if self.rule.name != "network":
            raise ValueError(f"the rule must be 'network', got {self.rule.name!r}")
        positive("rule_lr", rule_lr)
        weights = torch.tensor(cast(MLP, self.rule.hyperparameters).weights)
        if not len(weights):
            weights = first_weights(positive_int("hidden", hidden), self.generator)
        self.weights = nn.Parameter(weights)
        self.optimizer.add_param_group({"params": [self.weights], "lr": rule_lr})

    def _begin_segment(self, group: Group) -> list[Tensor]:
        """Give each run a copy of the rule's weights; return the copies ``[B, W]``."""
        rows = self.weights.detach().expand(group.size, -1).clone().requires_grad_()
        update = partial(self.rule.update, weights=rows)
        group.rule = replace(self.rule, update=update)
        return [rows]

    def _ascend_others(self, grads: Sequence[Tensor | None]) -> None:
        """Add the mean over runs of the clipped gradients ``[B, W]`` to the rule's."""
        (grad,) = grads
        if grad is None:
            return
        grad = grad.nan_to_num(0.0, 0.0, 0.0)
        norm = grad.norm(dim=1, keepdim=True)
        clipped = grad * (self.clip / norm.clamp(min=self.clip))
        if self.weights.grad is None:
            self.weights.grad = torch.zeros_like(self.weights)
        self.weights.grad -= clipped.mean(0) / len(self.groups)

    def save(self, path: str | Path) -> Path:
        """Write the policy file, with the rule's weights in its description.

        Args:
            path: see :func:`agents.export_policy`.

        Returns:
            Path of the weights.
        """
        rule = self.rule.to_spec()
        named = dict(rule) if isinstance(rule, dict) else {"name": rule}
        spec = {**named, "weights": self.weights.tolist()}
        self.policy.description["rule"] = spec
        self.policy.rule = rules.get(spec)
        return super().save(path)
