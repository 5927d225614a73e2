"""Classical control problems in torch, batched over runs and episodes.

Physical constants are a tensor ``[B, n, K]``, states ``[B, n, S]``. Cart-pole and pendulum
have the equations of Gymnasium's ``CartPole-v1`` and ``Pendulum-v1``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["SYSTEMS", "CartPole", "Pendulum", "Reaching", "System"]

#: Lowest and highest value of each physical constant, by split.
Ranges = Mapping[str, tuple[tuple[float, float], ...]]


class System(ABC):
    """Base of systems that a policy controls.

    Attributes:
        constants: names of the physical constants, ``K`` of them.
        ranges: their ranges by split, which do not overlap.
        start_size: number of random numbers from which an initial state is made.
        observation_size: number of observed quantities.
        action_size: number of actions: logits if they are discrete, forces otherwise.
        discrete: whether an action is a choice between two forces, so that the reward has
            no derivative with respect to it.
    """

    constants: ClassVar[tuple[str, ...]]
    ranges: ClassVar[Ranges]
    start_size: ClassVar[int]
    observation_size: ClassVar[int]
    action_size: ClassVar[int]
    discrete: ClassVar[bool]

    @abstractmethod
    def start(self, noise: Tensor) -> Tensor:
        """Make initial states ``[B, n, S]``.

        Args:
            noise: standard normal numbers ``[B, n, start_size]``.
        """

    @abstractmethod
    def observe(self, state: Tensor) -> Tensor:
        """Return the observations ``[B, n, observation_size]`` of states."""

    def lasts(self, state: Tensor) -> Tensor:
        """Return 1 for each episode ``[B, n]`` that continues, 0 for those at an end."""
        return torch.ones_like(state[..., 0])

    @abstractmethod
    def step(
        self, state: Tensor, action: Tensor, constants: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance the states by one step.

        Args:
            state: ``[B, n, S]``.
            action: ``[B, n, action_size]``; 0 or 1 if discrete.
            constants: physical constants ``[B, n, K]``.

        Returns:
            The new states, and the rewards ``[B, n]``. The mean reward of an episode is of
            the order of 1.
        """


class CartPole(System):
    r"""Balance a pole on a cart that is pushed left or right (Barto et al., 1983).

    With force :math:`F = \pm 10`, masses :math:`m_c, m_p`, half-length :math:`l` and total
    mass :math:`m = m_c + m_p`,

    .. math::
        u = \frac{F + m_p l \dot\theta^2 \sin\theta}{m}, \quad
        \ddot\theta = \frac{g \sin\theta - u \cos\theta}
        {l (4/3 - m_p \cos^2\theta / m)}, \quad
        \ddot x = u - \frac{m_p l \ddot\theta \cos\theta}{m},

    by Euler steps of 0.02 s. The reward is 1 until the cart has left :math:`|x| \le 2.4` or
    the pole :math:`|\theta| \le 12°`, and 0 afterwards. The state has a fifth number, 1
    while the episode lasts.
    """

    constants = ("pole half-length", "pole mass", "cart mass")
    ranges = {
        "train": ((0.4, 0.7), (0.07, 0.15), (0.7, 1.4)),
        "test": ((0.25, 0.4), (0.15, 0.3), (0.5, 0.7)),
        "ood": ((0.7, 1.5), (0.3, 1.0), (1.4, 3.0)),
    }
    start_size, observation_size, action_size, discrete = 4, 4, 1, True

    gravity, force, interval = 9.8, 10.0, 0.02
    max_position, max_angle = 2.4, 12 * 2 * math.pi / 360
    #: Bound of the uniform distribution of each number of the initial state.
    spread = 0.05

    def start(self, noise: Tensor) -> Tensor:
        uniform = (2.0 * torch.special.ndtr(noise) - 1.0) * self.spread
        return torch.cat([uniform, torch.ones_like(noise[..., :1])], -1)

    def observe(self, state: Tensor) -> Tensor:
        return state[..., :4]

    def lasts(self, state: Tensor) -> Tensor:
        return state[..., 4]

    def step(
        self, state: Tensor, action: Tensor, constants: Tensor
    ) -> tuple[Tensor, Tensor]:
        _, velocity, angle, turning, alive = state.unbind(-1)
        length, pole, cart = constants.unbind(-1)
        total = pole + cart
        sine, cosine = angle.sin(), angle.cos()
        force = (2.0 * action.squeeze(-1) - 1.0) * self.force
        push = (force + pole * length * turning.square() * sine) / total
        angular = (self.gravity * sine - cosine * push) / (
            length * (4.0 / 3.0 - pole * cosine.square() / total)
        )
        linear = push - pole * length * angular * cosine / total
        rates = torch.stack([velocity, linear, turning, angular], -1)
        # A finished episode keeps its state, so that its numbers cannot overflow.
        moved = state[..., :4] + self.interval * rates * alive.unsqueeze(-1)
        inside = (moved[..., 0].abs() <= self.max_position) & (
            moved[..., 2].abs() <= self.max_angle
        )
        # The step in which an episode ends is rewarded, too.
        return torch.cat([moved, (alive * inside).unsqueeze(-1)], -1), alive


