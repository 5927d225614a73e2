"""Assignment of instances to the runs of a batch.

Runs are stacked by structure. A group that is reset as a whole can take any instance; a run
that is reset while others of its group continue needs one of the group's structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import instances as sets
from . import tasks
from .changes import fitting
from .checks import quoted
from .group import Group
from .instances import Instance, InstanceSet
from .settings import Settings, Structure

__all__ = ["Rotation", "Rows", "partition", "read", "refuse_mixture"]

#: Indices of a group's runs in the batch.
Rows = slice | np.ndarray


class Rotation:
    """Choice of instances from a set, for one group after the other.

    Args:
        settings: arguments of the environment, with a set of instances.
    """

    def __init__(self, settings: Settings) -> None:
        self.instances: InstanceSet = settings.instances
        self.cycles = settings.instance_order == "cycle"
        labels = _labels([settings.structure_of(each) for each in self.instances])
        members: dict[int, list[int]] = {}
        for place, label in enumerate(labels):
            members.setdefault(label, []).append(place)
        #: For each instance, the places in the set of all instances of its structure.
        self._alike = [members[label] for label in labels]
        self._places = {each.name: i for i, each in enumerate(self.instances)}
        self.num_structures = len(members)
        #: Place in the set of the instance that comes next.
        self.next_place = 0

    def start(self, seed: int) -> None:
        """Start with instance number ``seed``, modulo the size of the set."""
        self.next_place = seed % len(self.instances)

    def whole(self, count: int, rng: np.random.Generator) -> list[Instance]:
        """Choose instances of one structure for all ``count`` runs of a group.

        Args:
            count: number of runs.
            rng: generator to draw instances from, if the order is ``"draw"``.
        """
        total = len(self.instances)
        first = self.next_place if self.cycles else int(rng.integers(total))
        alike = self._alike[first]
        if not self.cycles:
            others = rng.integers(len(alike), size=count - 1)
            return [self.instances[i] for i in (first, *(alike[j] for j in others))]
        # Skip the instances that come next in the set and have the same structure.
        taken = 1
        while taken < min(count, len(alike)) and (first + taken) % total in alike:
            taken += 1
        self.next_place = (first + taken) % total
        start = alike.index(first)
        return [self.instances[alike[(start + j) % len(alike)]] for j in range(count)]

    def again(self, last: Instance | None, group: Group, rng: np.random.Generator) -> Any:
        """Choose the next instance of a run that is reset without the rest of its group.

        Args:
            last: last instance of the run, or None.
            group: group of the run.
            rng: generator of the run.

        Returns:
            The instance, or None if the run had none.
        """
        place = None if last is None else self._places.get(last.name)
        if place is None or self.instances[place] != last:
            return last  # it was given by an option
        alike = self._alike[place]
        if len(alike) == 1:
            return last
        if not self.cycles:
            return self.instances[alike[int(rng.integers(len(alike)))]]
        after = (alike.index(place) + group.size) % len(alike)
        return self.instances[alike[after]]


def read(option: Any, mask: np.ndarray, settings: Settings) -> list[Instance | None]:
    """Read the option ``"instance"`` of ``reset()``.

    Args:
        option: an instance, its name, or its number in the environment's set (without a
            set, in the standard set of its tasks); or a list of those with an entry for
            each run. Entries of runs that are not reset are ignored.
        mask: which runs are reset, ``[B]`` bool.
        settings: arguments of the environment.

    Returns:
        An instance for each run that is reset, and None for the others.

    Raises:
        TypeError: the option is of another type.
        ValueError: there is no such instance, the list has another length, or the changes
            of the environment do not fit the task of an instance.
    """
    if isinstance(option, np.ndarray) and option.ndim == 0:
        option = option.item()
    if isinstance(option, (list, tuple, np.ndarray, InstanceSet)):
        if len(option) != len(mask):
            raise ValueError(
                f"options['instance'] must have one entry per run ({len(mask)}), "
                f"got {len(option)}"
            )
        return [
            _read_one(each, settings) if reset else None
            for each, reset in zip(option, mask, strict=True)
        ]
    instance = _read_one(option, settings)
    return [instance if reset else None for reset in mask]


def _read_one(option: Any, settings: Settings) -> Instance:
    """Read one instance, whose task must fit the changes of the environment."""
    instance = _find(option, settings)
    if settings.changes is not None:
        fitting(settings.changes, instance.task)
    return instance


def _find(option: Any, settings: Settings) -> Instance:
    known: InstanceSet | None = settings.instances
    if isinstance(option, Instance):
        return option
    if isinstance(option, str):
        if known is not None and option in {each.name for each in known}:
            return known.find(option)
        return sets.get(option)
    if isinstance(option, bool) or not isinstance(option, (int, np.integer)):
        raise TypeError(
            "options['instance'] must be an Instance, a name such as 'cnn/train/3', a "
            f"number, or a list of those with one entry per run, got {quoted(option)}"
        )
    if known is not None:
        if not 0 <= option < len(known):
            raise ValueError(
                f"options['instance'] must lie in [0, {len(known) - 1}] for {known!r}, "
                f"got {option!r}"
            )
        return known[int(option)]
    sources = tasks.make(settings.tasks).sources
    if len(sources) != 1 or not isinstance(sources[0], tuple):
        raise ValueError(
            f"instance {option!r} has no meaning for tasks={quoted(settings.tasks)}, which "
            "is not one family; give the instance's name, or the argument instances="
        )
    return sets.get(f"{'/'.join(sources[0])}/{option}")


def partition(structures: Sequence[Structure]) -> list[Rows]:
    """Divide runs into groups of one structure each.

    Args:
        structures: structure of each run.

    Returns:
        The indices of the runs of each group; a slice where they are consecutive.
    """
    labels = np.array(_labels(structures))
    groups: list[Rows] = []
    for label in range(labels.max() + 1):
        rows = np.flatnonzero(labels == label)
        whole = rows[-1] - rows[0] + 1 == len(rows)
        groups.append(slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows)
    return groups


def refuse_mixture(
    group: Group, rows: np.ndarray, index: np.ndarray, wanted: Sequence[Structure]
) -> None:
    """Refuse instances that the runs of a group cannot have at the same time.

    Args:
        group: the group.
        rows: indices of its runs in the batch.
        index: indices, within the group, of the runs that are reset.
        wanted: structures of their instances.

    Raises:
        ValueError: the structures differ from each other or, if some runs of the group
            continue, from the group's structure.
    """
    expected = wanted[0] if len(index) == group.size else group.structure
    others = [
        i for i, each in zip(index, wanted, strict=True) if not _is_same(each, expected)
    ]
    if others:
        raise ValueError(
            f"runs {rows.tolist()} are stacked, and the instances of runs "
            f"{rows[others].tolist()} have another structure; reset all runs of the batch, "
            "give instances of one structure, or make the environment with groups=num_envs"
        )


def _labels(structures: Sequence[Structure]) -> list[int]:
    """Number structures by first appearance; equal structures get the same number."""
    labels: list[int] = []
    count = 0
    # Tasks need not be hashable, and different tasks may have the same repr.
    similar: dict[str, list[tuple[Structure, int]]] = {}
    for each in structures:
        candidates = similar.setdefault(repr(each), [])
        equal = [label for other, label in candidates if _is_same(other, each)]
        if not equal:
            candidates.append((each, count))
            equal, count = [count], count + 1
        labels.append(equal[0])
    return labels


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two structures, or fields of their tasks, are equal.

    Tasks are compared by ``==``, unless they hold arrays; then field by field.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    try:
        return bool(one == other)
    except (RuntimeError, ValueError):  # arrays have no truth value
        names = [field.name for field in fields(one) if field.compare]
        return all(_is_same(getattr(one, n), getattr(other, n)) for n in names)
