"""Renderings of a run: one line of text, or a small picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["line", "picture"]

#: Size of a panel's plot and of the margin around it, in pixels.
PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 360, 120, 8
_LOSS_COLOR, _RATE_COLOR = (31, 119, 180), (214, 95, 14)


def line(
    step: int, steps: int, loss: float, lr: float, reward: float, further: str = ""
) -> str:
    """Format a control step as one line.

    Args:
        step: control steps done.
        steps: control steps of the whole run.
        loss: loss after the step.
        lr: learning rate of the step.
        reward: reward of the step.
        further: what else is controlled, if anything.
    """
    text = f"step {step}/{steps}  loss {loss:.4g}  lr {lr:.3g}  reward {reward:+.4f}"
    return f"{text}  {further}" if further else text


def picture(losses: Sequence[float], rates: Sequence[float], steps: int) -> np.ndarray:
    """Draw the curves of a run so far, on logarithmic axes that span the run.

    Args:
        losses: loss before the first and after each control step (upper panel, blue).
        rates: learning rate of each control step (lower panel, orange).
        steps: control steps of the whole run.

    Returns:
        Image ``[256, 376, 3]`` uint8.
    """
    panels = [_panel(losses, steps + 1, _LOSS_COLOR), _panel(rates, steps, _RATE_COLOR)]
    return np.concatenate([_framed(panel) for panel in panels])


def _panel(values: Sequence[float], length: int, color: tuple[int, ...]) -> np.ndarray:
    """Draw a curve of at most ``length`` values, ``[PANEL_HEIGHT, PANEL_WIDTH, 3]``."""
    canvas = np.full((PANEL_HEIGHT, PANEL_WIDTH, 3), 250, np.uint8)
    logs = np.log(
        np.clip(np.nan_to_num(np.asarray(values, float), nan=np.inf), 1e-12, 1e12)
    )
    if len(logs) == 0:
        return canvas
    span = max(float(np.ptp(logs)), 1e-6)
    height = 4 + (PANEL_HEIGHT - 9) * (logs.max() - logs) / span
    ends = (len(logs) - 1) / max(length - 1, 1) * (PANEL_WIDTH - 1)
    columns = np.arange(int(ends) + 1)
    rows = np.interp(columns, np.linspace(0, ends, len(logs)), height)
    # Each column is filled up to the next one's height, so that steep lines have no gaps.
    for column, (a, b) in enumerate(zip(rows, np.append(rows[1:], rows[-1]), strict=True)):
        canvas[int(min(a, b)) : int(max(a, b)) + 2, column] = color
    return canvas


def _framed(panel: np.ndarray) -> np.ndarray:
    """Put a white margin around a panel."""
    framed = np.full((PANEL_HEIGHT + MARGIN, PANEL_WIDTH + 2 * MARGIN, 3), 255, np.uint8)
    framed[MARGIN // 2 : -MARGIN // 2, MARGIN:-MARGIN] = panel
    return framed
