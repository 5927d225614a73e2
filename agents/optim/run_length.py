"""Length of an optimizer's run: how far it is, and how it is changed."""

from __future__ import annotations

from typing import Any

from . import clock
from .budget import advice
from .controller import Controller, State

__all__ = ["Lengths"]


class Lengths:
    """The part of :class:`~agents.LearnedOptimizer` on the length of its run."""

    _controller: Controller

    def _controller_state(self) -> State:
        raise NotImplementedError

    def _store_controller(self) -> None:
        raise NotImplementedError

    @property
    def total_steps(self) -> int | None:
        """Number of steps of the run; None in a run of unknown length."""
        return clock.end_of_run(self._controller_state())

    @total_steps.setter
    def total_steps(self, value: Any) -> None:
        raise AttributeError(
            "total_steps cannot be assigned: extend(total_steps) changes the length of the "
            "run, new_run(total_steps=...) begins another one"
        )

    @property
    def batch_size(self) -> int | None:
        """Number of examples that the next batch should have, as the policy advises.

        None with a policy that does not choose it.
        """
        return advice(self._controller_state())

    @property
    def progress(self) -> float | None:
        """Share of the run that is done, from 0 to 1; None in a run of unknown length.

        With a policy that chooses the batch size, that is the share of the budget of
        ``total_steps * batch_size`` examples which is used.
        """
        progress = clock.observed_progress(self._controller_state())
        return None if progress is None else min(progress, 1.0)

    def extend(self, total_steps: int) -> None:
        """Go on with the run until ``total_steps`` steps have been made in all.

        The progress that the policy observes, and its schedule, are then those of a run of
        that length at this step. After the fall of the learning rate has begun, the rate
        rises again; a fall that :meth:`finish` began is given up.

        Args:
            total_steps: number of steps of the whole run, more than those so far; fewer
                than before are possible.

        Raises:
            ValueError: ``total_steps`` is not valid, or not more than the steps so far; or
                the policy is an anytime policy, and no fall is to be given up; or it
                chooses the batch size.

        Example:
            >>> import torch
            >>> from agents import LearnedOptimizer
            >>> weight = torch.nn.Parameter(torch.zeros(1))
            >>> optimizer = LearnedOptimizer([weight], total_steps=1000)
            >>> optimizer.extend(1500)
            >>> optimizer.total_steps
            1500
        """
        self._controller.begin_step(self._controller_state())
        self._controller.extend(total_steps)
        self._store_controller()

    def finish(self, steps: int) -> None:
        """End the run after ``steps`` more steps, over which the learning rate falls.

        For runs that stop before their ``total_steps``, or that had none: the parameters
        are best after the rate has fallen. It falls linearly to zero, from where the
        schedule stands.

        Args:
            steps: number of steps to come. In training, the fall took the last three
                tenths of a run: 300 steps after 700.

        Raises:
            ValueError: ``steps`` is no positive integer, or the run has ended; or the
                policy chooses the batch size.

        Example:
            >>> import torch
            >>> from agents import LearnedOptimizer
            >>> weight = torch.nn.Parameter(torch.zeros(1))
            >>> optimizer = LearnedOptimizer([weight], policy="anytime")
            >>> optimizer.finish(100)
        """
        self._controller.begin_step(self._controller_state())
        self._controller.finish(steps)
        self._store_controller()
