"""Meta-LSTM: an LSTM as inner rule (Ravi & Larochelle, 2017)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from optenv.checks import positive, positive_int

from .families.episodes import Family
from .inner import InnerRule, State
from .learner import InnerRuleLearner
from .validation import refuse_fixed

#: Initial bias of the forget gate of the parameters, close to 1 after the sigmoid.
FORGET_BIAS = 5.0


class LstmRule(InnerRule):
    r"""Inner rule :math:`\theta \leftarrow f \theta - i g` with the gates of an LSTM.

    One LSTM serves all parameters, each with a state of its own. Its inputs are log and
    sign of the gradient and of the loss; the gates :math:`f` and :math:`i` depend on its
    output, on the parameter, and on the previous step's gates. Their initial values are
    close to gradient descent: :math:`f` near 1 and :math:`i` near ``lr``.

    Args:
        steps: largest number of steps.
        lr: initial value of the input gate.
        hidden: units of the LSTM.
    """

    def __init__(self, steps: int, lr: float = 0.01, hidden: int = 20) -> None:
        super().__init__()
        self.max_steps, self.hidden = steps, hidden
        self.inputs = nn.Linear(4, 4 * hidden)
        self.recurrent = nn.Linear(hidden, 4 * hidden, bias=False)
        self.gates = nn.Linear(hidden + 2, 2)
        self.previous = nn.Parameter(torch.empty(2))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.01, 0.01)
        with torch.no_grad():
            # The cell of the LSTM forgets little at first.
            self.inputs.bias[hidden : 2 * hidden] = 1.0
            self.gates.bias.copy_(torch.tensor([FORGET_BIAS, math.log(lr / (1 - lr))]))

    def start(self, params: Tensor) -> State:
        zeros = params.new_zeros(*params.shape, self.hidden)
        gates = params.new_zeros(*params.shape, 2)
        return zeros, zeros, gates

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        hidden, cell, last_gates = state
        # 1. The LSTM, [B, P, hidden].
        observed = (grad, loss.detach()[:, None].expand_as(grad))
        features = torch.cat([signed_log(x) for x in observed], dim=-1)
        activations = self.inputs(features) + self.recurrent(hidden)
        i, f, candidate, o = activations.chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * candidate.tanh()
        hidden = o.sigmoid() * cell.tanh()
        # 2. The gates of the parameters, [B, P, 2]. Weights of hidden state and parameter
        #    are applied apart, which saves a tensor [B, P, hidden + 2].
        from_hidden = hidden @ self.gates.weight[:, : self.hidden].T + self.gates.bias
        from_params = params[..., None] * self.gates.weight[:, self.hidden]
        from_params = from_params + last_gates * self.previous
        forget, enter = (from_hidden + from_params).sigmoid().unbind(-1)
        # 3. The update.
        gates = torch.stack([forget, enter], dim=-1)
        return forget * params - enter * grad, (hidden, cell, gates)


def signed_log(values: Tensor, p: float = 10.0) -> Tensor:
    r"""Encode numbers of any magnitude as two of moderate size (Andrychowicz et al., 2016).

    Args:
        values: ``[...]`` numbers :math:`x`.
        p: :math:`p`, which sets the smallest magnitude :math:`e^{-p}` with a logarithm.

    Returns:
        ``[..., 2]``: :math:`(\log|x| / p, \operatorname{sign} x)` where :math:`|x| \ge
        e^{-p}`, and :math:`(-1, e^p x)` elsewhere.
    """
    size = values.abs()
    large = size >= math.exp(-p)
    log = size.clamp(min=math.exp(-p)).log() / p
    first = torch.where(large, log, -torch.ones_like(log))
    second = torch.where(large, values.sign(), math.exp(p) * values)
    return torch.stack([first, second], dim=-1)


class MetaLSTM(InnerRuleLearner):
    r"""Meta-LSTM (Ravi & Larochelle, 2017).

    Meta-learns initial parameters and an LSTM that updates them. The inner update is
    :math:`\theta_{k+1} = f_k \circ \theta_k - i_k \circ \nabla L^S(\theta_k)` with gates
    :math:`f_k` and :math:`i_k` of the LSTM. Inner gradients are treated as constants.

    Args:
        module, family: see :class:`~agents.meta.MetaLearner`.
        inner_lr: initial value of :math:`i_k`, less than 1.
        inner_steps: number of inner steps; the LSTM is not used for more.
        hidden: units of the LSTM.
        meta_batch: tasks of an outer step.
        grad_clip: maximal norm of the outer gradient; None for no clipping.
        **outer: arguments of :class:`~agents.meta.MetaLearner`, except ``first_order``.

    Raises:
        ValueError, TypeError: an argument is not valid.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> learner = MetaLSTM(perceptron(1, 8, 1), meta.Sinusoids(), inner_steps=3)
        >>> learner.evaluate(tasks=10).steps
        (0, 1)
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        hidden: int = 20,
        meta_batch: int = 5,
        grad_clip: float | None = 0.25,
        **outer: Any,
    ) -> None:
        refuse_fixed(self, outer, "first_order")
        self._hidden = hidden
        super().__init__(
            module, family, meta_batch=meta_batch, first_order=True, grad_clip=grad_clip,
            **outer,
        )  # fmt: skip

    def _make_rule(
        self, module: nn.Module, inner_lr: Any, inner_steps: int, seed: Any
    ) -> LstmRule:
        lr = positive("inner_lr", inner_lr, below=1)  # the value of a gate
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            return LstmRule(inner_steps, lr, positive_int("hidden", self._hidden))
