"""An LSTM as update rule (Ravi & Larochelle, 2017)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from optenv.checks import positive, positive_int

from .checks import refuse
from .families.episodes import Family
from .inner_rules import InnerRule, State
from .learner import MetaLearner


class LstmRule(InnerRule):
    """``p <- f p - i g``, with gates of an LSTM that sees each parameter's gradient.

    One LSTM for all parameters, each of which has a state of its own. It sees logarithm
    and sign of gradient and loss; the gates see its output, the parameter, and themselves
    at the step before. They begin close to gradient descent: ``f`` near 1, ``i`` near
    ``lr``.

    Args:
        steps: that it is learned for.
        lr: the input gate's, where learning begins.
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
            self.inputs.bias[hidden : 2 * hidden] = 1.0  # forgets little at first
            self.gates.bias.copy_(torch.tensor([5.0, math.log(lr / (1 - lr))]))

    def start(self, params: Tensor) -> State:
        blank = params.new_zeros(*params.shape, self.hidden)
        gates = params.new_zeros(*params.shape, 2)
        return blank, blank, gates

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        output, cell, before = state
        seen = (grad, loss.detach()[:, None].expand_as(grad))
        features = torch.cat([signed_log(x) for x in seen], dim=-1)
        gates = self.inputs(features) + self.recurrent(output)
        enter, forget, new, leave = gates.chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        output = leave.sigmoid() * cell.tanh()
        known = output @ self.gates.weight[:, : self.hidden].T + self.gates.bias
        own = params[..., None] * self.gates.weight[:, self.hidden]
        own = own + before * self.previous
        keep, go = (known + own).sigmoid().unbind(-1)
        return keep * params - go * grad, (output, cell, torch.stack([keep, go], dim=-1))


def signed_log(values: Tensor, p: float = 10.0) -> Tensor:
    """Two numbers for each: logarithm over ``p`` and sign, or -1 and ``e^p`` times it.

    The second where it is less than ``e^-p`` (Andrychowicz et al., 2016), ``[..., 2]``.
    """
    size = values.abs()
    large = size >= math.exp(-p)
    log = size.clamp(min=math.exp(-p)).log() / p
    first = torch.where(large, log, -torch.ones_like(log))
    second = torch.where(large, values.sign(), math.exp(p) * values)
    return torch.stack([first, second], dim=-1)


class MetaLSTM(MetaLearner):
    """Initial parameters and an LSTM that updates them; gradients count as constants.

    Args:
        module, family: see :class:`~agents.meta.learner.MetaLearner`.
        inner_lr: about which the LSTM begins with, less than 1.
        inner_steps: of the inner loop; it is learned for no more.
        hidden: units of the LSTM.
        meta_batch: tasks of an outer step.
        grad_clip: norm that the outer gradient is clipped to.
        **outer: of :class:`~agents.meta.learner.MetaLearner`.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        hidden: int = 20,
        meta_batch: int = 5,
        grad_clip: float | None = 0.25,
        **outer: Any,
    ) -> None:
        refuse(self, outer, "rule", "first_order")
        steps = positive_int("inner_steps", inner_steps)
        lr = positive("inner_lr", inner_lr, below=1)  # a gate is
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(outer.get("seed", 0)))
            rule = LstmRule(steps, lr, positive_int("hidden", hidden))
        super().__init__(
            module, family, rule, inner_steps=inner_steps, meta_batch=meta_batch,
            first_order=True, grad_clip=grad_clip, **outer,
        )  # fmt: skip
