"""An instance: one task with its data, a name and a number."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..checks import is_number, known, quoted, suggestion
from ..tasks import Task

__all__ = ["Instance"]

#: Numeric fields of an instance that may be left to the environment.
OPTIONAL = ("base_lr", "updates", "reparametrize")


@dataclass(frozen=True)
class Instance:
    """One task with its data: everything that a run trains on.

    Runs on one instance have the same structure, examples, base learning rate, length and
    reparametrization. The seed of ``reset()`` draws what differs: initial parameters, the
    order of batches, random numbers of the loss, and whether losses are observed. Instance
    and seed together fix a run.

    For a field that is None, the environment's argument of the same name applies; if that
    is a range, the value is drawn with the instance's seed.

    Attributes:
        family: name of the family of tasks.
        split: ``"train"``, ``"test"`` or ``"ood"``.
        number: number within family and split, from 0.
        task: the structure.
        seed: seed of the examples, and of values that are drawn for fields that are None.
        base_lr: base learning rate, or None.
        updates: length of a run in updates, or None.
        reparametrize: spread of random factors of the parameter tensors, see
            :class:`optenv.settings.Settings`, or None.

    Raises:
        TypeError: a field is of another type.
        ValueError: a number is out of range, or a name is empty or has a slash.

    Example::

        instance = Instance("wide", "train", 0, tasks.MLP(width=512), seed=7)
        env.reset(seed=0, options={"instance": instance})
    """

    family: str
    split: str
    number: int
    task: Task
    seed: int
    base_lr: float | None = None
    updates: int | None = None
    reparametrize: float | None = None

    def __post_init__(self) -> None:
        # 1. The name.
        for name in ("family", "split"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"{name} of an instance must be a string, got {value!r}")
            if not value or "/" in value:
                raise ValueError(
                    f"{name} of an instance must be a name without a slash, got {value!r}"
                )
        if not isinstance(self.task, Task):
            raise TypeError(f"task of an instance must be a Task, got {quoted(self.task)}")
        # 2. The numbers.
        for name, least in (("number", 0), ("seed", 0), ("updates", 1)):
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise TypeError(f"{name} of an instance must be an integer, got {value!r}")
            if value < least:
                raise ValueError(
                    f"{name} of an instance must be at least {least}, got {value!r}"
                )
            object.__setattr__(self, name, int(value))
        for name in ("base_lr", "reparametrize"):
            value = getattr(self, name)
            if value is None:
                continue
            if not is_number(value):
                raise TypeError(
                    f"{name} of an instance must be a number, got {quoted(value)}"
                )
            if not (0 < value if name == "base_lr" else 0 <= value) or value == np.inf:
                raise ValueError(
                    f"{name} of an instance must be "
                    f"{'positive' if name == 'base_lr' else 'at least 0'} and finite, "
                    f"got {value!r}"
                )
            object.__setattr__(self, name, float(value))

    @property
    def name(self) -> str:
        """Name of the instance, such as ``"cnn/train/3"``."""
        return f"{self.family}/{self.split}/{self.number}"

    def generator(self, *stream: int) -> np.random.Generator:
        """Make a random generator of the instance.

        Args:
            *stream: integers that identify a stream; different streams are independent.
        """
        return np.random.default_rng([self.seed, *stream])

    def to_dict(self) -> dict[str, Any]:
        """Return the instance as JSON values.

        Fields that are None, and thus left to the environment, are left out.

        Raises:
            TypeError: a field of the task is not a JSON value, such as the tensors of
                :func:`optenv.from_module`; the message names it.
        """
        task = {"type": type(self.task).__name__, **_task_fields(self.task)}
        described: dict[str, Any] = {
            "family": self.family, "split": self.split, "number": self.number,
            "seed": self.seed,
        }  # fmt: skip
        numbers = {name: getattr(self, name) for name in OPTIONAL}
        described |= {name: x for name, x in numbers.items() if x is not None}
        return {**described, "task": task}

    @classmethod
    def from_dict(cls, values: Any) -> Instance:
        """Make an instance from the result of :meth:`to_dict`.

        The type of the task is looked up among the subclasses of :class:`optenv.tasks.Task`
        that have been imported.

        Raises:
            TypeError, ValueError: an entry is missing, unknown or not valid; the message
                quotes it.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"an instance must be a JSON object, got {quoted(values)}")
        valid = [field.name for field in fields(cls)]
        for name in values:
            if name not in valid:
                raise ValueError(
                    f"unknown entry {name!r} of an instance; {suggestion(name, valid)}"
                )
        missing = [n for n in valid if n not in values and n not in OPTIONAL]
        if missing:
            raise ValueError(f"an instance needs {', '.join(missing)}: {quoted(values)}")
        return cls(**{**values, "task": _read_task(values["task"])})

    def to_json(self) -> str:
        """Return :meth:`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())


def _task_fields(task: Task) -> dict[str, Any]:
    """Return the constructor arguments of a task as JSON values."""
    return {
        field.name: _plain(f"{type(task).__name__}.{field.name}", getattr(task, field.name))
        for field in fields(task)
        if field.init
    }


def _plain(name: str, value: Any) -> Any:
    """Convert a value to a JSON value: NumPy numbers to Python's, tuples to lists."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (tuple, list)):
        return [_plain(name, x) for x in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"{name} cannot be written as JSON, got {quoted(value)}; instances of such tasks "
        "can be used in this process, but not saved"
    )


def _read_task(values: Any) -> Task:
    """Make a task from the values that :meth:`Instance.to_dict` returns for it."""
    if not isinstance(values, Mapping) or "type" not in values:
        raise ValueError(f"the task of an instance needs a 'type', got {quoted(values)}")
    types = {kind.__name__: kind for kind in _concrete(Task)}
    known("type of a task", values["type"], types)
    arguments = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name != "type"
    }
    valid = [field.name for field in fields(types[values["type"]]) if field.init]
    for name in arguments:
        if name not in valid:
            raise ValueError(
                f"unknown field {name!r} of the task {values['type']}; "
                f"{suggestion(name, valid)}"
            )
    return types[values["type"]](**arguments)


def _concrete(kind: Any) -> Iterator[type[Any]]:
    """Yield the subclasses of a class of tasks that have no abstract methods."""
    for each in kind.__subclasses__():
        if not each.__abstractmethods__:
            yield each
        yield from _concrete(each)
