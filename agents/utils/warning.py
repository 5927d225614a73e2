"""Warnings that point at the user's line, even if they arise deep in the package."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch

__all__ = ["warn_user"]

#: Folders whose frames are skipped: this package, and torch, which calls our hooks.
_INTERNAL = (
    f"{Path(__file__).parents[1]}{os.sep}",
    f"{Path(torch.__file__).parent}{os.sep}",
)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost frame that is neither in this package nor in torch.

    Args:
        message: text of the warning.
        category: class of the warning.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INTERNAL):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
