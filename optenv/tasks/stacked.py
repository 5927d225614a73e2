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

LossFunction = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, LossFunction] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}

#: What vmap says of modules that it cannot stack: recurrent ones, and those that write to
#: buffers.
REFUSALS = ("atching rule", "the broadcast shape", "captured Tensor", "updated in place")


class Stacked:
    """The copies.

    Args:
        module: what is copied; it is not changed, tied parameters stay tied, and those that
            require no gradient are the same in all copies, as buffers are.
        loss_function: of outputs and targets of one copy.

    Attributes:
        vectorized: whether copies are stacked, instead of evaluated one after the other.
        names: of the parameters, in their order within ``P``.
        shapes: theirs.
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
        """Loss ``[B]`` on inputs and targets ``[B, n, ...]``.

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
        """Outputs ``[B, n, ...]`` on inputs ``[B, n, ...]``."""
        return self._map(self._call(params[0]), params, inputs)

    def _call(self, like: Tensor) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
        """Outputs of one copy as a function of its parameters and inputs."""
        buffers = {
            name: b.to(like.device, like.dtype if b.is_floating_point() else None)
            for name, b in self.buffers.items()
        }

        def call(values: Sequence[Tensor], x: Tensor) -> Tensor:
            named = dict(zip(self.names, values, strict=True))
            # Running statistics are written to in place: no copy has another's.
            own = {name: buffers[name].clone() for name in self.statistics}
            return functional_call(self.template, (named, {**buffers, **own}), (x,))

        return call

    def _map(
        self, one: Callable[..., Tensor], params: Sequence[Tensor], *examples: Tensor
    ) -> Tensor:
        # Of the kinds of attention, only this can be stacked and differentiated twice.
        with sdpa_kernel(SDPBackend.MATH):
            if (
                self.vectorized and len(params[0]) > 1
            ):  # vmap of one costs more than it saves
                return vmap(one)(tuple(params), *examples)
            copies = zip(zip(*params, strict=True), *examples, strict=True)
            return torch.stack([one(*each) for each in copies])

    def choose(self, inputs: Tensor, targets: Tensor) -> None:
        """Find out on examples ``[n, ...]`` whether copies can be stacked.

        Raises:
            Exception: what the module or the loss raise; it says where from.
            ValueError: they draw random numbers, which copies cannot share.
        """
        params = [p.detach()[None] for p in trained_parameters(self.template).values()]
        like = params[0]
        inputs, targets = (  # as they will be given: floats of the type of the parameters
            x[None].to(like.device, like.dtype if x.is_floating_point() else None)
            for x in (inputs, targets)
        )
        try:
            self._try_one(params, inputs, targets)
        except Exception as error:
            error.add_note("(of the module and the loss, on the first examples)")
            raise
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
    """Whether a call draws from the global random generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        call()
        return not torch.equal(torch.get_rng_state(), before)


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module that require gradients, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def flat(module: nn.Module) -> Tensor:
    """A module's trained parameters as one tensor ``[P]``."""
    parts = trained_parameters(module).values()
    return torch.cat([p.detach().flatten() for p in parts])


def named_loss(loss: str | LossFunction) -> LossFunction:
    """The loss function of a name, or the function that is given.

    Raises:
        ValueError: there is none of that name.
        TypeError: it is neither.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; valid losses: {', '.join(LOSSES)}")
        return LOSSES[loss]
    if not callable(loss):
        raise TypeError(f"loss must be a name or a function, got {loss!r}")
    return loss
