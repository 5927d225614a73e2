"""Implementations of MAML for ``meta_speed.py`` to compare.

All sample the same sine waves, start from the same parameters, and use Adam for the outer
steps. They differ in the inner loop.
"""

from __future__ import annotations

import importlib

import numpy as np
import torch
import torch.nn.functional as F
from sinusoids import perceptron
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from agents import meta

TASKS, INNER_LR, META_LR = 25, 0.01, 1e-3


def initial() -> nn.Module:
    """Make the network, always with the same parameters."""
    torch.manual_seed(0)
    return perceptron()


class Ours:
    """Learner of :mod:`agents.meta`."""

    def __init__(self, steps: int, learner: type[meta.MAML] = meta.MAML) -> None:
        self.learner = learner(
            initial(), meta.Sinusoids(), inner_steps=steps, inner_lr=INNER_LR,
            meta_lr=META_LR, meta_batch=TASKS,
        )  # fmt: skip

    def run(self, iterations: int) -> list[float]:
        losses: list[float] = []
        self.learner.learn(iterations, lambda _, loss: losses.append(loss))
        return losses


class Plain:
    """Loop over the tasks with ``torch.autograd.grad`` and ``functional_call``.

    Here and in the classes below, there is one backward pass for all tasks, which is faster
    in each of them than one per task.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.module = steps, initial()
        self.family, self.rng = meta.Sinusoids(), np.random.default_rng(0)
        self.outer = torch.optim.Adam(self.module.parameters(), lr=META_LR)

    def run(self, iterations: int) -> list[float]:
        losses = []
        for _ in range(iterations):
            support, query = self.family.sample(TASKS, self.rng)
            self.outer.zero_grad()
            loss = self.losses(*support, *query).mean()
            loss.backward()
            self.outer.step()
            losses.append(loss.item())
        return losses

    def losses(self, *examples: Tensor) -> Tensor:
        """Return losses ``[B]`` on the queries; see :meth:`adapted` for the arguments."""
        return torch.stack([self.adapted(*task) for task in zip(*examples, strict=True)])

    def adapted(self, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        """Return the loss on a task's query ``[n, 1]`` after steps on its support."""
        params = dict(self.module.named_parameters())
        for _ in range(self.steps):
            loss = self.loss(params, x, y)
            grads = torch.autograd.grad(loss, tuple(params.values()), create_graph=True)
            params = {
                name: p - INNER_LR * g
                for (name, p), g in zip(params.items(), grads, strict=True)
            }
        return self.loss(params, query_x, query_y)

    def loss(self, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(functional_call(self.module, params, (x,)), y)


class TorchOpt(Plain):
    """TorchOpt's ``MetaSGD``, as in its examples; its ``FuncOptimizer`` is slower."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.api = importlib.import_module("torchopt")
        self.inner = self.api.MetaSGD(self.module, lr=INNER_LR)

    def adapted(self, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        both = self.module, self.inner
        states = [self.api.extract_state_dict(part, by="reference") for part in both]
        for _ in range(self.steps):
            self.inner.step(F.mse_loss(self.module(x), y))
        loss = F.mse_loss(self.module(query_x), query_y)
        for part, state in zip(both, states, strict=True):
            self.api.recover_state_dict(part, state)
        return loss


class Higher(Plain):
    """higher's ``innerloop_ctx``, as in its examples."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.api = importlib.import_module("higher")
        self.inner = torch.optim.SGD(self.module.parameters(), lr=INNER_LR)

    def adapted(self, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        context = self.api.innerloop_ctx(
            self.module, self.inner, copy_initial_weights=False
        )
        with context as (module, inner):
            for _ in range(self.steps):
                inner.step(F.mse_loss(module(x), y))
            return F.mse_loss(module(query_x), query_y)


class Vmapped(Plain):
    """``torch.func.grad`` in a ``vmap`` over the tasks, as ours does, written by hand."""

    def losses(self, *examples: Tensor) -> Tensor:
        return vmap(self.adapted)(*examples)

    def adapted(self, x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        params = dict(self.module.named_parameters())
        state = self.start(params)
        for _ in range(self.steps):
            params, state = self.update(params, grad(self.loss)(params, x, y), state)
        return self.loss(params, query_x, query_y)

    def start(self, params: dict[str, Tensor]) -> object:
        return None

    def update(
        self, params: dict[str, Tensor], grads: dict[str, Tensor], state: object
    ) -> tuple[dict[str, Tensor], object]:
        return {name: p - INNER_LR * grads[name] for name, p in params.items()}, state


class VmappedTorchOpt(Vmapped):
    """``vmap`` over the tasks, with the update by TorchOpt's functional ``sgd``."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.api = importlib.import_module("torchopt")
        self.inner = self.api.sgd(lr=INNER_LR)

    def start(self, params: dict[str, Tensor]) -> object:
        return self.inner.init(params)

    def update(
        self, params: dict[str, Tensor], grads: dict[str, Tensor], state: object
    ) -> tuple[dict[str, Tensor], object]:
        updates, state = self.inner.update(grads, state, params=params, inplace=False)
        return self.api.apply_updates(params, updates, inplace=False), state
