"""Reference optimizers of the update rules: torch's own, and Lion as published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of Chen et al. (2023), line by line, without weight decay."""

    def __init__(
        self,
        params: list[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for theta in group["params"]:
                g, m = theta.grad, self.state[theta].get("exp_avg", 0.0)
                c = beta1 * m + (1 - beta1) * g
                theta -= lr * torch.sign(c)
                self.state[theta]["exp_avg"] = beta2 * m + (1 - beta2) * g


#: Reference optimizers by rule, as functions of parameters and learning rate. All
#: other hyperparameters are the defaults, which equal those of the rules.
REFERENCES: dict[str, Callable[[list[Tensor], float], torch.optim.Optimizer]] = {
    "sgd": lambda params, lr: torch.optim.SGD(params, lr),
    "momentum": lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9),
    "nesterov": lambda params, lr: torch.optim.SGD(params, lr, 0.9, nesterov=True),
    "rmsprop": lambda params, lr: torch.optim.RMSprop(params, lr),
    "adam": lambda params, lr: torch.optim.Adam(params, lr),
    "nadam": lambda params, lr: torch.optim.NAdam(params, lr),
    "lion": Lion,
}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default precision, in which NAdam keeps its product of momenta."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
