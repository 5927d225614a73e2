"""Test functions of optimization, the tasks of the family ``functions``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import is_number, known, positive_int, quoted
from .examples import Batch, Data
from .generated import Examples, GeneratedTask

__all__ = ["FORMULAS", "Formula", "Function", "sample_structure"]


class Formula(NamedTuple):
    """A published test function.

    Attributes:
        value: function of points ``[..., dim]``, minus its minimum: ``[...]``.
        radius: half the width of the usual domain, which is centred at 0.
        minimizers: points where the minimum is attained; a single number stands for all
            coordinates.
        minimum: published minimum, divided by the dimension.
        dims: smallest and largest dimension.
    """

    value: Callable[[Tensor], Tensor]
    radius: float
    minimizers: tuple[float | tuple[float, ...], ...]
    minimum: float = 0.0
    dims: tuple[int, float] = (1, math.inf)


def _quadratic(z: Tensor) -> Tensor:
    return 0.5 * z.square().sum(-1)


def _rosenbrock(z: Tensor) -> Tensor:
    first, second = z[..., :-1], z[..., 1:]
    valley = second - first.square()
    return (100.0 * valley.square() + (1.0 - first).square()).sum(-1)


def _beale(z: Tensor) -> Tensor:
    x, y = z.unbind(-1)
    return (
        (1.5 - x * (1.0 - y)).square()
        + (2.25 - x * (1.0 - y**2)).square()
        + (2.625 - x * (1.0 - y**3)).square()
    )


def _rastrigin(z: Tensor) -> Tensor:
    # 1 - cos(2a) = 2 sin(a)**2 keeps the digits near the minimum.
    return (z.square() + 20.0 * (math.pi * z).sin().square()).sum(-1)


#: Root of 4 z^3 - 32 z + 5, where each term of Styblinski-Tang has its minimum.
_STYBLINSKI_TANG = -2.9035340277711770


def _styblinski_tang(z: Tensor) -> Tensor:
    # The minimum is a double root of (z^4 - 16 z^2 + 5 z) / 2 minus its least value. The
    # other factor is positive.
    root = _STYBLINSKI_TANG
    other = z.square() + 2.0 * root * z + (3.0 * root**2 - 16.0)
    return 0.5 * ((z - root).square() * other).sum(-1)


def _himmelblau(z: Tensor) -> Tensor:
    x, y = z.unbind(-1)
    return (x.square() + y - 11.0).square() + (x + y.square() - 7.0).square()


def _ackley(z: Tensor) -> Tensor:
    # The norm has the gradient 0 at 0, where the function has a kink.
    distance = torch.linalg.vector_norm(z, dim=-1) / math.sqrt(z.shape[-1])
    waves = (math.pi * z).sin().square().mean(-1)
    return -20.0 * (-0.2 * distance).expm1() - math.e * (-2.0 * waves).expm1()


def _levy(z: Tensor) -> Tensor:
    offset = (z - 1.0) / 4.0  # w - 1
    head, last = offset[..., :-1], offset[..., -1]
    first = (math.pi * offset[..., 0]).sin().square()
    wave = (math.pi * (1.0 + head) + 1.0).sin().square()
    end = (2.0 * math.pi * last).sin().square()
    rest = (head.square() * (1.0 + 10.0 * wave)).sum(-1)
    return first + rest + last.square() * (1.0 + end)


#: Test functions by name.
FORMULAS: dict[str, Formula] = {
    "quadratic": Formula(_quadratic, 1.0, (0.0,)),
    "rosenbrock": Formula(_rosenbrock, 2.048, (1.0,), dims=(2, math.inf)),
    "beale": Formula(_beale, 4.5, ((3.0, 0.5),), dims=(2, 2)),
    "rastrigin": Formula(_rastrigin, 5.12, (0.0,)),
    "styblinski-tang": Formula(
        _styblinski_tang, 5.0, (_STYBLINSKI_TANG,), minimum=-39.166165703771415
    ),
    "himmelblau": Formula(
        _himmelblau,
        5.0,
        (
            (3.0, 2.0),
            (-2.8051180869527448, 3.1313125182505729),
            (-3.7793102533777469, -3.2831859912861694),
            (3.5844283403304917, -1.8481265269644034),
        ),
        dims=(2, 2),
    ),
    "ackley": Formula(_ackley, 5.0, (0.0,)),
    "levy": Formula(_levy, 10.0, (1.0,)),
}


@dataclass(frozen=True)
class Function(GeneratedTask):
    r"""Minimise a test function with a random shift and rotation for every run.

    The loss at parameters :math:`\theta` is :math:`f(\rho R (\theta - s)) - \min f` with a
    random rotation or reflection :math:`R`, a random shift :math:`s` and the half-width
    :math:`\rho` of the usual domain of :math:`f`. So parameters are of the order of 1, as
    in networks. Shift and initial parameters are uniform between -1/2 and 1/2 in each
    coordinate, so that without rotation a run begins within the usual domain.

    Without ``gradient_noise`` the gradient is exact. With it the loss of an example is
    :math:`f + \sigma g \, \xi^T (\theta - s) / \sqrt{\dim}`, where :math:`\xi` is standard
    normal and :math:`g` is :attr:`typical_gradient`: the noise of the gradient has a norm
    of about :math:`\sigma g`. So the training loss may be below the minimum. Rewards and
    validation are free of noise. All examples of a run have the same function, and larger
    batches only average the noise.

    Functions: ``quadratic`` (:math:`\frac12 \sum h_i z_i^2`), ``rosenbrock`` (1960; the
    chain of its terms in higher dimensions), ``beale`` (1955; two dimensions),
    ``rastrigin`` (1974), ``styblinski-tang`` (1990), ``himmelblau`` (1972; two dimensions
    and four minima), ``ackley`` (1987; has a kink at its minimum) and ``levy`` (Levy and
    Montalvo, 1985). Shifts and rotations as in the suites of Suganthan et al. (2005).

    Attributes:
        function: name of the function, a key of :data:`FORMULAS`.
        dim: number of parameters; 2 for ``beale`` and ``himmelblau``.
        gradient_noise: norm of the noise of the gradient, :math:`\sigma`, relative to
            :attr:`typical_gradient`.
        condition: condition number of ``quadratic``, whose curvatures are evenly spaced in
            the logarithm from 1 down to its inverse.
        spectrum: ``dim`` curvatures of ``quadratic``, used instead of ``condition``.
        rotate: whether each run has a random rotation; otherwise it has none.
        shift: whether each run has a random shift; otherwise it has none.
        unit_domain: whether parameters are in units of the half-width of the usual domain;
            otherwise in units of the published formula.
        subtract_minimum: whether the published minimum is subtracted, so that the least
            loss is 0 and losses have meaningful ratios (see :mod:`optenv.rewards`). Only
            ``styblinski-tang`` has a published minimum other than 0.
        normalize: whether the loss is divided by :attr:`typical_gradient`, so that one
            learning rate of gradient descent suits all functions.

    Raises:
        ValueError: a value is not valid, or the function does not exist in ``dim``
            dimensions.

    Example::

        task = Function(function="rosenbrock", dim=2, gradient_noise=0.1)
        env = gym.make("optenv/LearningRate-v0", tasks=task, base_lr=1e-2)
    """

    batch_size: int = 1
    num_train: int = 1
    num_validation: int = 1
    function: str = "rosenbrock"
    dim: int = 2
    gradient_noise: float = 0.0
    condition: float = 100.0
    spectrum: tuple[float, ...] = ()
    rotate: bool = True
    shift: bool = True
    unit_domain: bool = True
    subtract_minimum: bool = True
    normalize: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # 1. The function and its dimension.
        known("function", self.function, FORMULAS)
        object.__setattr__(self, "dim", positive_int("dim", self.dim))
        low, high = FORMULAS[self.function].dims
        if not low <= self.dim <= high:
            limit = f"at least {low}" if high == math.inf else f"{low}"
            raise ValueError(f"dim of {self.function!r} must be {limit}, got {self.dim}")
        # 2. Numbers.
        for name, least in (("gradient_noise", 0.0), ("condition", 1.0)):
            value = getattr(self, name)
            if not is_number(value) or not least <= value < math.inf:
                raise ValueError(
                    f"{name} must be a finite number, at least {least:g}, "
                    f"got {quoted(value)}"
                )
        spectrum = tuple(self.spectrum)
        object.__setattr__(self, "spectrum", spectrum)
        sound = all(is_number(h) and 0 < h < math.inf for h in spectrum)
        if spectrum and (not sound or len(spectrum) != self.dim):
            raise ValueError(
                f"spectrum must have {self.dim} positive numbers, got {quoted(spectrum)}"
            )
        if spectrum and self.function != "quadratic":
            raise ValueError(
                f"spectrum is for function 'quadratic', got it with {self.function!r}"
            )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.dim,),)

    @property
    def noise(self) -> int:
        return self.dim if self.gradient_noise else 0

    @property
    def example_numbers(self) -> int:
        return (self.dim**2 if self.rotate else 0) + 2 * self.dim

    @property
    def drawing_numbers(self) -> int:
        return 6 * self.dim**2 if self.rotate else 0  # for the QR decomposition

    @property
    def work(self) -> int:
        # The rotation; about four products a coordinate; the noise.
        rotation = self.dim**2 if self.rotate else 0
        return rotation + 4 * self.dim + self.noise * self.batch_size

    @property
    def minimum(self) -> float:
        """Least loss without noise: 0, or the published minimum if it is not subtracted."""
        if self.subtract_minimum:
            return 0.0
        return FORMULAS[self.function].minimum * self.dim * self._factor

    @cached_property
    def typical_gradient(self) -> float:
        """Median norm of the gradient of ``f`` at initial parameters, without rotation."""
        rng = np.random.default_rng(0)
        ends = rng.uniform(-0.5, 0.5, (2, 4096, self.dim)) * self.half_width
        begin = ends[0] - ends[1] if self.shift else ends[0]
        with torch.enable_grad():
            offset = torch.from_numpy(begin).requires_grad_()
            values = self._formula(offset, torch.from_numpy(self._roots))
            (gradient,) = torch.autograd.grad(values.sum(), offset)
        return float(gradient.norm(dim=-1).median())

    @property
    def _length(self) -> float:
        """Unit of the parameters, in units of the published formula."""
        return FORMULAS[self.function].radius if self.unit_domain else 1.0

    @property
    def half_width(self) -> float:
        """Half-width of the usual domain in units of the parameters."""
        return FORMULAS[self.function].radius / self._length

    @property
    def _roots(self) -> np.ndarray:
        """Square roots of the curvatures of ``quadratic``, ``[dim]``."""
        exponents = -np.arange(self.dim) / max(1, self.dim - 1)
        return np.sqrt(self.spectrum or float(self.condition) ** exponents)

    @cached_property
    def _factor(self) -> float:
        """Factor by which the loss is multiplied."""
        return 1.0 / self.typical_gradient if self.normalize else 1.0

    def examples(self, rng: np.random.Generator) -> Examples:
        total = self.num_train + self.num_validation
        rotation, shift = np.empty((0,)), np.zeros(self.dim)
        if self.rotate:
            # These signs make it uniform among orthogonal matrices (Mezzadri, 2007).
            rotation, triangle = np.linalg.qr(rng.standard_normal((self.dim, self.dim)))
            rotation *= np.sign(np.diag(triangle))
        if self.shift:
            shift = self.half_width * rng.uniform(-0.5, 0.5, self.dim)
        parts = [shift, self._roots] if self.function == "quadratic" else [shift]
        instance = np.stack(parts).astype(np.float32)
        return (
            np.broadcast_to(rotation.astype(np.float32), (total, *rotation.shape)),
            np.broadcast_to(instance, (total, *instance.shape)),
        )

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        draws = [g.uniform(-0.5, 0.5, self.dim) for g in generators]
        return torch.from_numpy((self.half_width * np.stack(draws)).astype(np.float32))

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        offset = params[0] - targets[:, 0, 0]
        return self._value(offset.unsqueeze(1), inputs, targets).squeeze(1)

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss = self.loss(params, batch.inputs, batch.targets)
        if self.gradient_noise:
            size = self.gradient_noise * self.typical_gradient * self._factor
            slope = batch.noise.mean(1) * (size / math.sqrt(self.dim))
            loss = loss + (slope * (params[0] - batch.targets[:, 0, 0])).sum(-1)
        return loss, buffers

    def _value(self, offset: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss ``[B, m]`` at points ``[B, m, dim]`` relative to the shift."""
        # All examples of a run are the same: take the first.
        if self.rotate:
            offset = torch.bmm(offset, inputs[:, 0].mT)
        value = self._formula(offset, targets[:, :1, -1])
        if not self.subtract_minimum:
            value = value + FORMULAS[self.function].minimum * self.dim
        return value * self._factor if self.normalize else value

    def _formula(self, offset: Tensor, roots: Tensor) -> Tensor:
        """Compute the published function minus its minimum, ``[...]``.

        Args:
            offset: rotated parameters relative to the shift, ``[..., dim]``.
            roots: square roots of the curvatures of ``quadratic``; others ignore them.
        """
        points = offset * self._length
        if self.function == "quadratic":
            points = points * roots
        return FORMULAS[self.function].value(points)

    def minimizers(self, data: Data) -> Tensor:
        """Compute the parameters at which the loss without noise is least.

        Args:
            data: data of ``B`` runs.

        Returns:
            The ``M`` global minima of each run, ``[B, M, dim]``; ``M`` is 4 for
            ``himmelblau`` and 1 otherwise.
        """
        inputs, targets = data.train(1)
        known = [np.broadcast_to(z, self.dim) for z in FORMULAS[self.function].minimizers]
        points = torch.from_numpy(np.array(known)).to(targets) / self._length
        points = points.expand(len(targets), -1, -1)
        if self.rotate:
            # Solved instead of transposed: the rotation is rounded to float32.
            points = torch.linalg.solve(inputs[:, 0], points.mT).mT
        points = points + targets[:, :1, 0]
        return points if data.scale is None else points / data.scale.unsqueeze(1)

    def surface(self, data: Data, first: Tensor, second: Tensor) -> Tensor:
        """Compute the loss without noise on a grid of parameters, to draw its contours.

        Args:
            data: data of ``B`` runs.
            first: values of the first parameter, ``[W]``.
            second: values of the second parameter, ``[H]``.

        Returns:
            Losses ``[B, H, W]``, as an image: rows are values of the second parameter.

        Raises:
            ValueError: the function does not have two dimensions.

        Example::

            axis = torch.linspace(-1, 1, 101)
            values = task.surface(data, axis, axis)
            plt.contour(axis, axis, values[0].log())
        """
        if self.dim != 2:
            raise ValueError(f"surface needs dim 2, got {self.dim}")
        inputs, targets = data.train(1)
        points = torch.cartesian_prod(second, first).flip(-1).to(targets)
        points = points.expand(len(targets), -1, -1)
        if data.scale is not None:
            points = points * data.scale.unsqueeze(1)
        values = self._value(points - targets[:, :1, 0], inputs, targets)
        return values.unflatten(1, (len(second), len(first)))


