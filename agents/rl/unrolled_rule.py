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
    """The network that moves each parameter, and the policy of its learning rates.

    The network of :func:`optenv.rules.network` and the policy ascend the rewards of the
    same segments. Each run has a copy of the network's weights, so that its gradient can
    be clipped by itself. At first, the rule is Adam. Derivatives are not taken through
    what the network sees of a parameter and its gradients in units of their tensor, so that
    gradients are approximate.

    To go on from a rule, give its weights: ``{"rule": {"name": "network", "weights":
    learner.weights.tolist()}}``. The policy of learning rates begins anew.

    Args:
        arguments: see :class:`~agents.rl.unrolled.UnrolledLR`; the rule, ``"network"``
            by default, may have weights to begin with.
        hidden: units of the network, if it has no weights yet.
        rule_lr: learning rate of Adam on them.
        **unrolled: other arguments of :class:`~agents.rl.unrolled.UnrolledLR`.

    Attributes:
        weights: ``[W]`` of the network.

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
        given = torch.tensor(cast(MLP, self.rule.hyperparameters).weights)
        if not len(given):
            given = first_weights(positive_int("hidden", hidden), self.generator)
        self.weights = nn.Parameter(given)
        self.optimizer.add_param_group({"params": [self.weights], "lr": rule_lr})

    def _begin_segment(self, group: Group) -> list[Tensor]:
        rows = self.weights.detach().expand(group.size, -1).clone().requires_grad_()
        update = partial(self.rule.update, weights=rows)
        group.rule = replace(self.rule, update=update)
        return [rows]

    def _ascend_others(self, grads: Sequence[Tensor | None]) -> None:
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
        """Write the policy file, with the rule's weights in its description."""
        spec = {**_as_dict(self.rule.to_spec()), "weights": self.weights.tolist()}
        self.policy.description["rule"] = spec
        self.policy.rule = rules.get(spec)
        return super().save(path)


def _as_dict(spec: rules.RuleSpec) -> dict[str, Any]:
    return dict(spec) if isinstance(spec, dict) else {"name": spec}
