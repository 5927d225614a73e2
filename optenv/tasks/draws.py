"""Random numbers that belong to runs, in place of torch's global generator.

Modules and losses draw random numbers with torch's functions, such as dropout or
:func:`torch.randn_like`. Within :class:`RunDraws` these numbers depend only on the run's
key and on how many numbers the run has drawn before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .random_bits import normal_numbers, random_bits, uniform_numbers

__all__ = ["RunDraws"]


class RunDraws(TorchDispatchMode):
    """Context in which torch's random functions return numbers of the runs.

    It intercepts all operations that torch tags as random, whichever function calls them,
    below ``torch.func.vmap``.

    Args:
        keys: key of each run, ``[B]`` int64, see :meth:`optenv.tasks.examples.Data.keys`.
        stacked: whether tensors of random numbers have a leading dimension ``B``, as
            within ``vmap(..., randomness="different")``; otherwise there is one key.

    Attributes:
        drawn: number of random numbers that each run has drawn so far.
    """

    def __init__(self, keys: Tensor, stacked: bool) -> None:
        super().__init__()
        self.keys, self.stacked, self.drawn = keys, stacked, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or _draws_nothing(
            func, args, kwargs
        ):
            return func(*args, **kwargs)
        draw = _DRAWS.get(func)
        name = func.overloadpacket.__name__
        if draw is None:
            valid = sorted({op.overloadpacket.__name__ for op in _DRAWS})
            raise ValueError(
                f"torch's operation {name!r} draws random numbers, which is not supported; "
                f"supported random operations: {', '.join(valid)}"
            )
        if kwargs.pop("generator", None) is not None:
            raise ValueError(
                f"torch's operation {name!r} draws from a generator of the module or loss, "
                "which runs cannot share; leave out generator="
            )
        return draw(self, *args, **kwargs)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw numbers uniform in [0, 1), float32."""
        return uniform_numbers(self._bits(shape)).view(tuple(shape))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers, float32."""
        return normal_numbers(self._bits(shape)).view(tuple(shape))

    def _bits(self, shape: Sequence[int]) -> Tensor:
        """Draw random bits ``[B, n]``, for ``n`` numbers of each run."""
        if self.stacked:
            assert len(self.keys) == shape[0], (len(self.keys), tuple(shape))
        count = math.prod(shape[1:] if self.stacked else shape)
        bits = random_bits(self.keys, self.drawn, count)
        self.drawn += count
        return bits


def _draws_nothing(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation with dropout, such as cuDNN's LSTM, has it turned off."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    rate = given.get("dropout", given.get("dropout_p"))
    return rate == 0 or (rate is not None and given.get("train") is False)


def _like(numbers: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return numbers.to(like.device, like.dtype if dtype is None else dtype)


def _new(numbers: Tensor, dtype: torch.dtype | None, device: Any) -> Tensor:
    return numbers.to(device, torch.get_default_dtype() if dtype is None else dtype)


# Operations, each with the arguments of its schema. Memory formats and the like are left
# out: they do not change values.


def _bernoulli(draws: RunDraws, probabilities: Tensor, **_: Any) -> Tensor:
    kept = draws.uniform(probabilities.shape).to(probabilities.device) < probabilities
    return kept.to(probabilities.dtype)


def _bernoulli_p(draws: RunDraws, like: Tensor, p: float = 0.5, **_: Any) -> Tensor:
    return _like(draws.uniform(like.shape) < p, like)


def _bernoulli_in_place(draws: RunDraws, x: Tensor, p: float | Tensor = 0.5) -> Tensor:
    return x.copy_(draws.uniform(x.shape).to(x.device) < p)


def _uniform_in_place(
    draws: RunDraws, x: Tensor, low: float = 0.0, high: float = 1.0
) -> Tensor:
    return x.copy_(low + (high - low) * draws.uniform(x.shape))


def _normal_in_place(
    draws: RunDraws, x: Tensor, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    return x.copy_(mean + std * draws.normal(x.shape))


def _exponential_in_place(draws: RunDraws, x: Tensor, lambd: float = 1.0) -> Tensor:
    # 1 - u lies in (0, 1], where the logarithm is finite.
    return x.copy_((1.0 - draws.uniform(x.shape)).log() / -lambd)


def _rand(
    draws: RunDraws, size: Sequence[int], dtype: Any = None, device: Any = None, **_: Any
) -> Tensor:
    return _new(draws.uniform(size), dtype, device)


def _randn(
    draws: RunDraws, size: Sequence[int], dtype: Any = None, device: Any = None, **_: Any
) -> Tensor:
    return _new(draws.normal(size), dtype, device)


def _rand_like(draws: RunDraws, like: Tensor, dtype: Any = None, **_: Any) -> Tensor:
    return _like(draws.uniform(like.shape), like, dtype)


def _randn_like(draws: RunDraws, like: Tensor, dtype: Any = None, **_: Any) -> Tensor:
    return _like(draws.normal(like.shape), like, dtype)


def _randint(
    draws: RunDraws,
    low: int,
    high: int,
    size: Sequence[int],
    dtype: Any = None,
    device: Any = None,
    **_: Any,
) -> Tensor:
    whole = (draws.uniform(size).double() * (high - low)).floor().long() + low
    return whole.to(device, torch.int64 if dtype is None else dtype)


def _randint_below(draws: RunDraws, high: int, size: Sequence[int], **kw: Any) -> Tensor:
    return _randint(draws, 0, high, size, **kw)


def _normal(draws: RunDraws, mean: Any, std: Any = 1.0, **_: Any) -> Tensor:
    like = mean + std  # the shape and type of the result
    return mean + std * _like(draws.normal(like.shape), like)


def _normal_of_size(
    draws: RunDraws,
    mean: float,
    std: float,
    size: Sequence[int],
    dtype: Any = None,
    device: Any = None,
    **_: Any,
) -> Tensor:
    return _new(mean + std * draws.normal(size), dtype, device)


def _dropout(
    draws: RunDraws, x: Tensor, p: float, train: bool | None
) -> tuple[Tensor, Tensor]:
    kept = draws.uniform(x.shape).to(x.device) < 1.0 - p
    return x * kept / max(1.0 - p, 1e-12), kept


_aten = torch.ops.aten

#: Functions that replace torch's random operations, by operation.
_DRAWS: dict[Any, Callable[..., Any]] = {
    _aten.bernoulli.default: _bernoulli,
    _aten.bernoulli.p: _bernoulli_p,
    _aten.bernoulli_.float: _bernoulli_in_place,
    _aten.bernoulli_.Tensor: _bernoulli_in_place,
    _aten.uniform_.default: _uniform_in_place,
    _aten.normal_.default: _normal_in_place,
    _aten.exponential_.default: _exponential_in_place,
    _aten.rand.default: _rand,
    _aten.rand.generator: _rand,
    _aten.randn.default: _randn,
    _aten.randn.generator: _randn,
    _aten.rand_like.default: _rand_like,
    _aten.randn_like.default: _randn_like,
    _aten.randint.default: _randint_below,
    _aten.randint.low: _randint,
    _aten.normal.Tensor_Tensor: _normal,
    _aten.normal.Tensor_float: _normal,
    _aten.normal.float_Tensor: _normal,
    _aten.normal.float_float: _normal_of_size,
    _aten.native_dropout.default: _dropout,
}
