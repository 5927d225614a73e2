"""Sets of instances: sampling, saving, loading, listing and printing."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from .. import tasks
from ..atomic import write_text
from ..checks import parsed_json, positive_int, quoted
from ..memory_limit import refuse_count
from ..ranges import as_range, log_uniform
from .instance import Instance

__all__ = ["STANDARD_COUNT", "InstanceSet", "InstanceSpec", "get", "make"]

#: Number of instances of a family and split in a standard set.
STANDARD_COUNT = 100

#: Approximate number of bytes of an instance with its task and its name.
_INSTANCE = 800

#: Value of the ``instances`` argument of the environments, see :func:`make`.
InstanceSpec = "InstanceSet | Instance | str | os.PathLike[str] | Sequence[Any]"


class InstanceSet(Sequence[Instance]):
    """Sequence of instances with different names.

    ``print(instances)`` lists them. A slice is also a set.

    Args:
        instances: the instances; no two have the same name.

    Raises:
        TypeError: an element is not an :class:`Instance`.
        ValueError: there are no instances, or two have the same name.

    Example::

        instances = InstanceSet.sample("cnn/train", 20, base_lr=(1e-4, 1e-2))
        instances.save("cnn.jsonl")
        env = gym.make("optenv/LearningRate-v0", instances="cnn.jsonl")
    """

    def __init__(self, instances: Iterable[Instance]) -> None:
        self._instances = tuple(instances)
        self._by_name: dict[str, Instance] = {}
        for each in self._instances:
            if not isinstance(each, Instance):
                raise TypeError(f"a set needs Instance objects, got {quoted(each)}")
            if each.name in self._by_name:
                raise ValueError(f"two instances of a set are named {each.name!r}")
            self._by_name[each.name] = each
        if not self._instances:
            raise ValueError("a set needs at least one instance")

    @classmethod
    def sample(
        cls,
        spec: tasks.TaskSpec,
        count: int = STANDARD_COUNT,
        *,
        seed: int = 0,
        base_lr: float | tuple[float, float] | None = None,
        updates: int | tuple[int, int] | None = None,
        reparametrize: float | None = None,
    ) -> InstanceSet:
        """Sample instances.

        Instance number ``n`` of a family and split depends on ``seed`` and ``n``, but not
        on ``count`` or on the other families.

        Args:
            spec: families and splits, as in the ``tasks`` argument of the environments; or
                tasks, whose instances differ in their data. The family of a task is the
                name of its class.
            count: number of instances of each family and split, or of each task.
            seed: seed of the set. Sets with different seeds have different instances with
                the same names.
            base_lr: base learning rate, or a pair to draw it from log-uniformly; None
                leaves it to the environment.
            updates: length of the runs, or a pair to draw it from log-uniformly; None
                leaves it to the environment.
            reparametrize: spread of random factors of the parameter tensors; None leaves it
                to the environment.

        Raises:
            ValueError, TypeError: an argument is not valid, or the instances need more
                memory than the limit (:mod:`optenv.memory_limit`).
        """
        count = positive_int("count", count)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed must be an integer, at least 0, got {seed!r}")
        rates = None if base_lr is None else as_range("base_lr", base_lr)
        lengths = None if updates is None else as_range("updates", updates)
        sources = tasks.make(spec).sources
        refuse_count("count", count, "the instances", len(sources) * _INSTANCE)
        drawn: list[Instance] = []
        first: dict[tuple[str, str], int] = {}  # the next free number
        for source in sources:
            label = (
                source if isinstance(source, tuple) else (type(source).__name__, "train")
            )
            start = first.get(label, 0)
            first[label] = start + count
            drawn += [
                _draw(
                    source, label, number, seed=seed, base_lr=rates, updates=lengths,
                    reparametrize=reparametrize,
                )
                for number in range(start, start + count)
            ]  # fmt: skip
        return cls(drawn)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the instances to a file, one line of JSON each.

        Raises:
            TypeError: a task cannot be written as JSON, see :meth:`Instance.to_dict`. In
                this case nothing is written.
        """
        lines = [each.to_json() + "\n" for each in self]
        write_text(os.fspath(path), "".join(lines))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> InstanceSet:
        """Read the instances of a file that :meth:`save` has written.

        Raises:
            ValueError: the file is not text in UTF-8, or a line is not a valid instance;
                the message says which line, and why.
            OSError: the file cannot be read.
        """
        instances = []
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.fspath(path)!r} is no text in UTF-8: {error}") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                instances.append(Instance.from_dict(parsed_json(line)))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {os.fspath(path)!r}: {error}"
                ) from error
        return cls(instances)

    def find(self, name: str) -> Instance:
        """Return the instance with a name, such as ``"cnn/train/3"``.

        Raises:
            ValueError: the set has no instance of this name.
        """
        if name not in self._by_name:
            some = ", ".join(list(self._by_name)[:3])
            raise ValueError(f"no instance {name!r} in {self!r}, which has {some}, ...")
        return self._by_name[name]

    def __len__(self) -> int:
        return len(self._instances)

    @overload
    def __getitem__(self, index: int) -> Instance: ...

    @overload
    def __getitem__(self, index: slice) -> InstanceSet: ...

    def __getitem__(self, index: int | slice) -> Instance | InstanceSet:
        chosen = self._instances[index]
        return chosen if isinstance(chosen, Instance) else InstanceSet(chosen)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InstanceSet):
            return NotImplemented
        return self._instances == other._instances

    def __hash__(self) -> int:
        return hash(tuple(self._by_name))

    def __repr__(self) -> str:
        parts = list(dict.fromkeys(f"{each.family}/{each.split}" for each in self))
        shown = ", ".join(parts[:4]) + (", ..." if len(parts) > 4 else "")
        return f"<InstanceSet of {len(self)}: {shown}>"

    def __str__(self) -> str:
        rows = [("instance", "seed", "base_lr", "updates", "structure")]
        for each in self:
            rate = "" if each.base_lr is None else f"{each.base_lr:.4g}"
            length = "" if each.updates is None else str(each.updates)
            rows.append((each.name, str(each.seed), rate, length, repr(each.task)))
        used = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ("  ".join(row[i].ljust(widths[i]) for i in used) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


def make(spec: Any) -> InstanceSet:
    """Read the ``instances`` argument of the environments.

    Args:
        spec: an :class:`InstanceSet`; an :class:`Instance` or its name (``"cnn/train/3"``);
            the path of a file that ends in ``.jsonl``; families and splits as in ``tasks``
            (``"cnn/test"``, ``"train"``) for their standard sets, i.e. the first
            :data:`STANDARD_COUNT` instances of each; or a sequence of these.

    Raises:
        ValueError: a name is unknown, or a file is not valid.
        TypeError: ``spec``, or an element of it, is of another type.
        OSError: a file cannot be read.
    """
    if isinstance(spec, InstanceSet):
        return spec
    if isinstance(spec, Instance):
        return InstanceSet([spec])
    if isinstance(spec, os.PathLike) or (isinstance(spec, str) and spec.endswith(".jsonl")):
        return InstanceSet.load(spec)
    if isinstance(spec, str):
        if spec.count("/") == 2:
            return InstanceSet([get(spec)])
        return InstanceSet.sample(spec)
    if isinstance(spec, (list, tuple)):
        return InstanceSet(each for part in spec for each in make(part))
    raise TypeError(
        "instances must be an InstanceSet, an Instance, a name such as 'cnn/train' or "
        f"'cnn/train/3', the path of a .jsonl file, or a list of those, got {quoted(spec)}"
    )


def get(name: str) -> Instance:
    """Return an instance of the standard sets by its name.

    Args:
        name: family, split and number, as in ``"cnn/train/3"``. The number may be beyond
            :data:`STANDARD_COUNT`.

    Raises:
        ValueError: the name is not of this form, or there is no such family or split.
    """
    source, _, number = name.rpartition("/")
    if source.count("/") != 1 or not (number.isascii() and number.isdecimal()):
        raise ValueError(
            f"the name of an instance is family/split/number, such as 'cnn/train/3', got "
            f"{name!r}"
        )
    (pair,) = tasks.make(source).sources
    assert isinstance(pair, tuple)  # of names, as the source has a slash
    return _draw(pair, pair, int(number))


def _draw(
    source: tasks.Task | tuple[str, str],
    label: tuple[str, str],
    number: int,
    *,
    seed: int = 0,
    base_lr: tuple[float, float] | None = None,
    updates: tuple[float, float] | None = None,
    reparametrize: float | None = None,
) -> Instance:
    """Draw one instance.

    Args:
        source: task, or family and split.
        label: family and split in the name of the instance.
        number: number within family and split.
        seed: seed of the set.
        base_lr, updates: ranges, or None to leave them to the environment.
        reparametrize: see :meth:`InstanceSet.sample`.
    """
    # A checksum, since Python's hash of a string differs from process to process.
    place = zlib.crc32("/".join(label).encode())
    rng = np.random.default_rng([seed, place, number])
    task = tasks.TaskSampler((source,)).draw(rng)
    own_seed = int(rng.integers(2**32))
    # Both are always drawn, so that neither value depends on whether the other is used.
    rate = log_uniform(base_lr or (1, 1), rng)
    length = max(1, round(log_uniform(updates or (1, 1), rng)))
    return Instance(
        *label,
        number,
        task,
        own_seed,
        base_lr=None if base_lr is None else rate,
        updates=None if updates is None else length,
        reparametrize=reparametrize,
    )
