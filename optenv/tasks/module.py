"""Tasks of a user's own model and data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from ..checks import is_number, quoted
from ..roles import parameters_by_role
from .base import Task, check_finite
from .examples import Batch, Data, order_keys
from .stacked import LossFunction, flat, named_loss, trained_parameters
from .stateful import Objective, Stateful

__all__ = ["ModuleTask", "from_module"]

Made = TypeVar("Made")

#: Class that cross entropy leaves out of the mean.
IGNORED = -100

#: Function from a module to a loss (a scalar), without data.
ModuleLoss = Callable[[nn.Module], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModuleTask(Task):
    """Train the modules of a factory on given tensors; made by :func:`from_module`."""

    factory: Callable[[], nn.Module]
    inputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    loss_function: LossFunction | ModuleLoss = F.cross_entropy
    of_module: bool = False
    _stacked: Stateful = field(init=False, repr=False)

    # Compared by identity, as the comparison of tensors has no truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        super().__post_init__()
        # 1. The module.
        module = _seeded(self.factory, 0)
        if not isinstance(module, nn.Module):
            raise TypeError(f"factory must return a torch.nn.Module, got {module!r}")
        if not trained_parameters(module):
            raise ValueError(f"the factory's module has no parameters to train: {module!r}")
        for name, parameter in module.named_parameters():
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(
                    f"parameter {name!r} of the factory's module is not initialised; let "
                    "the factory make one forward pass before it returns the module"
                )
            check_finite(f"parameter {name!r} of the factory's module", parameter.detach())
        if self.loss_function is F.cross_entropy and not self.targets.is_floating_point():
            _check_classes(module, self.inputs, self.targets)
        # 2. A trial pass on a batch, to find out what the module draws and writes, and
        # whether copies can be stacked.
        if self.of_module:
            stacked = Stateful(Objective(module, cast(ModuleLoss, self.loss_function)))
        else:
            stacked = Stateful(module, cast(LossFunction, self.loss_function))
        stacked.choose(self.inputs[: self.batch_size], self.targets[: self.batch_size])
        object.__setattr__(self, "_stacked", stacked)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self._stacked.shapes

    @property
    def roles(self) -> tuple[str, ...]:
        template = self._stacked.template
        module = template.module if isinstance(template, Objective) else template
        by_role = parameters_by_role(module)
        names = {id(p): role for role, params in by_role.items() for p in params}
        return tuple(names[id(p)] for p in trained_parameters(module).values())

    @property
    def example_numbers(self) -> int:
        return self.inputs[:1].numel() + self.targets[:1].numel() + 1

    @property
    def shares_examples(self) -> bool:
        return True

    @cached_property
    def work(self) -> int:  # type: ignore[override]
        """Approximate number of multiplications in a forward pass on a batch of one run.

        Matrix products, convolutions, attention and LSTMs are counted in a pass of a new
        module. If there are none, the base class's estimate is used.
        """
        with _FlopCounter(display=False, custom_mapping=CPU_FLOPS) as counter:
            _seeded(self._loss_of_a_new_module, 0)
        return counter.get_total_flops() // 2 or super().work

    def _loss_of_a_new_module(self) -> Tensor:
        """Compute the loss of a new module on the first batch."""
        module = copy.deepcopy(self.factory())  # it may return the same object each time
        like = next(iter(trained_parameters(module).values()))
        inputs, targets = (
            x[: self.batch_size].to(
                like.device, like.dtype if x.is_floating_point() else None
            )
            for x in (self.inputs, self.targets)
        )
        with torch.enable_grad():  # for losses that take gradients themselves
            if self.of_module:
                return cast(ModuleLoss, self.loss_function)(module)
            return cast(LossFunction, self.loss_function)(module(inputs), targets)

    @cached_property
    def num_classes(self) -> int | None:  # type: ignore[override]
        x = self.targets
        if self.of_module or x.dim() != 1 or x.dtype != torch.int64 or x.min() < 0:
            return None
        return int(x.max()) + 1

    @property
    def num_features(self) -> int | None:
        if self.of_module or not self.inputs.is_floating_point():
            return None
        return math.prod(self.inputs.shape[1:])

    @property
    def draws(self) -> bool:
        return self._stacked.draws

    @property
    def buffers(self) -> int:
        return sum(self._stacked.sizes)

    def init_buffers(self, runs: int) -> Tensor:
        return self._stacked.initial_buffers().repeat(runs, 1)

    def sample(self, generators: Sequence[np.random.Generator]) -> Data:
        total = self.num_train + self.num_validation
        # All runs share the split, but not the order within each part.
        rows = np.stack(
            [
                np.concatenate(
                    [
                        g.permutation(self.num_train),
                        self.num_train + g.permutation(total - self.num_train),
                    ]
                )
                for g in generators
            ]
        )
        return Data(
            self.inputs,
            self.targets,
            torch.from_numpy(rows),
            order_keys(generators),
            self.num_train,
            shared=True,
        )

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        modules = [_seeded(self.factory, int(g.integers(2**62))) for g in generators]
        rows = [flat(module) for module in modules]
        sizes = sorted({self.num_params, *(len(row) for row in rows)})
        if len(sizes) > 1:
            raise ValueError(
                "the factory must return modules of the same shapes each time, got "
                f"{' and '.join(map(str, sizes))} parameters"
            )
        return torch.stack(rows)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        if self.draws or self.buffers:
            return super().loss(params, inputs, targets)  # raises
        stateless = params[0].new_empty(len(params[0]), 0)
        examples = (inputs, targets)
        return self._stacked.run(params, examples, stateless, None, training=True)[0]

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        examples = (batch.inputs, batch.targets)
        return self._stacked.run(params, examples, buffers, batch.keys, training=True)

    def evaluation_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> Tensor:
        examples = (batch.inputs, batch.targets)
        # The loss itself may compute gradients, such as a differential equation's residual.
        with torch.enable_grad():
            loss, _ = self._stacked.run(
                params, examples, buffers, batch.keys, training=False
            )
        return loss if torch.is_grad_enabled() else loss.detach()


class _NoModules(ModuleTracker):
    """Tracker that tracks no modules, so that all operations are counted together."""

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *args: object) -> None:
        """Leave the context."""


class _FlopCounter(FlopCounterMode):
    """Counter of all operations together, instead of per module.

    Torch's hooks per module fail if a loss differentiates with respect to its inputs.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mod_tracker = _NoModules()


