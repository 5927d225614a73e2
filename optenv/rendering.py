"""What a run looks like: one line of text, or a small picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTH, PANEL, MARGIN = 360, 120, 8
_LOSS, _RATE = (31, 119, 180), (214, 95, 14)


def line(step: int, steps: int, loss: float, lr: float, reward: float) -> str:
    """One line on a control step."""
    return f"step {step}/{steps}  loss {loss:.4g}  lr {lr:.3g}  reward {reward:+.4f}"


def picture(losses: Sequence[float], rates: Sequence[float], steps: int) -> np.ndarray:
    """Curves of a run so far, on logarithmic axes that span the run.

    Args:
        losses: loss before the first and after each control step (upper panel, blue).
        rates: learning rate of each control step (lower panel, orange).
        steps: control steps of the whole run.

    Returns:
        ``[256, 376, 3]`` uint8.
    """
    panels = [_panel(losses, steps + 1, _LOSS), _panel(rates, steps, _RATE)]
    return np.concatenate([_framed(panel) for panel in panels])


def _panel(values: Sequence[float], length: int, color: tuple[int, ...]) -> np.ndarray:
    canvas = np.full((PANEL, WIDTH, 3), 250, np.uint8)
    logs = np.log(
        np.clip(np.nan_to_num(np.asarray(values, float), nan=np.inf), 1e-12, 1e12)
    )
    if len(logs) == 0:
        return canvas
    span = max(float(np.ptp(logs)), 1e-6)
    height = 4 + (PANEL - 9) * (logs.max() - logs) / span
    ends = (len(logs) - 1) / max(length - 1, 1) * (WIDTH - 1)
    columns = np.arange(int(ends) + 1)
    rows = np.interp(columns, np.linspace(0, ends, len(logs)), height)
    # A column is filled from its own height to the next one's, so that steep lines hold.
    for column, (a, b) in enumerate(zip(rows, np.append(rows[1:], rows[-1]), strict=True)):
        canvas[int(min(a, b)) : int(max(a, b)) + 2, column] = color
    return canvas


def _framed(panel: np.ndarray) -> np.ndarray:
    framed = np.full((PANEL + MARGIN, WIDTH + 2 * MARGIN, 3), 255, np.uint8)
    framed[MARGIN // 2 : -MARGIN // 2, MARGIN:-MARGIN] = panel
    return framed
