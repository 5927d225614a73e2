"""Optimizers to compare with that are put together here, not taken from a package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from optenv.checks import is_number

__all__ = ["AdamHD"]


class Rule(Optimizer):
    """An optimizer whose step is :meth:`update`, after the closure where there is one."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; parameters without a gradient stay as they are.

        Args:
            closure: re-evaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, or None.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self.update()
        return result

    def update(self) -> None:
        """Move the parameters, given their gradients."""
        raise NotImplementedError


class AdamHD(Rule):
    r"""Adam with hypergradient descent on the learning rate (Adam-HD).

    An update moves the parameters by ``-lr * d``, where ``d`` is Adam's direction with bias
    correction. The loss of the next update, seen as a function of this ``lr``, has the
    slope ``-g @ d``, ``g`` being the next gradient; ``lr`` takes a step of gradient descent
    along it before it is used again: ``lr += hyper_lr * (g @ d)``. The product is over all
    parameters of a group, each of which has a learning rate of its own, in
    ``param_groups[i]["lr"]``. It is not bounded, and may become negative, as in the paper:
    Baydin et al., "Online Learning Rate Adaptation with Hypergradient Descent", ICLR 2018.

    Args:
        params: parameters, or groups of them; gradients must be dense.
        lr: learning rate to begin with, 1e-3 in the authors' experiments.
        hyper_lr: learning rate of the learning rate. The authors have 1e-7 for logistic
            regression and a multilayer perceptron, 1e-8 for a VGG network.
        betas: decay rates of the means of gradients and of their squares.
        eps: added to the root of the mean square.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        hyper_lr: float = 1e-7,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        for name, value in {"lr": lr, "hyper_lr": hyper_lr, "eps": eps}.items():
            if not (is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        if len(betas) != 2 or not all(is_number(b) and 0 <= b < 1 for b in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}")
        super().__init__(params, dict(lr=lr, hyper_lr=hyper_lr, betas=betas, eps=eps))

    def update(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            agreement = [
                (p.grad * self.state[p]["direction"]).sum().cpu()
                for p in params
                if "direction" in self.state[p]
            ]
            if agreement:  # none before the first update
                group["lr"] += group["hyper_lr"] * torch.stack(agreement).sum().item()
            for p in params:
                self._turn(p, group)
                p.add_(self.state[p]["direction"], alpha=-group["lr"])

    def _turn(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        """Adam's direction of ``p``, without the learning rate, into its state."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state.update(t=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["t"] += 1
        beta1, beta2 = group["betas"]
        state["mean"].lerp_(p.grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        root = (state["square"] / (1 - beta2 ** state["t"])).sqrt_().add_(group["eps"])
        state["direction"] = (state["mean"] / root).div_(1 - beta1 ** state["t"])
