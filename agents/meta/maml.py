"""Model-agnostic meta-learning, its first-order form, and the one that adapts the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from optenv.checks import positive

from .checks import parameters_of, refuse
from .families.episodes import Family
from .inner_rules import Fixed
from .learner import MetaLearner


class MAML(MetaLearner):
    """Initial parameters from which a few steps of gradient descent go far.

    Finn, Abbeel & Levine (2017): the outer gradient goes through the inner steps.

    Args:
        module, family: see :class:`~agents.meta.learner.MetaLearner`.
        inner_lr: learning rate of the inner loop.
        inner_steps: of the inner loop while learning.
        adapts: names of the parameters that the inner loop changes, or of modules that hold
            them, such as ``"2"`` or ``"head"`` (a string is one); None changes all.
        **outer: of :class:`~agents.meta.learner.MetaLearner`.

    Raises:
        ValueError: no parameter or module is called as ``adapts`` says, or ``inner_lr`` is
            not positive.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        adapts: str | Sequence[str] | None = None,
        **outer: Any,
    ) -> None:
        mask = None if adapts is None else mask_of(module, adapts)
        refuse(self, outer, "rule")
        self.lr, self.mask = positive("inner_lr", inner_lr), mask
        rule = Fixed(self.lr, mask=mask)
        super().__init__(module, family, rule, inner_steps=inner_steps, **outer)


class FOMAML(MAML):
    """MAML whose inner gradients are taken for constants (Finn et al., 2017).

    Args:
        module, family, arguments: those of :class:`MAML`.
    """

    def __init__(self, module: nn.Module, family: Family, **arguments: Any) -> None:
        refuse(self, arguments, "first_order")
        super().__init__(module, family, first_order=True, **arguments)


class ANIL(MAML):
    """MAML that adapts the last layer alone (Raghu et al., 2020).

    Args:
        module, family, arguments: those of :class:`MAML`; by default, ``adapts`` are the
            parameters of the module's last layer.

    Raises:
        ValueError: the last layer shares parameters with another, or cannot be found by
            the names of the parameters.
    """

    def __init__(self, module: nn.Module, family: Family, **arguments: Any) -> None:
        if "adapts" not in arguments:
            arguments["adapts"] = _head(module)
        super().__init__(module, family, **arguments)


def _head(module: nn.Module) -> tuple[str, ...]:
    """Name of the last layer, or names of its parameters.

    Raises:
        ValueError: it shares some with another layer, or it has no name of its own.
    """
    parameters_of(module)
    everywhere = module.named_parameters(remove_duplicate=False)
    named = {name: p for name, p in everywhere if p.requires_grad}
    last = list(named)[-1].rpartition(".")[0]
    head = {name: p for name, p in named.items() if name.rpartition(".")[0] == last}
    if not last and not {"weight", "bias"}.issuperset(head):
        raise ValueError(
            f"of the parameters {', '.join(head)}, which are in no layer, ANIL does not "
            "know which are the last layer's; name them in adapts"
        )
    for name, parameter in named.items():
        if name not in head and any(parameter is own for own in head.values()):
            raise ValueError(
                f"the last layer {last!r} shares a parameter with {name!r}, which would "
                "adapt with it; name what adapts in adapts"
            )
    return (last,) if last else tuple(head)


def mask_of(module: nn.Module, names: str | Sequence[str]) -> torch.Tensor:
    """``[P]`` bool, which parameters have one of these names, or are in modules that have.

    ``"1"`` and ``"1."`` are the parameters of module 1, and none of module 10.

    Raises:
        ValueError: one of them is no name, or there are none.
    """
    parameters = parameters_of(module)
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names:
        raise ValueError(f"adapts must name parameters, got {names!r}")
    chosen: set[str] = set()
    for name in names:
        whole = name.removesuffix(".")
        found = {each for each in parameters if f"{each}.".startswith(f"{whole}.")}
        if not found:
            raise ValueError(
                f"no parameter is called {name!r}, nor a module that holds some; there "
                f"are {', '.join(map(repr, parameters))}"
            )
        chosen |= found
    parts = [torch.full((p.numel(),), name in chosen) for name, p in parameters.items()]
    return torch.cat(parts)
