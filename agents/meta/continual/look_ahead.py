"""Learning from a stream with learning rates that look ahead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optenv.tasks.stacked import LossFunction

from .checks import check_alone
from .online import Replay


class LaMAML(Replay):
    """Look-ahead MAML (Gupta et al., 2020): learning rates that spare what went before.

    An inner loop takes the batch an example at a time, with a learned rate for each
    parameter. The loss behind each of its steps on the batch together with the memory is
    differentiated with respect to rates and parameters; the rates descend, and then the
    parameters do, with the new rates, negative ones as 0.

    Args:
        module, loss, memory, replayed, glances, seed: see
            :class:`~agents.meta.continual.online.Replay`.
        lr: that all rates begin with. With small perceptrons, 0.1 to 0.3 suit streams of
            digits, and 0.01 to 0.06 those of sine waves, where 0.15 diverges.
        rate_lr: learning rate of the rates. On digits, 2 is better than 0.3; on sine waves,
            0.01 to 0.3 make little difference.
        clip: norm that each of the two gradients is clipped to.

    Raises:
        ValueError: the module normalises by the statistics of its batch, as BatchNorm in
            training mode does; the batches of the inner loop are one example.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: str | LossFunction,
        *,
        lr: float,
        rate_lr: float = 0.3,
        clip: float = 2.0,
        memory: int = 200,
        replayed: int = 10,
        glances: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            module,
            loss,
            lr=lr,
            memory=memory,
            replayed=replayed,
            glances=glances,
            seed=seed,
        )
        check_alone(self, module)
        self.rates = torch.full_like(self.params, lr)
        self.rate_lr, self.clip = rate_lr, clip

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        for _ in range(self.glances):
            self._look_ahead(inputs, targets)
        self.memory.add(inputs, targets)

    def _look_ahead(self, inputs: Tensor, targets: Tensor) -> None:
        judged = self.memory.joined(inputs, targets, self.replayed)
        start = self.params.requires_grad_()
        rates = self.rates.requires_grad_()
        params, total = start, torch.zeros(())
        for i in self.rng.permutation(len(inputs)):
            one = inputs[i : i + 1], targets[i : i + 1]
            grad = self._gradient(params, *one)  # a constant: first order, as published
            params = params - rates.relu() * grad
            parts = (part[None] for part in judged)
            total = total + self.network.loss(self.network.unflatten(params), *parts).sum()
        grads = torch.autograd.grad(total / len(inputs), (start, rates))
        of_params, of_rates = (_clipped(grad, self.clip) for grad in grads)
        self.rates = (rates - self.rate_lr * of_rates).detach()
        self.params = (start - self.rates.relu() * of_params).detach()


def _clipped(grad: Tensor, norm: float) -> Tensor:
    return grad * (norm / grad.norm().clamp(min=norm))
