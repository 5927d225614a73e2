"""Copies of one module that differ in their parameters, evaluated together.

The parameters of ``B`` copies are one tensor ``[B, P]``. ``torch.func.vmap`` stacks the
copies where it can; modules that it refuses, such as ``torch.nn.LSTM``, run in a loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from .base import unflatten

__all__ = [
    "LOSSES",
    "LossFunction",
    "Stacked",
    "draws_random_numbers",
    "flat",
    "named_loss",
    "trained_parameters",
]

#: Mean loss (a scalar) of outputs and targets.
LossFunction = Callable[[Tensor, Tensor], Tensor]

#: Losses by name.
LOSSES: dict[str, LossFunction] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}

#: Parts of vmap's messages about modules and losses that it cannot stack: recurrent ones,
#: those that write to buffers, take gradients, look at values, or draw in place.
REFUSALS = (
    "atching rule", "the broadcast shape", "captured Tensor", "updated in place",
    "call Tensor.requires_grad_()", "calling .item()", "data-dependent control flow",
    "inplace randomness on an unbatched", "inplace arithmetic(self",
)  # fmt: skip


class Stacked:
    """Copies of a module that differ in their trained parameters.

    Args:
        module: the module, which is not changed. Tied parameters stay tied. Parameters that
            require no gradient are the same in all copies, like buffers.
        loss_function: loss of outputs and targets of one copy.

    Attributes:
        vectorized: whether copies are stacked, instead of evaluated one after the other.
        names: names of the trained parameters, in their order within ``P``.
        shapes: shapes of the trained parameters.
    """

    def __init__(self, module: nn.Module, loss_function: LossFunction) -> None:
        self.template = copy.deepcopy(module)
        self.loss_function = loss_function
        self.vectorized = True
        trained = trained_parameters(self.template)
        self.names = tuple(trained)
        self.shapes = tuple(tuple(p.shape) for p in trained.values())
        frozen = {
            name: p.detach()
            for name, p in self.template.named_parameters()
            if not p.requires_grad
        }
        self.buffers = {**dict(self.template.named_buffers()), **frozen}
        self.statistics = [
            f"{name}.{buffer}" if name else buffer
            for name, part in self.template.named_modules()
            if getattr(part, "track_running_stats", False)
            for buffer, _ in part.named_buffers(recurse=False)
        ]

    def unflatten(self, params: Tensor) -> tuple[Tensor, ...]:
        """Split flat parameters ``[B, P]`` into views ``[B, *shape]``."""
        return unflatten(params, self.shapes)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss ``[B]`` on inputs and targets ``[B, n, ...]``.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            inputs: ``[B, n, ...]``.
            targets: ``[B, n, ...]``.

        Raises:
            ValueError: the loss is no scalar.
        """

        def one(values: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
            loss = self.loss_function(call(values, x), y)
            if loss.dim() != 0:
                raise ValueError(
                    "loss must be a scalar mean over the batch, got a tensor of shape "
                    f"{list(loss.shape)}"
                )
            return loss

        call = self._call(params[0])
        return self._map(one, params, inputs, targets)

    def outputs(self, params: tuple[Tensor, ...], inputs: Tensor) -> Tensor:
        """Compute outputs ``[B, n, ...]`` of inputs ``[B, n, ...]``."""
        return self._map(self._call(params[0]), params, inputs)

    def _call(self, like: Tensor) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
        """Return the function from parameters and inputs of one copy to its outputs."""
        buffers = {
            name: b.to(like.device, like.dtype if b.is_floating_point() else None)
            for name, b in self.buffers.items()
        }

        def call(values: Sequence[Tensor], x: Tensor) -> Tensor:
            named = dict(zip(self.names, values, strict=True))
            # Running statistics are written to in place: each copy gets its own.
            statistics = {name: buffers[name].clone() for name in self.statistics}
            return functional_call(self.template, (named, {**buffers, **statistics}), (x,))

        return call

    def _map(
        self, one: Callable[..., Tensor], params: Sequence[Tensor], *examples: Tensor
    ) -> Tensor:
        """Evaluate ``one`` for all copies."""
        # Only this kernel of attention can be stacked and differentiated twice.
        with sdpa_kernel(SDPBackend.MATH):
            # For a single copy, vmap costs more than it saves.
            if self.vectorized and len(params[0]) > 1:
                return vmap(one)(tuple(params), *examples)
            copies = zip(zip(*params, strict=True), *examples, strict=True)
            return torch.stack([one(*each) for each in copies])

    def choose(self, inputs: Tensor, targets: Tensor) -> None:
        """Set :attr:`vectorized` by a trial pass on examples ``[n, ...]``.

        Raises:
            Exception: the module or the loss fail on the examples; a note says so.
            ValueError: they draw random numbers, which copies cannot share.
        """
        # 1. One copy; floating-point examples get the type of the parameters.
        params = [p.detach()[None] for p in trained_parameters(self.template).values()]
        like = params[0]
        inputs, targets = (
            x[None].to(like.device, like.dtype if x.is_floating_point() else None)
            for x in (inputs, targets)
        )
        try:
            self._try_one(params, inputs, targets)
        except Exception as error:
            error.add_note("(of the module and the loss, on the first examples)")
            raise
        # 2. Two copies, stacked.
        twice: list[Any] = [torch.cat([x, x]) for x in (*params, inputs, targets)]
        try:
            self.loss(tuple(twice[:-2]), *twice[-2:])
        except RuntimeError as error:
            if not any(reason in str(error) for reason in REFUSALS):
                raise
            self.vectorized = False

    def _try_one(self, params: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> None:
        if draws_random_numbers(lambda: self.loss(tuple(params), inputs, targets)):
            raise ValueError(
                "the module or its loss draws from the global random generator, "
                "which runs cannot share; train it without dropout and the like"
            )


def draws_random_numbers(call: Callable[[], object]) -> bool:
    """Return whether a call draws from the global random generator, and restore it."""
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        call()
        return not torch.equal(torch.get_rng_state(), before)


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module that require gradients, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def flat(module: nn.Module) -> Tensor:
    """Concatenate a module's trained parameters to one tensor ``[P]``."""
    parts = trained_parameters(module).values()
    return torch.cat([p.detach().flatten() for p in parts])


def named_loss(loss: str | LossFunction) -> LossFunction:
    """Return the loss function of a name, or the given function.

    Raises:
        ValueError: there is no loss of that name.
        TypeError: ``loss`` is neither a name nor a function.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; valid losses: {', '.join(LOSSES)}")
        return LOSSES[loss]
    if not callable(loss):
        raise TypeError(f"loss must be a name or a function, got {loss!r}")
    return loss
