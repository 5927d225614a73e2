"""How an optimizer comes by the losses of a training loop that does not hand them over."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["REDUCTIONS", "LossTap", "is_scalar"]

#: What several losses before one step are made into.
REDUCTIONS = ("mean", "sum")


class LossTap:
    """Collects losses from the forward passes of modules, until they are asked for."""

    def __init__(self) -> None:
        #: Sum and number of those that were finite.
        self._pending: dict[str, tuple[Tensor, Tensor]] = {}

    def attach(self, module: nn.Module, reduction: str) -> RemovableHandle:
        """Collect what ``module`` returns; see :meth:`LearnedOptimizer.attach_loss`.

        Raises:
            TypeError: ``module`` is no module.
            ValueError: ``reduction`` is unknown.
        """
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"attach_loss needs a module that returns a loss, got {module!r}; "
                "the loss of a function is given to step(loss=loss)"
            )

        return module.register_forward_hook(_Hook(self, reduction))

    def add(self, loss: Tensor, reduction: str) -> None:
        """Note a loss; those that are not finite are of batches that nobody steps on."""
        loss = loss.detach().reshape(())
        loss = loss if loss.is_floating_point() else loss.float()
        finite = loss.isfinite()
        loss = torch.where(finite, loss, torch.zeros_like(loss))
        if reduction in self._pending:
            total, count = self._pending[reduction]
            loss, finite = loss.to(total.device) + total, finite.to(count.device) + count
        self._pending[reduction] = loss, finite.to(torch.int64)

    def take(self) -> Tensor | None:
        """The losses since the last call as one, or None if there were none.

        The mean of those to be averaged; with those to be added up, the sum of both. Not
        a number if none was finite.
        """
        pending, self._pending = self._pending, {}
        reduced = [
            total / count if name == "mean" else total / (count > 0)
            for name, (total, count) in pending.items()
        ]
        if not reduced:
            return None
        return torch.stack([loss.to(reduced[0].device) for loss in reduced]).sum()


def is_scalar(value: Any) -> bool:
    """Whether it can be a loss: a number, or a tensor of one."""
    return isinstance(value, (int, float)) or (
        isinstance(value, Tensor) and value.numel() == 1
    )


class _Hook:
    """Forward hook that tells a tap; its copy, in a copied module, tells nobody."""

    def __init__(self, tap: LossTap | None = None, reduction: str = "mean") -> None:
        self._reduction = reduction
        self._tap: Callable[[], LossTap | None] = (
            (lambda: None) if tap is None else weakref.ref(tap)
        )

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        tap = self._tap()
        if tap is not None and torch.is_grad_enabled():
            loss = _loss_of(output, module)
            if loss is not None:
                tap.add(loss, self._reduction)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


def _loss_of(output: Any, module: nn.Module) -> Tensor | None:
    """Loss in what a criterion, or a model that computes its own loss, returns.

    None where there is a place for it and nothing in it: a model without labels.

    Raises:
        TypeError: there is no such place.
        ValueError: what is there is no scalar.
    """
    found = output
    if isinstance(output, Mapping) and "loss" in output:
        found = output["loss"]
    elif hasattr(output, "loss"):
        found = output.loss
    elif isinstance(output, tuple) and output:
        found = output[0]
    if found is None:
        return None
    if not isinstance(found, Tensor):
        raise TypeError(
            "a module given to attach_loss must return a scalar tensor, a tuple that "
            "begins with one, or something with a 'loss', but "
            f"{type(module).__name__} returned {type(output).__name__}"
        )
    if found.numel() != 1:
        raise ValueError(
            "a module given to attach_loss must return a scalar loss, but "
            f"{type(module).__name__} returned a tensor of shape {list(found.shape)}"
        )
    return found
