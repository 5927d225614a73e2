"""Tasks of a user's own model and data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..roles import parameters_by_role
from .base import Data, Task, check_finite, order_keys
from .stacked import LossFunction, Stacked, flat, named_loss, trained_parameters

__all__ = ["ModuleTask", "from_module"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModuleTask(Task):
    """Train the modules of a factory on given tensors; made by :func:`from_module`."""

    factory: Callable[[], nn.Module]
    inputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    loss_function: LossFunction = F.cross_entropy
    _stacked: Stacked = field(init=False, repr=False)

    # Compared by identity, as the comparison of tensors has no truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        super().__post_init__()
        # 1. Modules that runs cannot share.
        module = _seeded(self.factory, 0)
        if not isinstance(module, nn.Module):
            raise TypeError(f"factory must return a torch.nn.Module, got {module!r}")
        if not trained_parameters(module):
            raise ValueError(f"the factory's module has no parameters to train: {module!r}")
        stateful = [
            name
            for name, part in module.named_modules()
            if part.training and getattr(part, "track_running_stats", False)
        ]
        if stateful:
            raise ValueError(
                f"modules {stateful} update running statistics in place, which stacked "
                "runs cannot share; use track_running_stats=False, GroupNorm or eval()"
            )
        random = [name for name, part in module.named_modules() if _has_dropout(part)]
        if random:
            raise ValueError(
                f"modules {random} draw from the global random generator; set p=0, or call "
                "eval() on them"
            )
        for name, parameter in module.named_parameters():
            check_finite(f"parameter {name!r} of the factory's module", parameter.detach())
        # 2. A try on a batch, to see whether copies can be stacked.
        stacked = Stacked(module, self.loss_function)
        stacked.choose(self.inputs[: self.batch_size], self.targets[: self.batch_size])
        object.__setattr__(self, "_stacked", stacked)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self._stacked.shapes

    @property
    def roles(self) -> tuple[str, ...]:
        by_role = parameters_by_role(self._stacked.template)
        names = {id(p): role for role, params in by_role.items() for p in params}
        trained = trained_parameters(self._stacked.template)
        return tuple(names[id(p)] for p in trained.values())

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
        return torch.stack([flat(module) for module in modules])

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        return self._stacked.loss(params, inputs, targets)


def _has_dropout(module: nn.Module) -> bool:
    """Return whether a module, in its mode, drops units with a positive probability."""
    if not module.training:
        return False
    # Attention and recurrent modules hold a probability instead of a submodule.
    dropout = isinstance(module, nn.modules.dropout._DropoutNd)
    p = module.p if dropout else getattr(module, "dropout", 0.0)
    return isinstance(p, (int, float)) and p > 0


def _seeded(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
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
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: str | LossFunction = "cross_entropy",
    batch_size: int = 32,
    validation_fraction: float = 0.2,
) -> ModuleTask:
    """Make a task of a module factory and tensors.

    ``gym.make_vec("optenv/LearningRate-v0", 16, tasks=from_module(...))`` then trains 16
    modules at once, each from its own initial parameters and in its own batch order.
    Modules that torch cannot stack (such as ``torch.nn.LSTM``) run in a loop.

    Args:
        factory: function that returns a new, randomly initialised module. The global
            generators are seeded for the call and restored afterwards. Parameters that
            require no gradient stay as they are, the same in all runs; and so do buffers,
            such as the running statistics of a BatchNorm in ``eval()`` mode.
        inputs: examples, ``[N, ...]``.
        targets: their targets, ``[N, ...]``.
        loss: ``"cross_entropy"``, ``"mse"``, ``"l1"``, ``"bce_with_logits"``, or a function
            ``(outputs, targets) -> scalar mean loss``. It may be negative, see
            :mod:`optenv.rewards`, but the features of the loss see negative values as 0.
        batch_size: examples in a batch.
        validation_fraction: fraction of the examples, the last ones, for validation.

    Returns:
        The task.

    Raises:
        ValueError: sizes do not fit, a value of the inputs, targets or parameters is not
            finite, the loss is unknown or no scalar, or the module has running statistics
            (BatchNorm) or dropout in training mode, which runs cannot share.
        RuntimeError: the module does not accept the inputs (as it raises it).
        TypeError: the factory does not return a module, or inputs or targets are no
            tensors.
    """
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        check_finite(name, value)
    if len(inputs) != len(targets):
        raise ValueError(
            f"inputs and targets differ in length: {len(inputs)} and {len(targets)}"
        )
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie in (0, 1), got {validation_fraction!r}"
        )
    loss_function = named_loss(loss)
    if isinstance(factory, nn.Module):
        raise TypeError(
            "factory must be a function that makes a new module, not a module: give "
            f"lambda: {type(factory).__name__}(...)"
        )
    if not callable(factory):
        raise TypeError(f"factory must be callable, got {factory!r}")
    validation = max(1, round(len(inputs) * validation_fraction))
    return ModuleTask(
        batch_size=batch_size,
        num_train=len(inputs) - validation,
        num_validation=validation,
        factory=factory,
        inputs=inputs,
        targets=targets,
        loss_function=loss_function,
    )
