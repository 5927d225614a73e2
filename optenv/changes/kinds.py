"""Kinds of change of a task during a run: the base class, and those of the package."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..tasks import MLP, Data, Function, ModuleTask, Quadratic, Task
from ..tasks.characters import CharacterModel
from ..tasks.images import ImageTask
from ..tasks.random_bits import normal_numbers, random_bits, uniform_numbers

__all__ = [
    "BatchSize",
    "Change",
    "Classes",
    "Distribution",
    "Inputs",
    "Labels",
    "Noise",
    "Optimum",
    "Rotation",
    "Shift",
    "Text",
]


class Change(ABC):
    """Base of kinds of change.

    Every run has a value of the kind in each stage; :meth:`draw` draws these values one
    after the other. :meth:`apply` transforms examples according to the value; it works on
    all runs at once, each with the value of its stage. Subclasses implement :meth:`fits`
    and :meth:`draw`, and :meth:`apply` or one of the methods after it.

    Example::

        class Brightness(Change):
            \"\"\"Add a number to all inputs.\"\"\"

            def fits(self, task, count):
                return task.num_features is not None

            def draw(self, task, rng, previous, count):
                return np.float32(0.0 if previous is None else rng.normal())

            def apply(self, values, inputs, targets):
                return inputs + values.view(-1, *[1] * (inputs.dim() - 1)), targets

        optenv.changes.register("brightness", Brightness())
        env = gym.make("optenv/LearningRate-v0", changes="brightness")
    """

    #: Names of kinds that a run cannot have together with this one.
    excludes: tuple[str, ...] = ()

    @abstractmethod
    def fits(self, task: Task, count: int) -> bool:
        """Return whether a task can change in this way.

        Args:
            task: structure of the runs.
            count: number of changes of a run, of all kinds together.
        """

    @abstractmethod
    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        """Draw the value of a run after a change.

        Args:
            task: structure of the run.
            rng: generator of the run.
            previous: value before the change; None to draw the value of the first stage,
                which should not change the examples.
            count: number of changes of a run, of all kinds together.

        Returns:
            A number or an array, of the same shape and type for all stages.
        """

    def apply(
        self, values: Tensor, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets as changed in the present stages of the runs.

        Args:
            values: value of each run in its stage, ``[B, ...]``.
            inputs, targets: examples as in the first stage, ``[B, n, ...]``.
        """
        return inputs, targets

    def transform(
        self,
        values: Tensor,
        inputs: Tensor,
        targets: Tensor,
        rows: Tensor,
        context: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return changed inputs and targets like :meth:`apply`, given further arguments.

        Args:
            values, inputs, targets: see :meth:`apply`.
            rows: rows of the examples in the data, ``[B, n]`` int64.
            context: tensors from :meth:`prepare`.
        """
        return self.apply(values, inputs, targets)

    def prepare(self, task: Task, data: Data) -> tuple[Tensor, ...]:
        """Compute statistics of the examples that the other methods need.

        Args:
            task: structure of the runs.
            data: examples of the runs, in their first stage.

        Returns:
            Tensors ``[B, ...]``.
        """
        return ()

    def select(
        self,
        values: Tensor,
        examples: Tensor,
        context: Sequence[Tensor],
        training: bool,
    ) -> Tensor:
        """Return the numbers of the examples that replace given ones, ``[B, n]``.

        Args:
            values: value of each run in its stage, ``[B, ...]``.
            examples: numbers of examples within each run, ``[B, n]`` int64.
            context: tensors from :meth:`prepare`.
            training: True for a training batch, False for an evaluation.
        """
        return examples

    def place(self, values: Tensor, rows: Tensor, context: Sequence[Tensor]) -> Tensor:
        """Return the rows of examples in the present stage, given those in the first.

        Args:
            values, context: see :meth:`select`.
            rows: rows of the data in the first stage, ``[B, n]`` int64.

        Returns:
            Rows of the data, ``[B, n]``.
        """
        return rows

    def batch_sizes(self, values: Tensor, whole: int) -> Tensor:
        """Return the number of different examples in a batch in each stage, ``[B, K + 1]``.

        Args:
            values: values of all stages, ``[B, K + 1]``.
            whole: number of examples in a batch of the task.
        """
        return torch.full(values.shape[:2], whole, device=values.device)


class _Permutation(Change):
    """Base of permutations, for example of the classes of a task."""

    @abstractmethod
    def count(self, task: Task) -> int | None:
        """Return the number of permuted elements; None if the task has no such elements."""

    def fits(self, task: Task, count: int) -> bool:
        return (self.count(task) or 0) >= 2

    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        return _another_order(self.count(task), rng, previous)


class Labels(_Permutation):
    """Permute the classes of the targets."""

    def count(self, task: Task) -> int | None:
        return task.num_classes

    def apply(
        self, values: Tensor, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        return inputs, values.gather(1, targets)


class Inputs(_Permutation):
    """Permute the features of the inputs; for images, the pixels."""

    def count(self, task: Task) -> int | None:
        return task.num_features

    def apply(
        self, values: Tensor, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        flat = inputs.flatten(2)
        order = values.unsqueeze(1).expand(flat.shape)
        return flat.gather(2, order).view(inputs.shape), targets


class Rotation(Change):
    """Rotate the images by a further 30 to 330 degrees at each change.

    Pixels are interpolated; pixels from outside of the image are 0.
    """

    def fits(self, task: Task, count: int) -> bool:
        if isinstance(task, ModuleTask):
            x = task.inputs
            is_image = x.dim() == 4 and x.shape[2] == x.shape[3] >= 2
            return task.num_features is not None and is_image
        return isinstance(task, ImageTask)

    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        if previous is None:
            return np.float32(0.0)
        return np.float32(previous + rng.uniform(math.pi / 6, 11 * math.pi / 6))

    def apply(
        self, values: Tensor, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        # The images of a run are treated as channels, so that it needs only one grid.
        images = inputs.flatten(1, 2)
        cos, sin, zero = values.cos(), values.sin(), torch.zeros_like(values)
        matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        turned = F.grid_sample(images, grid, align_corners=False).view(inputs.shape)
        is_turned = (values != 0).view(-1, *[1] * (inputs.dim() - 1))
        return torch.where(is_turned, turned, inputs), targets


class Classes(Change):
    """Add classes; in the first stage some are missing.

    Examples of missing classes are replaced by examples of the others. Each change adds the
    same number of classes.
    """

    excludes = ("distribution",)  # whose examples have other classes

    def fits(self, task: Task, count: int) -> bool:
        return (task.num_classes or 0) >= count + 2

    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        classes = task.num_classes
        assert classes is not None
        step = max(1, classes // (count + 1))
        joined = np.zeros(classes, np.bool_) if previous is None else previous.copy()
        new = classes - count * step if previous is None else step
        joined[rng.permutation(np.flatnonzero(~joined))[:new]] = True
        return joined

    def prepare(self, task: Task, data: Data) -> tuple[Tensor, ...]:
        """Return each example's class, the examples sorted by class, and the class sizes.

        Training and validation examples are kept apart.
        """
        classes = task.num_classes
        assert classes is not None
        shared = data.rows.stride(0) == 0
        rows = data.rows[:1] if shared else data.rows
        labels = data.targets[rows]
        parts = labels[:, : data.num_train], labels[:, data.num_train :]
        order = torch.cat([part.argsort(stable=True) for part in parts], 1)
        counts = torch.stack([F.one_hot(part, classes).sum(1) for part in parts], 1)
        size = len(data.rows)
        return tuple(x.expand(size, *x.shape[1:]) for x in (labels, order, counts))

    def select(
        self,
        values: Tensor,
        examples: Tensor,
        context: Sequence[Tensor],
        training: bool,
    ) -> Tensor:
        labels, order, counts = context
        split = counts[:, 0].sum(1, keepdim=True)  # examples for training
        held_out = examples >= split
        # 1. The examples of the classes that have joined, numbered from 0.
        found = examples
        for part in (0, 1):
            number = counts[:, part] * values
            ends = number.cumsum(1)
            total = ends[:, -1:]
            rank = (examples * 1_000_003).remainder(total.clamp(min=1))
            label = torch.searchsorted(ends, rank, right=True).clamp(
                max=values.shape[1] - 1
            )
            within = rank - (ends - number).gather(1, label)
            begins = counts[:, part].cumsum(1) - counts[:, part]
            place = (begins.gather(1, label) + within).clamp(max=order.shape[1] - 1)
            offset = split if part else torch.zeros_like(split)
            other = offset + order.gather(1, (offset + place).clamp(max=order.shape[1] - 1))
            found = torch.where((held_out == bool(part)) & (total > 0), other, found)
        # 2. They replace the examples of missing classes.
        known = values.gather(1, labels.gather(1, examples))
        return torch.where(known, examples, found)


class Distribution(Change):
    """Draw new data for the run."""

    def fits(self, task: Task, count: int) -> bool:
        return not isinstance(task, (ModuleTask, CharacterModel))

    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        return np.int64(0 if previous is None else previous + 1)

    def prepare(self, task: Task, data: Data) -> tuple[Tensor, ...]:
        """Return the number of examples of the first stage, which precede the others."""
        return (torch.full((len(data.rows),), data.rows.shape[1]),)

    def place(self, values: Tensor, rows: Tensor, context: Sequence[Tensor]) -> Tensor:
        return rows + (values * context[0]).unsqueeze(1)


class Optimum(Change):
    """Move the minimum of a function."""

    def fits(self, task: Task, count: int) -> bool:
        return isinstance(task, (Function, Quadratic))

    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        if isinstance(task, Function):
            # The first shift lies between minus and plus half of this.
            size, step = task.half_width, rng.uniform(-0.5, 0.5, task.dim)
        else:
            assert isinstance(task, Quadratic)
            size, step = 1.0, rng.standard_normal(task.dim)
        if previous is None:
            return np.zeros(task.dim, np.float32)
        return (previous + size * step).astype(np.float32)

    def apply(
        self, values: Tensor, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        offset = values.unsqueeze(1)
        if inputs.shape[2:] == offset.shape[2:]:  # minima of a quadratic
            return inputs + offset, targets
        shift = targets[:, :, :1] + offset.unsqueeze(1)
        return inputs, torch.cat([shift, targets[:, :, 1:]], 2)


class Text(Change):
    """Read another part of the text; with ``K`` changes it is cut into ``K + 1`` parts."""

    def fits(self, task: Task, count: int) -> bool:
        return isinstance(task, CharacterModel) and min(task.places) >= count + 1

    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        # The number of the part, then the order of those that follow.
        if previous is None:
            return rng.permutation(count + 1)
        return np.roll(previous, -1)

    def prepare(self, task: Task, data: Data) -> tuple[Tensor, ...]:
        """Return the places of passages in the text.

        Returns:
            Number of training places, first validation place, and number of validation
            places, ``[B, 3]``.
        """
        assert isinstance(task, CharacterModel)
        train, validation = task.places
        border = len(data.inputs) - validation
        sizes = torch.tensor([train, border, validation])
        return (sizes.expand(len(data.rows), -1),)

    def place(self, values: Tensor, rows: Tensor, context: Sequence[Tensor]) -> Tensor:
        train, border, validation = context[0].unsqueeze(2).unbind(1)
        part, parts = values[:, :1], values.shape[1]
        held_out = rows >= border
        first = torch.where(held_out, border, 0)
        size = torch.where(held_out, validation, train)
        begin, end = size * part // parts, size * (part + 1) // parts
        return first + begin + (rows - first) * (end - begin) // size


class BatchSize(Change):
    """Change the batch size: to a half, a quarter or an eighth of the task's, or back.

    An odd batch size becomes 1. A smaller batch is filled up by repeating its examples,
    which gives the same loss and gradient, and costs as much as a full batch.
    """

    def fits(self, task: Task, count: int) -> bool:
        return task.batch_size >= 2 and not (task.noise or task.draws)

    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        whole = task.batch_size
        if previous is None:
            return np.int64(whole)
        # Divisors of the batch size, so that all examples are repeated equally often.
        smaller = {whole // part for part in (2, 4, 8) if whole % part == 0} or {1}
        return np.int64(rng.choice(sorted((smaller | {whole}) - {int(previous)})))

    def select(
        self,
        values: Tensor,
        examples: Tensor,
        context: Sequence[Tensor],
        training: bool,
    ) -> Tensor:
        if not training:
            return examples
        span = torch.arange(examples.shape[1], device=examples.device)
        return examples.gather(1, span % values.unsqueeze(1))

    def batch_sizes(self, values: Tensor, whole: int) -> Tensor:
        return values


class Shift(Change):
    """Move the mean of the inputs by a further random vector at each change.

    Each feature moves by about the standard deviation of the features.
    """

    def fits(self, task: Task, count: int) -> bool:
        return task.num_features is not None

    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        assert task.num_features is not None
        if previous is None:
            return np.zeros(task.num_features, np.float32)
        step = rng.standard_normal(task.num_features, dtype=np.float32)
        return previous + step

    def prepare(self, task: Task, data: Data) -> tuple[Tensor, ...]:
        """Return the spread of the inputs of each run."""
        return (_spread(data.inputs, data),)

    def transform(
        self,
        values: Tensor,
        inputs: Tensor,
        targets: Tensor,
        rows: Tensor,
        context: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        offset = (values * context[0].unsqueeze(1)).unsqueeze(1)
        return (inputs.flatten(2) + offset).view(inputs.shape), targets


class Noise(Change):
    """Add noise to the examples, or replace it by other noise.

    A tenth to a half of the class labels are replaced by random ones. Numeric targets get
    normal noise of 0.25 to 1 times their standard deviation; and so do the minima of the
    examples of a quadratic, which makes the gradients noisy. An example keeps its noise
    until the next change.
    """

    def fits(self, task: Task, count: int) -> bool:
        return (task.num_classes or 0) >= 2 or _is_regression(task) or _is_quadratic(task)

    def draw(self, task: Task, rng: np.random.Generator, previous: Any, count: int) -> Any:
        # The amount of noise, and the key of its random numbers, which float32 can hold.
        if previous is None:
            return np.zeros(2, np.float32)
        low, high = (0.25, 1.0) if task.num_classes is None else (0.1, 0.5)
        return np.array([rng.uniform(low, high), rng.integers(2**24)], np.float32)

    def prepare(self, task: Task, data: Data) -> tuple[Tensor, ...]:
        """Return number of classes, and the standard deviations of targets and inputs.

        They are 0 if the task has no classes, or if targets or inputs do not get noise.
        """
        none = torch.zeros(len(data.rows), device=data.rows.device)
        classes = torch.full_like(none, task.num_classes or 0, dtype=torch.int64)
        of_targets = _spread(data.targets, data) if _is_regression(task) else none
        of_inputs = _spread(data.inputs, data) if _is_quadratic(task) else none
        return classes, of_targets, of_inputs

    def transform(
        self,
        values: Tensor,
        inputs: Tensor,
        targets: Tensor,
        rows: Tensor,
        context: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        amount, (classes, of_targets, of_inputs) = values[:, 0], context
        keys = (values[:, 1:].long() << 38) + rows
        if not targets.is_floating_point():
            draw, other = uniform_numbers(_bits(keys, 2)).unbind(2)
            label = (other * classes.unsqueeze(1)).long()
            return inputs, torch.where(draw < amount.unsqueeze(1), label, targets)
        noisy = [
            part + _normal_like(part, keys + place) * (amount * spread).view(-1, 1, 1)
            if part.dim() == 3
            else part
            for place, (part, spread) in enumerate(
                ((inputs, of_inputs), (targets, of_targets))
            )
        ]
        return noisy[0], noisy[1]


def _is_quadratic(task: Task) -> bool:
    return isinstance(task, Quadratic)


def _is_regression(task: Task) -> bool:
    """Return whether the targets of a task are numeric."""
    if isinstance(task, ModuleTask):
        return not task.of_module and task.targets.is_floating_point()
    return isinstance(task, MLP) and task.num_classes is None


#: Largest number of training examples of each run for a standard deviation.
_MEASURED = 256


def _spread(part: Tensor, data: Data) -> Tensor:
    """Return the standard deviation over each run's first examples, ``[B]``.

    It is averaged over the entries of inputs or targets.

    Args:
        part: inputs or targets of all examples.
        data: examples of the runs.
    """
    some = part[data.rows[:, : min(data.num_train, _MEASURED)]].flatten(2)
    some = some if some.is_floating_point() else some.float()
    return some.std(1, correction=0).mean(1)


def _bits(keys: Tensor, count: int) -> Tensor:
    """Compute random bits ``[B, n, count]`` of examples by their keys ``[B, n]``."""
    return random_bits(keys.flatten(), 0, count).unflatten(0, keys.shape)


def _normal_like(part: Tensor, keys: Tensor) -> Tensor:
    """Compute normal numbers ``[B, n, k]`` of examples by their keys ``[B, n]``."""
    return normal_numbers(_bits(keys, part.shape[2])).to(part.dtype)


def _another_order(count: int | None, rng: np.random.Generator, previous: Any) -> Any:
    """Draw a permutation of ``count`` elements that differs from the previous one.

    Without a previous one, return the identity.
    """
    assert count is not None
    if previous is None:
        return np.arange(count)
    while True:
        order = rng.permutation(count)
        if not np.array_equal(order, previous):
            return order
