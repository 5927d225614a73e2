r"""Rewards of control steps, all of them computed from a potential of the loss.

With :math:`L` the loss on fixed examples of a run and :math:`L_0` its value before the
first update, the potential of the package's rewards is

.. math:: \phi(L) = \log \frac{L + \epsilon L_0}{(1 + \epsilon) L_0},

with :data:`EPSILON` for :math:`\epsilon`: 0 at the start, and never below
:math:`\log(\epsilon / (1 + \epsilon))`. The environment's ``objective`` says which examples
the loss is taken on (:data:`OBJECTIVES`), and its ``reward`` says how control step
:math:`t` is rewarded, given the potential :math:`\phi_t` after it (:data:`REWARDS`):

- ``"log_loss"``: the decrease :math:`\phi_{t-1} - \phi_t`. The return is minus the
  potential at the end, whatever the path (compare the potential-based rewards of Ng et al.,
  1999).
- ``"final"``: minus the potential at the end of the run, and 0 before: the same return.
- ``"baseline"``: the decrease, plus, at the end, the potential that Adam with a cosine
  schedule would have reached in the same run (:data:`optenv.baseline.BASELINE`). The return
  is positive for a run that ends with a lower potential than this baseline.
- ``"time"``: the increase of :math:`v_t = -\phi_t / c_t`, where :math:`c_t` is the mean
  cost of the run's updates so far, relative to updates of SGD on the same task
  (:func:`optenv.rules.relative_cost`). The return is the progress of the run per unit of
  time. Where the loss is above the initial one, :math:`v_t = -\phi_t`, so that a costly
  rule does not improve the return of a diverged run.

For losses that can be negative, such as a negative log-likelihood, the ratio has no meaning
below zero. There the potential depends on the difference of losses:

.. math::
    \phi(L) = \log \frac{\epsilon}{1 + \epsilon} + \operatorname{arsinh} \frac{L}{L_0}
    \quad (L < 0 < L_0), \qquad
    \phi(L) = \operatorname{arsinh} \frac{L - L_0}{\max(1, |L_0|)} \quad (L_0 \le 0).

It is continuous and increasing in the loss, and not bounded below.

A run with a potential above :data:`MAX_POTENTIAL`, or a loss that is not finite, is
*diverged*. Its potential becomes :data:`DIVERGED_POTENTIAL`, above the maximum, and stays
there. So its return is lower than that of every run that has not diverged, and the rewards
still sum to the return, as nothing is clipped.

:func:`register` adds a reward from outside the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .checks import check_new_name, is_number, known, quoted
from .elementwise import Number, asinh, clamp, invert, is_single, log, row, where

__all__ = [
    "DIVERGED_POTENTIAL",
    "EPSILON",
    "MAX_POTENTIAL",
    "OBJECTIVES",
    "REWARDS",
    "SOURCES",
    "Reward",
    "Step",
    "get",
    "log_progress",
    "potential",
    "register",
]

#: Loss, relative to the initial loss, below which further progress hardly counts.
EPSILON = 0.003

#: Potential above which a run is diverged: about 20 times the initial loss; or, if that is
#: not positive, about 10 times its absolute value (at least 1) above it.
MAX_POTENTIAL = math.log(20.0)

#: Potential of a loss of 0, in single precision, in which torch.where takes plain numbers.
_AT_ZERO = float(np.float32(math.log(EPSILON / (1 + EPSILON))))

#: Potential of diverged runs.
DIVERGED_POTENTIAL = MAX_POTENTIAL + 1.0

#: Examples that a loss can be taken on.
SOURCES = ("train", "validation")

#: Values of the ``objective`` argument of environments, and the examples they stand for;
#: with ``"observed"``, a run that observes its validation losses is judged by them alone.
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation",),
    "both": SOURCES,
    "observed": SOURCES,
}


class Step(NamedTuple):
    """One control step of ``B`` runs, from which a reward is computed.

    Attributes:
        before: potential before the step, ``[B]``.
        after: potential after the step, ``[B]``.
        ended: whether the run ends with the step, or its present task if tasks change,
            ``[B]`` bool.
        cost_before: mean cost of the run's updates before the step, relative to updates of
            SGD on the same task, ``[B]``; 1 if there are none, or the reward needs no cost.
        cost_after: mean cost of the run's updates including the step, ``[B]``; likewise.
        baseline: potential that the baseline (:data:`optenv.baseline.BASELINE`) reaches at
            the end of the same run, ``[B]``; 0 unless the reward needs it.
    """

    before: Tensor
    after: Tensor
    ended: Tensor
    cost_before: Tensor
    cost_after: Tensor
    baseline: Tensor


@dataclass(frozen=True)
class Reward:
    """A potential of the losses of a run, and the reward of a control step given it.

    Attributes:
        sources: sources of the examples that losses are taken on: ``"train"``,
            ``"validation"`` or both; ``S`` of them. None for those of the environment's
            ``objective``.
        potential: ``(loss [B, S], initial_loss [B, S]) -> [B]``; by default the mean of
            :func:`log_progress` over the sources. It is only used for runs that have not
            diverged. It must be 0 where the losses are the initial ones.
        diverged_potential: potential of diverged runs, which should be above all others.
        of_step: ``(step: Step) -> [B]``, the reward; by default the decrease
            ``step.before - step.after``.
        needs_cost: whether ``of_step`` uses the cost of updates.
        needs_baseline: whether ``of_step`` uses the baseline. It is trained at the reset,
            with as many updates as the run has.
    """

    sources: tuple[str, ...] | None = None
    potential: Callable[[Tensor, Tensor], Tensor] | None = None
    diverged_potential: float = DIVERGED_POTENTIAL
    of_step: Callable[[Step], Tensor] | None = None
    needs_cost: bool = False
    needs_baseline: bool = False

    def __post_init__(self) -> None:
        sources = self.sources
        if sources is not None and (
            not isinstance(sources, tuple)
            or not sources
            or any(source not in SOURCES for source in sources)
            or len(set(sources)) < len(sources)
        ):
            raise ValueError(
                f"sources must be None or a tuple, each at most once, of "
                f"{', '.join(SOURCES)}, got {sources!r}"
            )
        for name in ("potential", "of_step"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a function or None, got {value!r}")
        for name in ("needs_cost", "needs_baseline"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        if not is_number(self.diverged_potential):
            raise TypeError(
                f"diverged_potential must be a number, "
                f"got {quoted(self.diverged_potential)}"
            )
        if not math.isfinite(self.diverged_potential):
            raise ValueError(
                f"diverged_potential must be finite, got {self.diverged_potential!r}"
            )

    def evaluate(self, loss: Tensor, initial_loss: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the potential of each run, and whether it is diverged.

        Args:
            loss: current losses ``[B, S]``, one per source.
            initial_loss: losses before the first update, ``[B, S]``.

        Returns:
            Potentials ``[B]``, and a mask ``[B]`` of the diverged runs.

        Raises:
            ValueError: the potential has another shape, or is not finite for a run that
                has not diverged.
        """
        if self.potential is None and is_single(loss) and is_single(initial_loss):
            return self._evaluate_single(loss, initial_loss)
        phi = log_progress(loss, initial_loss)
        sound = _is_sound(phi).all(-1)
        value = phi.mean(-1) if self.potential is None else self._own(loss, initial_loss)
        if self.potential is not None and not (value.isfinite() | ~sound).all():
            raise ValueError(
                f"the potential {self.potential!r} of a reward must be finite, got "
                f"{value[sound].tolist()} for losses {loss[sound].tolist()} after "
                f"{initial_loss[sound].tolist()}"
            )
        worst = torch.full_like(phi[:, 0], self.diverged_potential)
        return torch.where(sound, value, worst), ~sound

    def _evaluate_single(self, loss: Tensor, initial_loss: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the mean of :func:`log_progress` of a single run, with floats."""
        phi = log_progress(loss, initial_loss)
        sound = all(_is_sound(each) for each in phi.tolist()[0])
        value = phi.mean(-1) if sound else loss.new_tensor([self.diverged_potential])
        return value, torch.from_numpy(np.array([not sound]))

    def earn(self, step: Step) -> Tensor:
        """Compute the reward ``[B]`` of a control step.

        Raises:
            ValueError: ``of_step`` returns another shape, or a number that is not finite.
        """
        if self.of_step is None:
            return step.before - step.after
        earned = self.of_step(step)
        if not isinstance(earned, Tensor) or earned.shape != step.after.shape:
            given = f"shape {tuple(earned.shape)}" if isinstance(earned, Tensor) else earned
            raise ValueError(
                f"of_step {self.of_step!r} of a reward must return a tensor of one number "
                f"for each run, of shape {tuple(step.after.shape)}, got {given}"
            )
        if not earned.isfinite().all():
            raise ValueError(
                f"of_step {self.of_step!r} of a reward must return finite numbers, got "
                f"{earned.tolist()} for potentials {step.after.tolist()} after "
                f"{step.before.tolist()}"
            )
        return earned

    def _own(self, loss: Tensor, initial_loss: Tensor) -> Tensor:
        """Compute the potential by the attribute ``potential``, and check its shape.

        Raises:
            ValueError: it is not a tensor ``[B]``.
        """
        assert self.potential is not None
        value = self.potential(loss, initial_loss)
        if not isinstance(value, Tensor) or value.shape != loss.shape[:1]:
            given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else value
            raise ValueError(
                f"the potential {self.potential!r} of a reward must return a tensor of one "
                f"number for each run, of shape {tuple(loss.shape[:1])}, got {given}; "
                ".mean(-1) averages over sources"
            )
        return value


def _at_end(step: Step) -> Tensor:
    """Reward the progress of the whole run, at its end."""
    return torch.where(step.ended, -step.after, 0.0)


def _above_baseline(step: Step) -> Tensor:
    """Reward progress, and subtract the baseline's progress at the end."""
    return step.before - step.after + torch.where(step.ended, step.baseline, 0.0)


def _per_time(step: Step) -> Tensor:
    """Reward the increase of the run's progress per unit of time."""
    before = _progress_per_cost(step.before, step.cost_before)
    return _progress_per_cost(step.after, step.cost_after) - before


def _progress_per_cost(potential: Tensor, cost: Tensor) -> Tensor:
    """Divide progress by the mean cost of updates, unless it is negative."""
    return -torch.where(potential < 0, potential / cost, potential)


#: Rewards of the package, by name.
REWARDS: dict[str, Reward] = {
    "log_loss": Reward(),
    "final": Reward(of_step=_at_end),
    "baseline": Reward(of_step=_above_baseline, needs_baseline=True),
    "time": Reward(of_step=_per_time, needs_cost=True),
}

#: Rewards registered from outside the package.
_REGISTERED: dict[str, Reward] = {}


def register(name: str, reward: Reward) -> Reward:
    """Make a reward available to environments by its name.

    Args:
        name: name of the reward, not used by another one.
        reward: the reward.

    Returns:
        The reward.

    Raises:
        TypeError: ``name`` is not a string, or ``reward`` not a :class:`Reward`.
        ValueError: the name is taken, the potential is not 0 where the losses are the
            initial ones, or ``potential`` or ``of_step`` does not return a tensor ``[B]``.

    Example::

        def relative(loss, initial_loss):
            return (loss / initial_loss - 1).mean(-1)

        register("relative", Reward(("train",), relative, diverged_potential=20.0))
        env = gym.make("optenv/LearningRate-v0", reward="relative")
    """
    check_new_name("reward", name, [*REWARDS, *_REGISTERED])
    if not isinstance(reward, Reward):
        raise TypeError(f"reward must be an optenv.rewards.Reward, got {reward!r}")
    _check_start(name, reward)
    _REGISTERED[name] = reward
    return reward


def _check_start(name: str, reward: Reward) -> None:
    """Refuse a potential that is not 0 where the losses are the initial ones.

    Raises:
        ValueError: the potential is not 0 there, or, for three runs, ``potential`` or
            ``of_step`` does not return a tensor ``[B]``.
    """
    losses = torch.tensor([0.5, 1.0, 2.0], device="cpu")
    losses = losses[:, None].expand(-1, len(reward.sources or OBJECTIVES["both"]))
    potential, _ = reward.evaluate(losses, losses)
    if not torch.allclose(potential, torch.zeros_like(potential), atol=1e-4):
        raise ValueError(
            f"the potential of reward {name!r} must be 0 where the losses are the initial "
            f"ones, got {potential.tolist()} for losses of 0.5, 1 and 2"
        )
    one = torch.ones_like(potential)
    ended = torch.tensor([False, True, True], device="cpu")
    reward.earn(Step(potential, potential - 1.0, ended, one, one, potential))


def get(name: str) -> Reward:
    """Return the reward of a name.

    Raises:
        ValueError: there is no such reward.
    """
    valid = {**REWARDS, **_REGISTERED}
    if name in list(OBJECTIVES) and name not in valid:
        raise ValueError(
            f"unknown reward {name!r}; valid: {', '.join(valid)} (the examples that the "
            f"loss is taken on are now chosen by objective={name!r})"
        )
    known("reward", name, valid)
    return valid[name]


def _is_sound(phi: Number) -> Number:
    """Return whether runs with potentials ``phi`` have not diverged, elementwise.

    Comparisons with NaN are False, so that a loss that is not finite counts as diverged.
    """
    return (phi <= MAX_POTENTIAL) & (phi > -math.inf)


def log_progress(loss: Number, initial_loss: Number) -> Number:
    r"""Compute :math:`\phi` of losses, elementwise."""
    if isinstance(loss, Tensor) and loss.dim() == 2 and is_single(loss):
        if is_single(initial_loss):
            pairs = zip(loss.tolist()[0], initial_loss.tolist()[0], strict=True)
            return row([log_progress(*pair) for pair in pairs], loss)
    # 1. Losses that are not negative, of a run whose initial loss is positive. Where a
    # formula does not apply, its inputs are 1 or 0, so that gradients stay finite. NaN is
    # treated here.
    usual = invert((loss < 0) | (initial_loss <= 0))
    ratio = where(usual, loss, 1.0) / where(usual, initial_loss, 1.0)
    logarithm = log((ratio + EPSILON) / (1 + EPSILON))
    # 2. All others: difference from the initial loss, or from 0 if that was positive.
    scale = where(initial_loss > 0, initial_loss, clamp(abs(initial_loss), low=1.0))
    rise = where(usual, 0.0, loss - clamp(initial_loss, high=0.0))
    difference = asinh(rise / scale) + where(initial_loss > 0, _AT_ZERO, 0.0)
    return where(usual, logarithm, difference)


def potential(loss: Tensor, initial_loss: Tensor) -> Tensor:
    """Compute the package's potential of the losses of each run.

    Args:
        loss: current losses ``[B, S]``, one per source.
        initial_loss: losses before the first update, ``[B, S]``.

    Returns:
        Mean of :func:`log_progress` over the sources, ``[B]``;
        :data:`DIVERGED_POTENTIAL` where one of the losses has diverged.
    """
    return Reward(SOURCES).evaluate(loss, initial_loss)[0]
