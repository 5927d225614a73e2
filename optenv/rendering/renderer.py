"""Renderer of the sub-environments of a batch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch

from ..extras import install_hint
from ..group import Group, StepResult
from .trace import Trace, measures, new_trace, recorded, two_parameters

if TYPE_CHECKING:
    from .picture import Picture

__all__ = ["RENDER_MODES", "Renderer"]

#: Modes of rendering, besides None.
RENDER_MODES = ("ansi", "rgb_array")

#: Approximate bytes of a recorded control step, and of a picture with its figure.
_STEP, _PICTURE = 700, 12 * 2**20

#: Indices in the batch of the runs of a group.
Rows = slice | np.ndarray


class Renderer:
    """Recorded episodes of the first sub-environments of a batch, and their renderings.

    Args:
        mode: one of :data:`RENDER_MODES`.
        num_envs: number of sub-environments of the batch.
        rendered: number of sub-environments that are rendered, the first ones.
        runs: number of runs of an episode.

    Raises:
        ValueError: the mode is unknown.
        gymnasium.error.DependencyNotInstalled: pictures need matplotlib, which is missing.
    """

    def __init__(self, mode: str, num_envs: int, rendered: int, runs: int = 1) -> None:
        if mode not in RENDER_MODES:
            valid = ", ".join(map(repr, RENDER_MODES))
            raise ValueError(f"render_mode must be None, {valid}, got {mode!r}")
        if mode == "rgb_array" and importlib.util.find_spec("matplotlib") is None:
            raise gym.error.DependencyNotInstalled(
                "render_mode='rgb_array' needs matplotlib, which the extra \"render\" has; "
                + install_hint("render")
            )
        self.mode, self.num_envs, self.rendered, self.runs = mode, num_envs, rendered, runs
        #: Present episode of each rendered sub-environment, by its number.
        self.traces: dict[int, Trace] = {}
        self._pictures: dict[int, Picture] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the figures out of copies, which then redraw them."""
        return {**self.__dict__, "_pictures": {}}

    def memory(self, steps: int) -> int:
        """Estimate the memory in bytes of the recorded episodes and their pictures.

        Args:
            steps: number of control steps of a run.
        """
        pictures = _PICTURE if self.mode == "rgb_array" else 0
        return self.rendered * (self.runs * steps * _STEP + pictures)

    def begin(
        self, rows: Rows, group: Group, index: np.ndarray, *, same_episode: bool = False
    ) -> None:
        """Record the start of runs.

        Args:
            rows: indices in the batch of the group's runs.
            group: group of the runs.
            index: indices in the group of the runs that start.
            same_episode: whether they follow other runs of their episodes.
        """
        numbers = np.arange(self.num_envs)[rows]
        index = index[numbers[index] < self.rendered]
        if not len(index):
            return
        values, params = measures(group).tolist(), two_parameters(group)
        for i in index.tolist():
            number = int(numbers[i])
            if not same_episode:
                self.traces[number] = new_trace(group, i, self.runs)
            self.traces[number].begin(values[i], params[i])

    def record(
        self, rows: Rows, group: Group, mask: np.ndarray, result: StepResult
    ) -> None:
        """Record a control step.

        Args:
            rows: indices in the batch of the group's runs.
            group: the group, after the step.
            mask: mask ``[B]`` of its runs that took part in the step.
            result: result of the step.
        """
        numbers = np.arange(self.num_envs)[rows]
        index = np.flatnonzero(mask & (numbers < self.rendered))
        if not len(index):
            return
        steps = recorded(group, result)
        for i in index.tolist():
            self.traces[int(numbers[i])].step(**steps[i])

    def render(self, groups: Sequence[tuple[Rows, Group]]) -> tuple[Any, ...]:
        """Render every sub-environment.

        Args:
            groups: for each group, the indices in the batch of its runs, and the group.

        Returns:
            A line of text each, or an image ``[H, W, 3]`` uint8 each. Sub-environments that
            are not rendered have an empty text, or share a white image.
        """
        others = self.num_envs - self.rendered
        if self.mode == "ansi":
            lines = [self.traces[number].text() for number in range(self.rendered)]
            return (*lines, *[""] * others)
        from .picture import HEIGHT, WIDTH, Picture

        frames: list[np.ndarray] = []
        places = _places(groups, self.num_envs)
        with torch.no_grad():
            for number in range(self.rendered):
                trace, kept = self.traces[number], self._pictures.get(number)
                if kept is None or not kept.fits(trace):
                    kept = self._pictures[number] = Picture(trace)
                frames.append(kept.draw(trace, places[number]))
        empty = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        return (*frames, *[empty] * others)


def _places(
    groups: Sequence[tuple[Rows, Group]], num_envs: int
) -> dict[int, tuple[Group, int]]:
    """Return the group of every run of a batch, and the run's index in it."""
    numbers = np.arange(num_envs)
    return {
        int(number): (group, i)
        for rows, group in groups
        for i, number in enumerate(numbers[rows])
    }
