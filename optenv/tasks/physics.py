"""Physics-informed networks, the tasks of the family ``physics``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import is_number, known, quoted
from .base import set_sizes
from .examples import Batch
from .generated import Examples, GeneratedTask

__all__ = ["EQUATIONS", "Derivatives", "PhysicsInformed", "Problem", "sample_structure"]


class Problem(NamedTuple):
    """A boundary value problem with a known solution, at ``N`` points.

    The equation is ``c_0 u + c_1 u_x + c_2 u_xx + c_3 u_t + c_4 u u_x = f``, a condition at
    the boundary ``b_0 u + b_1 u_x = g``.

    Attributes:
        boundary: points of the boundary, ``[N, D]``.
        coefficients: ``c``, ``[5]``.
        source: ``f`` at the interior points, ``[N]``.
        condition: ``b`` and ``g`` at the points of the boundary, ``[N, 3]``.
        solution: solution ``u`` at the interior points, ``[N]``.
        curvature: ``u_xx`` of the solution at the interior points, ``[N]``.
    """

    boundary: np.ndarray
    coefficients: tuple[float, float, float, float, float]
    source: np.ndarray
    condition: np.ndarray
    solution: np.ndarray
    curvature: np.ndarray


def _dirichlet(values: np.ndarray) -> np.ndarray:
    """Return the condition ``u = values [N]`` at the boundary, ``[N, 3]``."""
    return np.stack([np.ones_like(values), np.zeros_like(values), values], axis=1)


def _sides(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw ends of the interval, ``[count]``."""
    return rng.choice((-1.0, 1.0), count)


