"""Copies of one module that have random numbers and buffers of their own.

A pass of a copy returns its loss and its buffers after the pass. Torch's random functions
return numbers of the copy's run (:mod:`optenv.tasks.draws`).
"""

from __future__ import annotations

import copy
import random
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from .draws import RunDraws
from .stacked import (
    REFUSALS,
    LossFunction,
    Stacked,
    draws_random_numbers,
    trained_parameters,
)

__all__ = ["LARGEST_INTEGER", "Objective", "Stateful"]

#: Largest integer in a buffer that training writes to: the state of runs is float32.
LARGEST_INTEGER = 2**24


class Objective(nn.Module):
    """Module whose output is a loss that depends only on another module.

    Args:
        module: the other module.
        loss: function of it that returns a scalar.
    """

    def __init__(self, module: nn.Module, loss: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self) -> Tensor:
        return self.loss(self.module)


class Stateful(Stacked):
    """Copies of a module that have random numbers and buffers of their own.

    Training is in the module's own mode, evaluation in ``eval()`` mode. :meth:`choose`
    finds out what a pass draws and writes.

    Args:
        module: the module, which is not changed, see :class:`.Stacked`. An
            :class:`Objective` has no inputs and targets, and its output is the loss.
        loss_function: loss of outputs and targets of one copy.

    Attributes:
        draws: whether a pass draws random numbers.
        written: names of the buffers that training writes to. They are the state of a
            copy; all others are the same in all copies.
    """

    def __init__(
        self, module: nn.Module, loss_function: LossFunction | None = None
    ) -> None:
        super().__init__(module, _first if loss_function is None else loss_function)
        self.evaluated = copy.deepcopy(self.template).eval()
        self.draws = False
        self.written: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each written buffer, ``S`` in total."""
        return tuple(self.buffers[name].numel() for name in self.written)

    def initial_buffers(self) -> Tensor:
        """Return the buffers before training, ``[S]`` float32."""
        parts = [self.buffers[name].detach().flatten().float() for name in self.written]
        return torch.cat(parts) if parts else torch.empty(0)

    def run(
        self,
        params: tuple[Tensor, ...],
        examples: tuple[Tensor, Tensor],
        buffers: Tensor,
        keys: Tensor | None,
        *,
        training: bool,
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss ``[B]`` on a batch, and the buffers ``[B, S]`` after it.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            examples: inputs and targets, ``[B, n, ...]``.
            buffers: ``[B, S]`` before, which are not changed in place.
            keys: key of each copy for random numbers, ``[B]`` int64; None if no pass draws.
            training: True for the module's own mode, False for ``eval()`` mode.

        Raises:
            ValueError: the loss is no scalar, or a random operation of torch is not
                supported.
        """
        one = self._pass(params[0], training)
        state = self._state(buffers)
        mapped = (*params, *state, *examples)
        with sdpa_kernel(SDPBackend.MATH):
            if self.vectorized and len(buffers) > 1:
                randomness = "error" if keys is None else "different"
                with nullcontext() if keys is None else RunDraws(keys, stacked=True):
                    loss, *after = vmap(one, randomness=randomness)(*mapped)
            else:
                found = []
                for index, each in enumerate(zip(*mapped, strict=True)):
                    key = None if keys is None else keys[index : index + 1]
                    with nullcontext() if key is None else RunDraws(key, stacked=False):
                        found.append(one(*each))
                loss, *after = (torch.stack(part) for part in zip(*found, strict=True))
        if not after:
            return loss, buffers
        return loss, torch.cat(
            [part.reshape(len(loss), -1).to(buffers) for part in after], dim=1
        )

    def _pass(self, like: Tensor, training: bool) -> Callable[..., tuple[Tensor, ...]]:
        """Return the function of one copy to its loss and its buffers after the pass."""
        template = self.template if training else self.evaluated
        shared = {
            name: b.to(like.device, like.dtype if b.is_floating_point() else None)
            for name, b in self.buffers.items()
            if name not in self.written
        }
        versions = {name: b._version for name, b in shared.items()}
        ends = len(self.names), len(self.names) + len(self.written)

        def one(*values: Tensor) -> tuple[Tensor, ...]:
            mine = zip((*self.names, *self.written), values[: ends[1]], strict=True)
            named = {**shared, **dict(mine)}
            x, y = values[ends[1] :]
            inputs = () if isinstance(template, Objective) else (x,)
            # Afterwards the dictionary holds the buffers as the pass has written them.
            loss = self.loss_function(functional_call(template, named, inputs), y)
            if not isinstance(loss, Tensor) or loss.dim() != 0:
                shape = list(loss.shape) if isinstance(loss, Tensor) else loss
                raise ValueError(
                    "loss must be a scalar mean over the batch, got a tensor of shape "
                    f"{shape}"
                )
            for name, buffer in shared.items():
                if named[name] is not buffer or buffer._version != versions[name]:
                    raise ValueError(
                        f"buffer {name!r} is written to, which the first passes did not "
                        "do, so that runs have no copies of their own of it; write to it "
                        "in every pass"
                    )
            return loss, *(named[name] for name in self.written)

        return one

    def _state(self, buffers: Tensor) -> list[Tensor]:
        """Return copies of the written buffers, ``[B, *shape]`` in their own types."""
        parts = buffers.split(self.sizes, dim=1) if self.written else ()
        state = []
        for name, part in zip(self.written, parts, strict=True):
            kept = self.buffers[name]
            values = part if kept.is_floating_point() else part.round().to(kept.dtype)
            # Contiguous, as torch's batch normalisation cannot write to other buffers.
            state.append(values.clone().reshape(len(part), *kept.shape).contiguous())
        return state

    def choose(self, inputs: Tensor, targets: Tensor) -> None:
        """Find out on examples ``[n, ...]`` what passes draw and write, and how to stack.

        Raises:
            Exception: the module or the loss fail on the examples; a note says so.
            ValueError: they draw random numbers in an unsupported way, or keep state
                outside buffers.
        """
        params = tuple(p.detach()[None] for p in trained_parameters(self.template).values())
        like = params[0]
        inputs, targets = (
            x[None].to(like.device, like.dtype if x.is_floating_point() else None)
            for x in (inputs, targets)
        )
        # 1. What the passes of one copy draw and write.
        key = torch.zeros(1, dtype=torch.int64, device=like.device)
        try:
            self._watch(params, (inputs, targets), key)
            start = self.initial_buffers().to(like)[None]
            for training in (True, False):
                passes = [
                    self.run(params, (inputs, targets), start, key, training=training)
                    for _ in range(2)
                ]
                self._check_repeated(*passes)
        except Exception as error:
            error.add_note(f"({self._origin(error)}, on the first examples)")
            raise
        # 2. Two copies, stacked.
        *params_twice, inputs, targets, start = (
            torch.cat([x, x]) for x in (*params, inputs, targets, start)
        )
        keys = torch.cat([key, key]) if self.draws else None
        try:
            for training in (True, False):
                self.run(
                    tuple(params_twice), (inputs, targets), start, keys, training=training
                )
        except RuntimeError as error:
            if not any(reason in str(error) for reason in REFUSALS):
                raise
            self.vectorized = False

    def _watch(
        self, params: Sequence[Tensor], examples: Sequence[Tensor], key: Tensor
    ) -> None:
        """Set :attr:`written` and :attr:`draws` by passes of one copy.

        Raises:
            ValueError: they draw random numbers from torch's global generator in a way that
                cannot be intercepted, or from the generator of Python or NumPy; or a buffer
                changes its shape or exceeds :data:`LARGEST_INTEGER`.
        """
        # All buffers are taken as state, to see which of them are written to.
        names = self.written = tuple(self.buffers)
        before = [
            b.detach().to(params[0].dtype) if b.is_floating_point() else b.detach()
            for b in self.buffers.values()
        ]
        after: list[Tensor] = []
        written: set[str] = set()
        others = _states_of_others()
        for training in (False, True):
            one = self._pass(params[0], training)
            state = [b.clone() for b in before]
            values = [*(p[0] for p in params), *state, *(x[0] for x in examples)]

            def call(one: Any = one, values: Any = values) -> None:
                after[:] = one(*values)[1:]

            with sdpa_kernel(SDPBackend.MATH), RunDraws(key, stacked=False) as draws:
                if draws_random_numbers(call):
                    raise ValueError(
                        "the module or its loss draws from the global random generator in "
                        "a way that runs cannot share; leave that out, or call eval()"
                    )
            self.draws |= draws.drawn > 0
            # Batch normalisation writes without increasing the tensor's version, and other
            # modules may write the value that is already there.
            written |= {
                name
                for name, old, own, new in zip(names, before, state, after, strict=True)
                if new is not own or own._version > 0 or not torch.equal(old, new)
            }
        if not _same(others, _states_of_others()):
            raise ValueError(
                "the module or its loss draws random numbers of Python or NumPy, which "
                "runs cannot repeat; draw them by torch"
            )
        for name, old, new in zip(names, before, after, strict=True):
            if old.shape != new.shape:
                raise ValueError(
                    f"buffer {name!r} changes its shape in training, from "
                    f"{list(old.shape)} to {list(new.shape)}, which stacked runs cannot"
                )
            is_integer = not new.is_floating_point() and not new.is_complex()
            if name in written and is_integer and new.numel():
                largest = max(int(new.max()), -int(new.min()))
                if largest > LARGEST_INTEGER:
                    raise ValueError(
                        f"training writes the integer {largest} to buffer {name!r}; the "
                        f"state of a run holds integers up to {LARGEST_INTEGER} exactly"
                    )
        self.written = tuple(name for name in names if name in written)

    def _check_repeated(
        self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]
    ) -> None:
        """Refuse passes that differ though they start from the same state.

        Raises:
            ValueError: they differ.
        """
        for one, two in zip(first, second, strict=True):
            if not torch.allclose(one, two, rtol=1e-3, equal_nan=True):
                raise ValueError(
                    "the module or its loss gives another result each time: it draws "
                    "random numbers other than by torch, or keeps a state that is no buffer"
                )

    def _origin(self, error: BaseException) -> str:
        """Describe the module that raised an error."""
        modules = {
            id(module): f"of module {name!r}, {type(module).__name__}"
            for template in (self.template, self.evaluated)
            for name, module in template.named_modules()
            if name
        }
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        found = [modules.get(id(frame.f_locals.get("self"))) for frame in frames]
        return next(
            (each for each in reversed(found) if each), "of the module and the loss"
        )


def _states_of_others() -> tuple[Any, ...]:
    """Return the states of the global generators of Python and NumPy."""
    return random.getstate(), np.random.get_state()  # noqa: NPY002


def _same(one: Any, other: Any) -> bool:
    """Return whether two states of generators are equal, nested tuples with arrays."""
    if isinstance(one, tuple):
        return all(map(_same, one, other))
    return bool(np.array_equal(one, other))


def _first(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the output of an :class:`Objective`, which is the loss."""
    return outputs