# The splits differ in dimension or in functions: those of "ood" are in no other split.
_SPLITS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "train": (
        ("quadratic", "rosenbrock", "rastrigin", "styblinski-tang", "himmelblau"),
        (2, 4, 8, 16, 32),
    ),
    "test": (
        ("quadratic", "rosenbrock", "rastrigin", "styblinski-tang", "levy"),
        (3, 6, 12, 24),
    ),
    "ood": (("ackley", "beale"), (5, 10, 20, 48)),
}


def sample_structure(rng: np.random.Generator, split: str) -> Function:
    """Draw a test function.

    The dimensions of ``"train"`` and ``"test"`` are disjoint, and ``levy`` is not in
    ``"train"``. The functions of ``"ood"`` are in no other split.

    Args:
        rng: generator.
        split: ``"train"``, ``"test"`` or ``"ood"``.

    Raises:
        ValueError: the split is unknown.
    """
    known("split", split, _SPLITS)
    functions, dims = _SPLITS[split]
    function, dim = str(rng.choice(functions)), int(rng.choice(dims))
    noise, condition = rng.choice((0.0, 0.03, 0.3)), rng.choice((10.0, 100.0, 1000.0))
    return Function(
        function=function,
        dim=2 if FORMULAS[function].dims == (2, 2) else dim,
        gradient_noise=float(noise),
        condition=float(condition),
        normalize=True,
    )
