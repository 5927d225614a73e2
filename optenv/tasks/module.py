"""A user's own model and data as a task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .base import Data, Task, order_keys

LossFunction = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, LossFunction] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ModuleTask(Task):
    """Train the modules that a factory makes on given tensors; see :func:`from_module`."""

    factory: Callable[[], nn.Module]
    inputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    loss_function: LossFunction = F.cross_entropy
    _template: nn.Module = field(init=False, repr=False)
    _buffers: dict[str, Tensor] = field(init=False, repr=False)
    _stacks: bool = field(init=False, repr=False)

    # By identity: tensors have no truth value to compare them by.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        super().__post_init__()
        module = _seeded(self.factory, 0)
        if not isinstance(module, nn.Module):
            raise TypeError(f"factory must return a torch.nn.Module, got {module!r}")
        if not any(p.requires_grad for p in module.parameters()):
            raise ValueError(f"the factory's module has no parameters to train: {module!r}")
        stateful = [
            name
            for name, part in module.named_modules()
            if getattr(part, "track_running_stats", False)
        ]
        if stateful:
            raise ValueError(
                f"modules {stateful} update running statistics in place, which stacked "
                "runs cannot share; use track_running_stats=False or GroupNorm"
            )
        random = [name for name, part in module.named_modules() if _drops(part)]
        if random:
            raise ValueError(
                f"modules {random} draw from the global random generator; set p=0"
            )
        # A copy: the factory may keep its module, and tied parameters stay tied.
        object.__setattr__(self, "_template", copy.deepcopy(module))
        # Frozen parameters are held like buffers: those of one module, for all runs.
        frozen = {
            name: p.detach()
            for name, p in self._template.named_parameters()
            if not p.requires_grad
        }
        buffers = {**dict(self._template.named_buffers()), **frozen}
        object.__setattr__(self, "_buffers", buffers)
        object.__setattr__(self, "_stacks", self._try())

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(p.shape) for p in _trained(self._template).values())

    def sample(self, generators: Sequence[np.random.Generator]) -> Data:
        total = self.num_train + self.num_validation
        # The split is one for all runs; what differs is the order within each part.
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
        flat = [
            torch.cat([p.detach().flatten() for p in _trained(m).values()]) for m in modules
        ]
        return torch.stack(flat)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        one = self._loss_of_one(params[0])
        if self._stacks and len(inputs) > 1:  # for one, vmap costs more than it saves
            return vmap(one)(params, inputs, targets)
        runs = zip(zip(*params, strict=True), inputs, targets, strict=True)
        return torch.stack([one(*run) for run in runs])

    def _loss_of_one(self, like: Tensor) -> Callable[..., Tensor]:
        """Function from parameters, inputs and targets of one run to its loss."""
        names = list(_trained(self._template))
        buffers = {
            name: b.to(like.device, like.dtype if b.is_floating_point() else None)
            for name, b in self._buffers.items()
        }

        def one(values: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
            named = dict(zip(names, values, strict=True))
            outputs = functional_call(self._template, (named, buffers), (x,))
            loss = self.loss_function(outputs, y)
            if loss.dim() != 0:
                raise ValueError(
                    "loss must be a scalar mean over the batch, got a tensor of shape "
                    f"{list(loss.shape)}"
                )
            return loss

        return one

    def _try(self) -> bool:
        """Whether runs can be stacked; what could never train is refused here."""
        params = [p.detach() for p in _trained(self._template).values()]
        rows = slice(0, self.batch_size)
        # As an environment will give them: floats of the type of the parameters.
        inputs, targets = (
            x[rows].to(params[0].device, params[0].dtype if x.is_floating_point() else None)
            for x in (self.inputs, self.targets)
        )
        one = self._loss_of_one(params[0])
        try:
            self._try_one(one, params, inputs, targets)
        except Exception as error:
            error.add_note("(of the factory's module and the loss, on the first examples)")
            raise
        try:
            vmap(one)([p[None] for p in params], inputs[None], targets[None])
        except RuntimeError as error:
            if "atching rule" not in str(error):
                raise
            return False  # recurrent layers, among others, run one after the other
        return True

    @staticmethod
    def _try_one(one: Callable[..., Tensor], *arguments: Any) -> None:
        """Take the loss once; refuse one that draws random numbers."""
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            one(*arguments)
            if not torch.equal(torch.get_rng_state(), before):
                raise ValueError(
                    "the module or its loss draws from the global random generator, "
                    "which runs cannot share; train it without dropout and the like"
                )


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _drops(module: nn.Module) -> bool:
    # Attention and recurrent modules hold a probability instead of a submodule.
    dropout = isinstance(module, nn.modules.dropout._DropoutNd)
    p = module.p if dropout else getattr(module, "dropout", 0.0)
    return isinstance(p, (int, float)) and p > 0


def _seeded(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Call ``factory`` with seeded global generators, which are then put back."""
    # torch.manual_seed() would seed all devices, in use or not, and leave them so.
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
    Modules that torch cannot stack (``torch.nn.LSTM`` and its like) run in a loop.

    Args:
        factory: returns a new, randomly initialised module; called with a seeded
            generator, which is put back afterwards. Parameters that require no gradient
            stay as they are, the same in all runs.
        inputs: ``[N, ...]`` examples.
        targets: ``[N, ...]`` targets.
        loss: ``"cross_entropy"``, ``"mse"``, ``"l1"``, ``"bce_with_logits"``, or a function
            ``(outputs, targets) -> scalar mean loss``, at least 0.
        batch_size: examples in a batch.
        validation_fraction: share of the examples, the last ones, kept for validation.

    Raises:
        ValueError: sizes do not fit, the loss is unknown or no scalar, or the module has
            running statistics (BatchNorm) or dropout, which runs cannot share.
        RuntimeError: as the module raises it, if it does not accept the inputs.
        TypeError: the factory does not return a module, or inputs or targets are no
            tensors.
    """
    for name, value in (("inputs", inputs), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if len(inputs) != len(targets):
        raise ValueError(
            f"inputs and targets differ in length: {len(inputs)} and {len(targets)}"
        )
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie in (0, 1), got {validation_fraction!r}"
        )
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; valid losses: {', '.join(LOSSES)}")
        loss = LOSSES[loss]
    if not callable(loss):
        raise TypeError(f"loss must be a name or a function, got {loss!r}")
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
        loss_function=loss,
    )
