"""Checks of streams, and of what is learned from them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from optenv.tasks.stacked import LossFunction

from ..checks import is_classification
from .streams import Stream


def one_stream(stream: Stream) -> Stream:
    """A stream that can be learned.

    Raises:
        TypeError: it is something else.
        ValueError: its parts have not as many tasks and examples, or none.
    """
    parts: list[Any] = [getattr(stream, name, None) for name in Stream._fields]
    if not all(isinstance(part, Tensor) for part in parts):
        hint = "; draw one by its sample(rng)" if hasattr(stream, "sample") else ""
        raise TypeError(
            "a stream must be a meta.Stream, with tensors "
            f"{', '.join(Stream._fields)}, got {stream!r}{hint}"
        )
    found = Stream(*parts)
    x, y, *tests = (tuple(part.shape[:2]) for part in found)
    if x != y or tests[0] != tests[1] or x[:1] != tests[0][:1] or len(x) < 2:
        raise ValueError(
            "inputs and targets of a stream must be [tasks, examples, ...], of as many "
            "tasks and examples, got "
            + ", ".join(f"{name} {list(x.shape)}" for name, x in found._asdict().items())
        )
    if 0 in (*x, *tests[0]):
        raise ValueError(
            "a stream must have at least one task, example and test, got "
            f"{x[0]}, {x[1]} and {tests[0][1]}"
        )
    return found


def check_targets(loss: str | LossFunction, outputs: Tensor, targets: Tensor) -> None:
    """Check that targets suit a loss and outputs.

    Args:
        loss: name of the loss, or the function.
        outputs: ``[n, ...]``.
        targets: ``[m, ...]``, of these examples or others.

    Raises:
        ValueError: they do not.
    """
    name = repr(loss) if isinstance(loss, str) else getattr(loss, "__name__", repr(loss))
    got = f"targets {_kind(targets)} for outputs {_kind(outputs)}"
    if not is_classification(loss):
        if targets.shape[1:] != outputs.shape[1:]:
            raise ValueError(
                f"with the loss {name}, targets must have the shape of the outputs, got "
                f"{got}; targets that are classes are for the loss 'cross_entropy'"
            )
        return
    if targets.is_floating_point() or targets.dim() != 1 or outputs.dim() != 2:
        raise ValueError(
            f"with the loss {name}, targets must be integers [n], the classes, and outputs "
            f"[n, classes], got {got}; targets that are numbers are for the loss 'mse'"
        )
    if len(targets) and int(targets.max()) >= outputs.shape[1]:
        raise ValueError(
            f"targets must be classes less than {outputs.shape[1]}, the number of outputs, "
            f"got {int(targets.max())}"
        )


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {tensor.dtype}"


def check_alone(learner: object, module: nn.Module) -> None:
    """Check that a module can take one example, for normalisation needs no others.

    Raises:
        ValueError: it normalises by the statistics of the batch.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (
            part.training or part.running_mean is None
        ):
            raise ValueError(
                f"{type(learner).__name__} takes inner steps on one example, which cannot "
                f"be normalised by its batch, got {part!r} called {name!r}; use GroupNorm "
                "or LayerNorm, or running statistics in the mode of evaluation"
            )