class Reaching(System):
    r"""Move a point mass to a goal in the plane by forces.

    :math:`m \dot v = F - c v`, :math:`\dot x = v` by semi-implicit Euler steps of 0.1 s,
    with mass :math:`m` and friction :math:`c`. Start and goal are normal with variance 1/4
    in each coordinate; the reward is :math:`-\|x - x^*\|^2 - 0.01 \|F\|^2`.
    """

    constants = ("mass", "friction")
    ranges = {
        "train": ((0.5, 1.5), (0.1, 0.5)),
        "test": ((0.25, 0.5), (0.5, 1.0)),
        "ood": ((1.5, 3.0), (0.01, 0.1)),
    }
    start_size, observation_size, action_size, discrete = 4, 4, 2, False

    interval, spread, effort = 0.1, 0.5, 0.01

    def start(self, noise: Tensor) -> Tensor:
        # Position, velocity and goal.
        begin, goal = (self.spread * noise).chunk(2, -1)
        return torch.cat([begin, torch.zeros_like(begin), goal], -1)

    def observe(self, state: Tensor) -> Tensor:
        position, velocity, goal = state.chunk(3, -1)
        return torch.cat([goal - position, velocity], -1)

    def step(
        self, state: Tensor, action: Tensor, constants: Tensor
    ) -> tuple[Tensor, Tensor]:
        position, velocity, goal = state.chunk(3, -1)
        mass, friction = constants.split(1, -1)
        velocity = velocity + self.interval * (action - friction * velocity) / mass
        position = position + self.interval * velocity
        distance = (position - goal).square().sum(-1)
        reward = -distance - self.effort * action.square().sum(-1)
        return torch.cat([position, velocity, goal], -1), reward


class Pendulum(System):
    r"""Swing a pendulum up by a torque, and hold it there.

    :math:`\ddot\theta = \frac{3g}{2l} \sin\theta + \frac{3}{m l^2} u` with mass :math:`m`,
    length :math:`l` and :math:`|\dot\theta| \le 8`, by semi-implicit Euler steps of 0.05 s.
    The torque :math:`u` is twice the action, which is clipped to :math:`[-1, 1]`. The
    reward is a quarter of Gymnasium's, :math:`-\frac14 (\theta^2 + 0.1 \dot\theta^2 + 0.001
    u^2)`, with the angle in :math:`[-\pi, \pi)`.
    """

    constants = ("mass", "length")
    ranges = {
        "train": ((0.8, 1.2), (0.8, 1.2)),
        "test": ((0.5, 0.8), (0.6, 0.8)),
        "ood": ((1.2, 1.6), (1.2, 1.5)),
    }
    start_size, observation_size, action_size, discrete = 2, 3, 1, False

    gravity, interval, max_turning, max_torque, scale = 10.0, 0.05, 8.0, 2.0, 0.25

    def start(self, noise: Tensor) -> Tensor:
        uniform = 2.0 * torch.special.ndtr(noise) - 1.0
        return torch.cat([math.pi * uniform[..., :1], uniform[..., 1:]], -1)

    def observe(self, state: Tensor) -> Tensor:
        angle, turning = state.split(1, -1)
        return torch.cat([angle.cos(), angle.sin(), turning], -1)

    def step(
        self, state: Tensor, action: Tensor, constants: Tensor
    ) -> tuple[Tensor, Tensor]:
        angle, turning = state.unbind(-1)
        mass, length = constants.unbind(-1)
        torque = action.squeeze(-1).clamp(-1.0, 1.0) * self.max_torque
        upright = (angle + math.pi).remainder(2.0 * math.pi) - math.pi
        cost = upright.square() + 0.1 * turning.square() + 0.001 * torque.square()
        fall = 1.5 * self.gravity / length * angle.sin()
        turning = turning + self.interval * (fall + 3.0 / (mass * length**2) * torque)
        turning = turning.clamp(-self.max_turning, self.max_turning)
        moved = torch.stack([angle + self.interval * turning, turning], -1)
        return moved, -self.scale * cost


#: Systems by name.
SYSTEMS: dict[str, System] = {
    "cart-pole": CartPole(),
    "reaching": Reaching(),
    "pendulum": Pendulum(),
}