def _lstm_flops(
    inputs: torch.Size, input_weight: torch.Size, hidden_weight: torch.Size, *rest: Any,
    **named: Any,
) -> int:  # fmt: skip
    """Count the operations of one direction of a layer of an LSTM, from shapes."""
    steps = math.prod(inputs[:-1])
    return 2 * steps * (math.prod(input_weight) + math.prod(hidden_weight))


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *rest: Any, **named: Any
) -> int:
    """Count the operations of attention, from shapes ``[B, heads, length, width]``."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


#: Formulas for CPU kernels that torch's counter does not know.
CPU_FLOPS = {
    torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}


def _seeded(factory: Callable[[], Made], seed: int) -> Made:
    """Call ``factory`` with seeded global generators, which are restored afterwards."""
    # torch.manual_seed() would seed all devices, in use or not, and not restore them.
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        return factory()


def from_module(
    factory: Callable[[], nn.Module],
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
    *,
    loss: str | LossFunction | ModuleLoss = "cross_entropy",
    batch_size: int | None = None,
    validation_fraction: float = 0.2,
) -> ModuleTask:
    """Make a task of a module factory, with tensors or with a loss without data.

    ``gym.make_vec("optenv/LearningRate-v0", 16, tasks=from_module(...))`` then trains 16
    modules at once, each from its own initial parameters and in its own batch order.
    Modules and losses that torch cannot stack (such as ``torch.nn.LSTM``) run in a loop.

    Updates are made in the mode in which the factory returns the module, usually training
    mode. Rewards and validation use ``eval()`` mode.

    - Random numbers that module and loss draw with torch (dropout, ``torch.randn_like``)
      are the run's own: they depend on its seed and the number of the update, and not on
      torch's global generator.
    - Buffers that training writes to, such as the running statistics of a BatchNorm, are
      part of the run's state.

    Args:
        factory: function that returns a new, randomly initialised module. The global
            generators are seeded for the call and restored afterwards. Parameters that
            require no gradient stay as they are, the same in all runs; and so do buffers
            that training does not write to.
        inputs: examples, ``[N, ...]``; None, together with ``targets``, for a loss without
            data.
        targets: their targets, ``[N, ...]``. For ``"cross_entropy"``, classes may be of any
            integer type.
        loss: ``"cross_entropy"``, ``"mse"``, ``"l1"``, ``"bce_with_logits"``, or a function
            ``(outputs, targets) -> scalar mean loss``; without data, a function ``(module)
            -> scalar loss``. It may be negative, see :mod:`optenv.rewards`; the features of
            ``loss_features="positive"`` treat negative losses as 0.
        batch_size: examples in a batch; by default 32, or all training examples if they
            are fewer. Ignored without data.
        validation_fraction: fraction of the examples, the last ones, for validation.
            Ignored without data.

    Returns:
        The task.

    Raises:
        ValueError: sizes do not match; a value of the inputs, targets or parameters is not
            finite; a target is none of the module's classes; a parameter of the module is
            not initialised; the loss is unknown or not a scalar; module or loss draw random
            numbers with an unsupported operation of torch or with a generator of their own;
            or they keep state outside buffers. A note on the error names the module.
        RuntimeError: the module does not accept the inputs (its own error).
        TypeError: the factory does not return a module, inputs or targets are no tensors,
            or ``validation_fraction`` is no number.

    Example:
        A loss without data, on points that are drawn again for every update::

            def loss(module):
                points = torch.rand(16, 1)
                return (module(points) - points.sin()).square().mean()

            task = from_module(lambda: torch.nn.Linear(1, 1), loss=loss)
    """
    if inputs is None and targets is None:
        return _without_data(factory, loss)
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        check_finite(name, value)
    assert inputs is not None and targets is not None
    if len(inputs) != len(targets):
        raise ValueError(
            f"inputs and targets differ in length: {len(inputs)} and {len(targets)}"
        )
    if len(inputs) < 2:
        raise ValueError(
            "a task needs at least two examples, one for training and one for validation, "
            f"got {len(inputs)}"
        )
    if not is_number(validation_fraction):
        raise TypeError(
            f"validation_fraction must be a number, got {quoted(validation_fraction)}"
        )
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie in (0, 1), got {validation_fraction!r}"
        )
    loss_function = named_loss(cast(LossFunction, loss))
    _check_factory(factory)
    if loss_function is F.cross_entropy and not targets.is_floating_point():
        targets = targets.long()  # torch takes no other type in a batch
    validation = max(1, round(len(inputs) * validation_fraction))
    validation = min(validation, len(inputs) - 1)
    if batch_size is None:
        batch_size = min(32, len(inputs) - validation)
    return ModuleTask(
        batch_size=batch_size,
        num_train=len(inputs) - validation,
        num_validation=validation,
        factory=factory,
        inputs=inputs,
        targets=targets,
        loss_function=loss_function,
    )


def _check_classes(module: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Refuse targets for whose class the module has no output.

    Raises:
        ValueError: there is such a target.
    """
    like = next(module.parameters())
    example = inputs[:1].to(like.device, like.dtype if inputs.is_floating_point() else None)
    try:
        trial = copy.deepcopy(module).eval()
        with torch.no_grad():
            outputs = _seeded(lambda: trial(example), 0)
        classes = outputs.shape[1]
    except Exception:  # the trial pass on a batch raises it again
        return
    known = ((targets >= 0) & (targets < classes)) | (targets == IGNORED)
    if not bool(known.all()):
        first = int((~known).nonzero()[0, 0])
        raise ValueError(
            f"targets of 'cross_entropy' must be classes from 0 to {classes - 1}, of which "
            f"the module has outputs, got {int(targets[~known][0])} at index {first}"
        )


def _without_data(
    factory: Callable[[], nn.Module], loss: str | LossFunction | ModuleLoss
) -> ModuleTask:
    """Make the task of a loss that depends only on the module.

    Raises:
        TypeError: the loss is no function.
    """
    if not callable(loss):
        raise TypeError(
            "without inputs and targets, loss must be a function (module) -> scalar loss, "
            f"got {loss!r}"
        )
    _check_factory(factory)
    nothing = torch.empty(2, 0)  # an example for training, and one for validation
    return ModuleTask(
        batch_size=1,
        num_train=1,
        num_validation=1,
        factory=factory,
        inputs=nothing,
        targets=nothing,
        loss_function=loss,
        of_module=True,
    )


def _check_factory(factory: Any) -> None:
    """Refuse a factory that is no function.

    Raises:
        TypeError: it is a module, or cannot be called.
    """
    if isinstance(factory, nn.Module):
        raise TypeError(
            "factory must be a function that makes a new module, not a module: give "
            f"lambda: {type(factory).__name__}(...)"
        )
    if not callable(factory):
        raise TypeError(f"factory must be callable, got {factory!r}")
