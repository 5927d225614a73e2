"""Length and progress of an optimizer's run."""

from __future__ import annotations

from typing import Any

from . import clock
from .budget import advice
from .controller import Controller, State

__all__ = ["Lengths"]


class Lengths:
    """Mixin of :class:`~agents.LearnedOptimizer` with the length of its run."""

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
        """Number of examples that the next batch should have, as chosen by the policy.

        None if the policy does not choose it.
        """
        return advice(self._controller_state())

    @property
    def progress(self) -> float | None:
        """Share of the run that is done, from 0 to 1; None in a run of unknown length.

        With a policy that chooses the batch size, it is the share that has been used of the
        budget of ``total_steps * batch_size`` examples.
        """
        progress = clock.observed_progress(self._controller_state())
        return None if progress is None else min(progress, 1.0)

    def extend(self, total_steps: int) -> None:
        """Change the length of the run to ``total_steps`` steps in all.

        Observed progress and schedule are then those of a run of that length at this step:
        if the learning rate has begun to fall, it rises again. A fall that :meth:`finish`
        has begun is cancelled.

        Args:
            total_steps: number of steps of the whole run, more than have been made; it may
                be less than the previous length.

        Raises:
            ValueError: ``total_steps`` is not valid, or not more than the steps so far; or
                the policy is an anytime policy and :meth:`finish` was not called; or it
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

        Use it for runs that end before their ``total_steps``, or that have none: the
        parameters are best after the rate has fallen. It falls linearly to zero, from the
        current value of the schedule.

        Args:
            steps: number of steps until the end. In the policy's training, the rate fell
                over the last 30 % of a run, for example 300 steps after 700.

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
