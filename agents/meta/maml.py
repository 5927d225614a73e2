"""MAML, its first-order form, and ANIL, which adapts the last layer only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from optenv.checks import positive

from .families.episodes import Family
from .inner import FixedRule
from .learner import InnerRuleLearner
from .validation import parameters_of, refuse_fixed


class MAML(InnerRuleLearner):
    r"""Model-agnostic meta-learning (Finn, Abbeel & Levine, 2017).

    Meta-learns initial parameters from which a few steps of gradient descent reach a low
    loss. The inner update is :math:`\theta_{k+1} = \theta_k - \alpha \nabla
    L^S(\theta_k)`; the outer gradient is computed through it.

    Args:
        module, family: see :class:`~agents.meta.MetaLearner`.
        inner_lr: inner learning rate :math:`\alpha`.
        inner_steps: number of inner steps while learning.
        adapts: names of the parameters that the inner loop changes, or of modules with such
            parameters, such as ``"2"`` or ``"head"``; a string is one name. None for all.
        **outer: arguments of :class:`~agents.meta.MetaLearner`.

    Attributes:
        lr: inner learning rate.
        mask: ``[P]`` bool, True for parameters that adapt; None if all do.

    Raises:
        ValueError: ``adapts`` names no parameter or module, or ``inner_lr`` is not
            positive.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> learner = MAML(perceptron(1, 8, 1), meta.Sinusoids(shots=5), inner_lr=0.05)
        >>> learner.learn(2).evaluate(tasks=10, steps=[0, 1]).losses.shape
        (2, 10)
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
        self.mask = None if adapts is None else mask_of(module, adapts)
        super().__init__(
            module, family, inner_lr=inner_lr, inner_steps=inner_steps, **outer
        )

    def _make_rule(
        self, module: nn.Module, inner_lr: Any, inner_steps: int, seed: Any
    ) -> FixedRule:
        self.lr = positive("inner_lr", inner_lr)
        return FixedRule(self.lr, mask=self.mask)


class FOMAML(MAML):
    r"""First-order MAML (Finn et al., 2017).

    Meta-learns initial parameters with the inner update of :class:`MAML`, but treats inner
    gradients as constants: the outer gradient is :math:`\nabla L^Q(\theta_K)`, the query's
    at the adapted parameters.

    Args:
        module, family, **arguments: see :class:`MAML`.

    Raises:
        TypeError: ``first_order`` is given.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> learner = FOMAML(perceptron(1, 8, 1), meta.Sinusoids(), inner_steps=3)
        >>> learner.learn(2).iterations
        2
    """

    def __init__(self, module: nn.Module, family: Family, **arguments: Any) -> None:
        refuse_fixed(self, arguments, "first_order")
        super().__init__(module, family, first_order=True, **arguments)


class ANIL(MAML):
    r"""Almost no inner loop (Raghu et al., 2020): MAML that adapts the last layer only.

    Meta-learns all initial parameters; the inner update :math:`\theta_{k+1} = \theta_k -
    \alpha \nabla L^S(\theta_k)` changes those of the last layer.

    Args:
        module, family, **arguments: see :class:`MAML`; by default, ``adapts`` names the
            parameters of the module's last layer.

    Raises:
        ValueError: the last layer shares parameters with another layer, or cannot be
            identified by the names of the parameters.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> learner = ANIL(perceptron(1, 8, 1), meta.Sinusoids())
        >>> int(learner.mask.sum())  # 8 weights and a bias
        9
    """

    def __init__(self, module: nn.Module, family: Family, **arguments: Any) -> None:
        if "adapts" not in arguments:
            arguments["adapts"] = _last_layer(module)
        super().__init__(module, family, **arguments)


def _last_layer(module: nn.Module) -> tuple[str, ...]:
    """Return the name of the last layer, or the names of its parameters.

    Raises:
        ValueError: it shares a parameter with another layer, or the module's own parameters
            are not those of one layer.
    """
    parameters_of(module)
    occurrences = module.named_parameters(remove_duplicate=False)
    named = {name: p for name, p in occurrences if p.requires_grad}
    layer = list(named)[-1].rpartition(".")[0]
    head = {name: p for name, p in named.items() if name.rpartition(".")[0] == layer}
    if not layer and not {"weight", "bias"}.issuperset(head):
        raise ValueError(
            f"of the parameters {', '.join(head)}, which are in no layer, ANIL does not "
            "know which are the last layer's; name them in adapts"
        )
    for name, parameter in named.items():
        if name not in head and any(parameter is other for other in head.values()):
            raise ValueError(
                f"the last layer {layer!r} shares a parameter with {name!r}, which would "
                "adapt with it; name what adapts in adapts"
            )
    return (layer,) if layer else tuple(head)


def mask_of(module: nn.Module, names: str | Sequence[str]) -> torch.Tensor:
    """Return a mask ``[P]`` of the parameters with given names, or in modules of that name.

    ``"1"`` and ``"1."`` stand for the parameters of module 1, and not for those of module
    10.

    Args:
        module: the network.
        names: names of parameters or modules, or one name.

    Returns:
        Bool, True for the named parameters.

    Raises:
        ValueError: there are no names, or one is not a parameter's or a module's.
    """
    parameters = parameters_of(module)
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names:
        raise ValueError(f"adapts must name parameters, got {names!r}")
    selected: set[str] = set()
    for name in names:
        prefix = f"{name.removesuffix('.')}."
        matches = {p for p in parameters if f"{p}.".startswith(prefix)}
        if not matches:
            raise ValueError(
                f"no parameter is called {name!r}, nor a module that holds some; there "
                f"are {', '.join(map(repr, parameters))}"
            )
        selected |= matches
    masks = [torch.full((p.numel(),), name in selected) for name, p in parameters.items()]
    return torch.cat(masks)
