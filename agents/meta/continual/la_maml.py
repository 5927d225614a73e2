"""La-MAML: replay with learning rates that are meta-learned during the stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from optenv.tasks.stacked import LossFunction

from ..validation import refuse_fixed
from .online import Replay


class LaMAML(Replay):
    r"""Look-ahead MAML (Gupta et al., 2020), with a learning rate for each parameter.

    Meta-learns the rates :math:`\alpha` ``[1, P]`` online. An inner loop learns from the
    batch one example at a time, :math:`\theta_{k+1} = \theta_k - \alpha^+ \circ \nabla
    L_k(\theta_k)`, with :math:`\alpha^+ = \max(\alpha, 0)` and gradients treated as
    constants. The mean loss :math:`\bar L` of all :math:`\theta_{k+1}` on the batch and
    examples of the memory gives the gradients of the outer update:

    .. math::

        \alpha \leftarrow \alpha - \beta\, \nabla_\alpha \bar L, \qquad
        \theta \leftarrow \theta - \alpha^+ \circ \nabla_\theta \bar L

    Args:
        module, loss, memory, replayed, seed: see :class:`~agents.meta.Replay`.
        lr: initial value of all rates. With small perceptrons, 0.1 to 0.3 suit streams of
            digits, and 0.01 to 0.06 streams of sine waves, where 0.15 diverges.
        rate_lr: learning rate :math:`\beta` of the rates. On digits, 2 is better than 0.3;
            on sine waves, 0.01 to 0.3 make little difference.
        clip: maximal norm of each of the two gradients.
        glances: steps on each batch.

    Raises:
        ValueError: the module normalises by the statistics of its batch, as batch
            normalisation in training mode does, although the inner loop's batches are
            single examples; or another argument is not valid.
        TypeError: ``mask`` is given, or another argument is not valid.

    Example:
        >>> import numpy as np
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> stream = meta.DigitStream(tasks=2, examples=20).sample(np.random.default_rng(0))
        >>> learner = LaMAML(perceptron(64, 16, 10), "cross_entropy", lr=0.2, glances=2)
        >>> learner.follow(stream).scores.shape
        (2, 2)
    """

    def __init__(
        self,
        module: nn.Module,
        loss: str | LossFunction,
        *,
        lr: float,
        rate_lr: float = 0.3,
        clip: float = 2.0,
        glances: int = 5,
        **replay: Any,
    ) -> None:
        refuse_fixed(self, replay, "mask")
        super().__init__(module, loss, lr=lr, glances=glances, **replay)
        check_single_examples(self, module)
        self.rates = torch.full_like(self.params, lr)
        self.rate_lr, self.clip = rate_lr, clip

    def _step(self, inputs: Tensor, targets: Tensor) -> None:
        # 1. The inner loop, an example at a time, and its loss on batch and memory.
        joined = [x[None] for x in self.memory.join(inputs, targets, self.replayed)]
        start = self.params.requires_grad_()
        rates = self.rates.requires_grad_()
        params, total = start, torch.zeros(())
        for i in self.rng.permutation(len(inputs)):
            # The gradient is a constant: first order, as published.
            grad = self.gradient(params, inputs[i : i + 1], targets[i : i + 1])
            params = params - rates.relu() * grad
            total = total + self.network.loss(self.network.unflatten(params), *joined).sum()
        # 2. The rates descend, and then the parameters with the new rates.
        grads = torch.autograd.grad(total / len(inputs), (start, rates))
        params_grad, rates_grad = (_clipped(grad, self.clip) for grad in grads)
        self.rates = (rates - self.rate_lr * rates_grad).detach()
        self.params = (start - self.rates.relu() * params_grad).detach()


def check_single_examples(learner: object, module: nn.Module) -> None:
    """Check that a module can process one example, without statistics of a batch.

    Raises:
        ValueError: it normalises by the statistics of its batch.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (
            part.training or part.running_mean is None
        ):
            raise ValueError(
                f"{type(learner).__name__} takes inner steps on one example, which cannot "
                f"be normalised by its batch, got {part!r} called {name!r}; use GroupNorm "
                "or LayerNorm, or running statistics in the mode of evaluation"
            )


def _clipped(grad: Tensor, max_norm: float) -> Tensor:
    return grad * (max_norm / grad.norm().clamp(min=max_norm))