def _boundary_in_time(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw points at time 0 (a third of them) and at both ends, ``[count, 2]``."""
    start = rng.random(count) < 1 / 3
    x = np.where(start, rng.uniform(-1.0, 1.0, count), _sides(rng, count))
    return np.stack([x, np.where(start, 0.0, rng.random(count))], axis=1)


def _sines(rng: np.random.Generator, modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw wave numbers and amplitudes of a sine series that is 0 at both ends.

    The mean square of the series is 1.
    """
    orders = np.arange(1, modes + 1)
    amplitudes = rng.standard_normal(modes) / orders
    return orders * (math.pi / 2), amplitudes * math.sqrt(2 / np.square(amplitudes).sum())


def _poisson(rng: np.random.Generator, points: np.ndarray) -> Problem:
    waves, amplitudes = _sines(rng, 3)
    terms = amplitudes * np.sin(waves * (points + 1.0))
    curvature = -(terms * waves**2).sum(1)
    boundary = _sides(rng, len(points))[:, None]
    return Problem(
        boundary=boundary,
        coefficients=(0.0, 0.0, 1.0, 0.0, 0.0),
        source=curvature,
        condition=_dirichlet(np.zeros(len(points))),
        solution=terms.sum(1),
        curvature=curvature,
    )


def _oscillator(rng: np.random.Generator, points: np.ndarray) -> Problem:
    frequency, damping = rng.uniform(3.0, 6.0), rng.uniform(0.2, 1.5)
    damped = math.sqrt(frequency**2 - damping**2)
    time = points[:, 0] + 1.0
    decay = np.exp(-damping * time)
    sine, cosine = np.sin(damped * time) / damped, np.cos(damped * time)
    solution = decay * (cosine + damping * sine)
    slope = -(frequency**2) * decay * sine
    # It starts at rest at 1: half of the conditions set the position, half the velocity.
    moves = rng.random(len(points)) < 0.5
    at_rest = np.array([[1.0, 0.0, 1.0], [0.0, 1.0 / frequency, 0.0]])
    return Problem(
        boundary=np.full_like(points, -1.0),
        coefficients=(frequency**2, 2.0 * damping, 1.0, 0.0, 0.0),
        source=np.zeros(len(points)),
        condition=at_rest[moves.astype(np.int64)],
        solution=solution,
        curvature=-(frequency**2) * solution - 2.0 * damping * slope,
    )


def _heat(rng: np.random.Generator, points: np.ndarray) -> Problem:
    waves, amplitudes = _sines(rng, 2)
    diffusivity = math.exp(rng.uniform(math.log(0.05), math.log(0.3)))

    def terms(at: np.ndarray) -> np.ndarray:
        decay = np.exp(-diffusivity * waves**2 * at[:, 1:])
        return amplitudes * decay * np.sin(waves * (at[:, :1] + 1.0))

    boundary, inside = _boundary_in_time(rng, len(points)), terms(points)
    return Problem(
        boundary=boundary,
        coefficients=(0.0, 0.0, -diffusivity, 1.0, 0.0),
        source=np.zeros(len(points)),
        condition=_dirichlet(terms(boundary).sum(1)),
        solution=inside.sum(1),
        curvature=-(inside * waves**2).sum(1),
    )


def _burgers(rng: np.random.Generator, points: np.ndarray) -> Problem:
    viscosity = math.exp(rng.uniform(math.log(0.05), math.log(0.3)))
    height, speed = rng.uniform(0.5, 1.0), rng.uniform(-0.5, 0.5)
    start, steepness = rng.uniform(-0.3, 0.3), height / (2.0 * viscosity)

    def front(at: np.ndarray) -> np.ndarray:
        return np.tanh(steepness * (at[:, 0] - start - speed * at[:, 1]))

    boundary, inside = _boundary_in_time(rng, len(points)), front(points)
    return Problem(
        boundary=boundary,
        coefficients=(0.0, 0.0, -viscosity, 1.0, 1.0),
        source=np.zeros(len(points)),
        condition=_dirichlet(speed - height * front(boundary)),
        solution=speed - height * inside,
        curvature=2.0 * height * steepness**2 * inside * (1.0 - inside**2),
    )


class Equation(NamedTuple):
    """A kind of problem.

    Attributes:
        problem: function ``(rng, interior points [N, D])`` that draws a problem.
        coordinates: ``D``: 1 for x in [-1, 1]; 2 for x, and t in [0, 1].
        slopes: whether conditions at the boundary contain derivatives.
    """

    problem: Callable[[np.random.Generator, np.ndarray], Problem]
    coordinates: int
    slopes: bool = False


#: Equations by name.
EQUATIONS: dict[str, Equation] = {
    "poisson": Equation(_poisson, 1),
    "oscillator": Equation(_oscillator, 1, slopes=True),
    "heat": Equation(_heat, 2),
    "burgers": Equation(_burgers, 2),
}


class Derivatives(NamedTuple):
    """Outputs of networks and their derivatives, ``[B, n]`` each.

    Attributes:
        u: outputs, at all ``n`` points.
        u_x: first derivatives with respect to x, at the first ``slopes`` points.
        u_xx: second derivatives with respect to x, at the first ``interior`` points.
        u_t: first derivatives with respect to t, at the first ``interior`` points; zeros
            for equations without t.
    """

    u: Tensor
    u_x: Tensor
    u_xx: Tensor
    u_t: Tensor


@dataclass(frozen=True)
class PhysicsInformed(GeneratedTask):
    r"""Solve a differential equation with a network whose loss is the residual.

    A tanh network :math:`u_\theta(x)` or :math:`u_\theta(x, t)` on [-1, 1], with t in [0,
    1], is trained as a physics-informed network (Raissi et al., 2019) by

    .. math:: \frac1n \sum_i (N[u_\theta](x_i) - f(x_i))^2 / r^2
        + \lambda \frac1n \sum_i (b_i[u_\theta](y_i) - g(y_i))^2

    with random points :math:`x_i` of the interior and :math:`y_i` of the boundary. The
    scale :math:`r` is the root mean square of the second-order term of :math:`N` at the
    solution. Each run draws its own coefficients, initial or boundary values, points, and
    gain of the initial weights. The solution is known:

    - ``poisson``: :math:`u_{xx} = f`, 0 at both ends; a sum of three sines.
    - ``oscillator``: :math:`u_{xx} + 2 \delta u_x + \omega^2 u = 0`, where x is the time,
      from rest at 1; a damped cosine.
    - ``heat``: :math:`u_t = \kappa u_{xx}`, 0 at both ends; two sines that decay.
    - ``burgers``: :math:`u_t + u u_x = \nu u_{xx}`; a travelling front.

    The loss of rewards and validation is not the residual but the mean squared error
    against the solution at the interior points. A run that lowers its training loss can
    raise this error for a while.

    Attributes:
        equation: name of the equation, a key of :data:`EQUATIONS`.
        width: units of each hidden layer.
        depth: number of hidden layers, at least 1.
        boundary_weight: weight of the conditions at the boundary, :math:`\lambda`.
        init_spread: standard deviation of the log gain of a run's initial weights.

    Raises:
        ValueError: a value is not valid.

    Example::

        task = PhysicsInformed(equation="burgers", width=32, depth=3)
        env = gym.make("optenv/LearningRate-v0", tasks=task, base_lr=3e-3)
    """

    batch_size: int = 32
    num_train: int = 512
    num_validation: int = 128
    equation: str = "poisson"
    width: int = 20
    depth: int = 2
    boundary_weight: float = 10.0
    init_spread: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        known("equation", self.equation, EQUATIONS)
        set_sizes(self, "width", "depth")
        for name in ("boundary_weight", "init_spread"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < math.inf:
                raise ValueError(
                    f"{name} must be a finite number, at least 0, got {quoted(value)}"
                )

    @property
    def coordinates(self) -> int:
        """Number of inputs of the network, ``D``."""
        return EQUATIONS[self.equation].coordinates

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        # Weight [out, in] before bias, as in torch.nn.Linear.
        sizes = (self.coordinates, *[self.width] * self.depth, 1)
        shapes: list[tuple[int, ...]] = []
        for fan_in, fan_out in pairwise(sizes):
            shapes += [(fan_out, fan_in), (fan_out,)]
        return tuple(shapes)

    @property
    def example_numbers(self) -> int:
        return 2 * self.coordinates + 10

    @property
    def work(self) -> int:
        # Per example: outputs at two points, and two or three derivatives at one or both.
        columns = 3 + self.coordinates + EQUATIONS[self.equation].slopes
        return super().work * columns

    def examples(self, rng: np.random.Generator) -> Examples:
        """Draw points, and the numbers that the loss needs at each of them.

        Returns:
            Points of the interior and of the boundary, ``[N, 2, D]``; and 10 numbers for
            each pair, ``[N, 10]``: coefficients of the equation and its source, divided by
            ``r``, the condition at the boundary, and the solution in the interior.
        """
        total = self.num_train + self.num_validation
        points = rng.uniform(-1.0, 1.0, (total, self.coordinates))
        points[:, 1:] = 0.5 * (points[:, 1:] + 1.0)
        problem = EQUATIONS[self.equation].problem(rng, points)
        coefficients = np.array(problem.coefficients)
        scale = abs(coefficients[2]) * math.sqrt(np.square(problem.curvature).mean())
        inputs = np.stack([points, problem.boundary], axis=1)
        parts = [
            np.broadcast_to(coefficients / scale, (total, 5)),
            problem.source[:, None] / scale,
            problem.condition,
            problem.solution[:, None],
        ]
        return inputs.astype(np.float32), np.concatenate(parts, axis=1, dtype=np.float32)

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        return torch.from_numpy(np.stack([self._init(g) for g in generators]))

    def _init(self, rng: np.random.Generator) -> np.ndarray:
        # Weights as Glorot and Bengio (2010), times the run's gain. Biases of the first
        # layer spread the bends of its units over the interval.
        gain = np.exp(self.init_spread * rng.standard_normal())
        parts = []
        for layer, shape in enumerate(self.shapes[::2]):
            spread = gain * math.sqrt(6.0 / sum(shape))
            parts.append(rng.uniform(-spread, spread, math.prod(shape)))
            parts.append(rng.uniform(-1.0, 1.0, shape[0]) * (spread if layer == 0 else 0.0))
        return np.concatenate(parts).astype(np.float32)

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.residual_loss(params, batch.inputs, batch.targets), buffers

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean squared error against the solution, ``[B]``."""
        outputs = self.outputs(params, inputs[:, :, 0])
        return (outputs - targets[..., -1]).square().mean(-1)

    def residual_loss(
        self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor
    ) -> Tensor:
        """Compute the training loss ``[B]``: residuals of equation and conditions.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            inputs: points ``[B, n, 2, D]``, see :meth:`examples`.
            targets: ``[B, n, 10]``, see :meth:`examples`.
        """
        count = inputs.shape[1]
        slopes = EQUATIONS[self.equation].slopes
        # Points of the interior, then of the boundary.
        points = inputs.transpose(1, 2).flatten(1, 2)
        u, u_x, u_xx, u_t = self.derivatives(
            params, points, interior=count, slopes=2 * count if slopes else count
        )
        inside, inside_x = u[:, :count], u_x[:, :count]
        c = targets.unbind(-1)
        residual = c[0] * inside + c[1] * inside_x + c[2] * u_xx - c[5]
        if self.coordinates == 2:
            residual = residual + c[3] * u_t + c[4] * inside * inside_x
        violation = c[6] * u[:, count:] - c[8]
        if slopes:
            violation = violation + c[7] * u_x[:, count:]
        weighted = residual.square() + self.boundary_weight * violation.square()
        return weighted.mean(-1)

    def outputs(self, params: tuple[Tensor, ...], points: Tensor) -> Tensor:
        """Compute the outputs ``[B, n]`` of the networks at points ``[B, n, D]``."""
        hidden = points.mT
        for weight, bias in _layers(params)[:-1]:
            hidden = torch.baddbmm(bias.unsqueeze(2), weight, hidden).tanh()
        weight, bias = _layers(params)[-1]
        return torch.baddbmm(bias.unsqueeze(2), weight, hidden).squeeze(1)

    def derivatives(
        self, params: tuple[Tensor, ...], points: Tensor, interior: int, slopes: int
    ) -> Derivatives:
        """Compute outputs and their derivatives with respect to the coordinates.

        In forward mode, each layer maps values, first and second derivatives together, by
        one product with its weight.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            points: ``[B, n, D]``.
            interior: number of points, the first ones, at which to compute ``u_xx`` and
                ``u_t``.
            slopes: number of points, the first ones, at which to compute ``u_x``; at least
                ``interior``.
        """
        layers, runs, total = _layers(params), len(points), points.shape[1]
        in_time = self.coordinates == 2
        # Columns of a layer: values, u_x, u_xx and u_t at their points.
        columns = [total, slopes, interior, interior if in_time else 0]
        # 1. The first layer: derivatives of its inputs are 1 or 0.
        weight, bias = layers[0]
        values = torch.baddbmm(bias.unsqueeze(2), weight, points.mT)
        by_x = weight[:, :, :1]
        parts = [values, by_x, None, weight[:, :, 1:] if in_time else None]
        # 2. Each activation, then the next layer.
        for weight, bias in layers[1:]:
            hidden = _tanh(parts, interior, slopes)
            product = torch.bmm(weight, torch.cat(hidden, dim=2))
            split = product.split(columns, dim=2)
            parts = [
                split[0] + bias.unsqueeze(2),
                *split[1:3],
                split[3] if in_time else None,
            ]
        u, u_x, u_xx, u_t = (None if part is None else part.squeeze(1) for part in parts)
        assert u is not None and u_x is not None and u_xx is not None
        return Derivatives(
            u, u_x, u_xx, u.new_zeros(runs, interior) if u_t is None else u_t
        )


def _layers(params: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of each layer."""
    return list(zip(params[::2], params[1::2], strict=True))


def _tanh(parts: Sequence[Tensor | None], interior: int, slopes: int) -> list[Tensor]:
    """Apply tanh to values and derivatives, by the chain rule.

    Args:
        parts: values ``[B, w, n]``, and their derivatives: first with respect to x
            ``[B, w, slopes]``, second with respect to x and first with respect to t
            ``[B, w, interior]``. A single column stands for all points, None for zeros.
        interior, slopes: see :meth:`PhysicsInformed.derivatives`.

    Returns:
        The same parts of the activations; without the last if it is None.
    """
    values, by_x, by_xx, by_t = parts
    assert values is not None and by_x is not None
    outputs = values.tanh()
    slope = 1.0 - _first(outputs, slopes).square()
    first = slope * by_x
    # The second derivative of tanh is -2 tanh (1 - tanh^2).
    inside, inner = _first(outputs, interior), _first(slope, interior)
    square = _first(first, interior) * _first(by_x, interior)
    if by_xx is None:
        second = -2.0 * inside * square
    else:
        second = torch.addcmul(inner * by_xx, inside, square, value=-2.0)
    return [outputs, first, second, *([] if by_t is None else [inner * by_t])]


def _first(x: Tensor, count: int) -> Tensor:
    """Return the first columns of ``x [B, w, n]``; a single column stands for all."""
    # A slice of everything would cost a copy in the backward pass.
    return x if x.shape[2] in (1, count) else x[:, :, :count]


# The splits differ in width, and the equations of "ood" are in no other split.
_SPLITS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "train": (("poisson", "oscillator"), (12, 16, 24, 32)),
    "test": (("poisson", "oscillator", "heat"), (14, 20, 40)),
    "ood": (("burgers",), (18, 28, 48)),
}


def sample_structure(rng: np.random.Generator, split: str) -> PhysicsInformed:
    """Draw a physics-informed network.

    The widths of the splits are disjoint; ``heat`` is not in ``"train"``, and ``burgers``
    only in ``"ood"``.

    Args:
        rng: generator.
        split: ``"train"``, ``"test"`` or ``"ood"``.

    Raises:
        ValueError: the split is unknown.
    """
    known("split", split, _SPLITS)
    equations, widths = _SPLITS[split]
    return PhysicsInformed(
        equation=str(rng.choice(equations)),
        width=int(rng.choice(widths)),
        depth=int(rng.integers(1, 4)),
        batch_size=int(rng.choice((16, 32, 64))),
        num_train=int(rng.choice((256, 1024))),
    )
