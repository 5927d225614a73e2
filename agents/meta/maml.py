"""Model-agnostic meta-learning, its first-order form, and the one that adapts the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from optenv.tasks.stacked import trained_parameters

from .episodes import Family
from .learner import MetaLearner
from .rules import Fixed


class MAML(MetaLearner):
    """Initial parameters from which a few steps of gradient descent go far.

    Finn, Abbeel & Levine (2017): the outer gradient goes through the inner steps.

    Args:
        module, family: see :class:`~agents.meta.learner.MetaLearner`.
        inner_lr: learning rate of the inner loop.
        inner_steps: of the inner loop while learning.
        adapts: names of the parameters that the inner loop changes, or beginnings of them;
            None changes all.
        **outer: of :class:`~agents.meta.learner.MetaLearner`.

    Raises:
        ValueError: no parameter is called as ``adapts`` says.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        adapts: Sequence[str] | None = None,
        **outer: Any,
    ) -> None:
        mask = None if adapts is None else mask_of(module, adapts)
        rule = Fixed(inner_lr, mask=mask)
        super().__init__(module, family, rule, inner_steps=inner_steps, **outer)


class FOMAML(MAML):
    """MAML whose inner gradients are taken for constants (Finn et al., 2017).

    Args:
        module, family, **arguments: those of :class:`MAML`.
    """

    def __init__(self, module: nn.Module, family: Family, **arguments: Any) -> None:
        super().__init__(module, family, first_order=True, **arguments)


class ANIL(MAML):
    """MAML that adapts the last layer alone (Raghu et al., 2020).

    Args:
        module, family, **arguments: those of :class:`MAML`; by default, ``adapts`` are the
            parameters of the module's last layer.
    """

    def __init__(self, module: nn.Module, family: Family, **arguments: Any) -> None:
        last = list(trained_parameters(module))[-1].rpartition(".")[0]
        super().__init__(module, family, **{"adapts": (f"{last}.",), **arguments})


def mask_of(module: nn.Module, names: Sequence[str]) -> torch.Tensor:
    """``[P]`` bool, which parameters have a name that begins with one of these.

    Raises:
        ValueError: one of them is the beginning of no name.
    """
    parameters = trained_parameters(module)
    for name in names:
        if not any(known.startswith(name) for known in parameters):
            raise ValueError(
                f"no parameter is called {name!r}; there are {', '.join(parameters)}"
            )
    parts = [
        torch.full((p.numel(),), name.startswith(tuple(names)))
        for name, p in parameters.items()
    ]
    return torch.cat(parts)
