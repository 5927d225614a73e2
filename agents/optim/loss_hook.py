"""Losses of training loops: a forward hook that collects them, and checks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["REDUCTIONS", "LossCollector", "check_loss", "is_scalar"]

#: How several losses before one step are combined.
REDUCTIONS = ("mean", "sum")


class LossCollector:
    """Collects the losses of modules' forward passes until a step takes them."""

    def __init__(self) -> None:
        #: Sum and number of the finite losses, by reduction.
        self._pending: dict[str, tuple[Tensor, Tensor]] = {}
        #: Number of losses with reduction ``"sum"``, finite or not.
        self._shares = 0

    @property
    def adds_up(self) -> bool:
        """True if several losses were collected whose sum is the loss of the step."""
        return self._shares > 1

    def attach(self, module: nn.Module, reduction: str) -> RemovableHandle:
        """Collect the losses that ``module`` returns; see ``LearnedOptimizer.attach_loss``.

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
        """Add a loss; one that is not finite is ignored, since its step is skipped."""
        self._shares += reduction == "sum"
        loss = loss.detach().reshape(())
        loss = loss if loss.is_floating_point() else loss.float()
        finite = loss.isfinite()
        loss = torch.where(finite, loss, torch.zeros_like(loss))
        if reduction in self._pending:
            total, count = self._pending[reduction]
            loss, finite = loss.to(total.device) + total, finite.to(count.device) + count
        self._pending[reduction] = loss, finite.to(torch.int64)

    def take(self) -> Tensor | None:
        """Combine and drop the losses since the last call.

        Returns:
            The mean of the losses with reduction ``"mean"`` plus the sum of those with
            reduction ``"sum"``, a scalar; NaN if none was finite, None if there were none.
        """
        pending, self._pending, self._shares = self._pending, {}, 0
        reduced = [
            total / count if name == "mean" else total / (count > 0)
            for name, (total, count) in pending.items()
        ]
        if not reduced:
            return None
        return torch.stack([loss.to(reduced[0].device) for loss in reduced]).sum()


def is_scalar(value: Any) -> bool:
    """Return whether a value can be a loss: a number, or a tensor of one element."""
    return isinstance(value, (int, float)) or (
        isinstance(value, Tensor) and value.numel() == 1
    )


def check_loss(loss: Any, name: str = "loss") -> None:
    """Refuse anything except a real scalar, without waiting for a device.

    Args:
        loss: the loss.
        name: name of the loss, for the message.

    Raises:
        ValueError: the loss is a tensor of more than one element, or without data.
        TypeError: the loss is no number.
    """
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ValueError(
                f"{name} must be a scalar, got a tensor of shape {list(loss.shape)}"
            )
        if loss.is_complex():
            raise TypeError(f"{name} must be real, got a tensor of {loss.dtype}")
        if loss.is_meta:
            raise ValueError(f"{name} is on device 'meta', where tensors have no numbers")
        return
    try:
        if isinstance(loss, (str, bytes)):
            raise TypeError
        float(loss)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a scalar, got {loss!r}") from None


class _Hook:
    """Forward hook that adds a loss to a collector.

    Copies and pickles of the hook, as in a copied module, have no collector.
    """

    def __init__(
        self, collector: LossCollector | None = None, reduction: str = "mean"
    ) -> None:
        self._reduction = reduction
        self._collector: Callable[[], LossCollector | None] = (
            (lambda: None) if collector is None else weakref.ref(collector)
        )

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        collector = self._collector()
        if collector is not None and torch.is_grad_enabled():
            loss = _loss_in(output, module)
            if loss is not None:
                collector.add(loss, self._reduction)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


def _loss_in(output: Any, module: nn.Module) -> Tensor | None:
    """Find the loss in the output of a criterion, or of a model that computes its loss.

    Returns:
        The loss; None if the output has a loss that is None, as without labels.

    Raises:
        TypeError: the output cannot have a loss.
        ValueError: the loss is no scalar.
    """
    loss = output
    if isinstance(output, Mapping) and "loss" in output:
        loss = output["loss"]
    elif hasattr(output, "loss"):
        loss = output.loss
    elif isinstance(output, tuple) and output:
        loss = output[0]
    if loss is None:
        return None
    if not isinstance(loss, Tensor):
        raise TypeError(
            "a module given to attach_loss must return a scalar tensor, a tuple that "
            "begins with one, or something with a 'loss', but "
            f"{type(module).__name__} returned {type(output).__name__}"
        )
    if loss.numel() != 1:
        raise ValueError(
            "a module given to attach_loss must return a scalar loss, but "
            f"{type(module).__name__} returned a tensor of shape {list(loss.shape)}"
        )
    return loss
