"""State of the controller that is part of the observation."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Control"]


class Control(NamedTuple):
    """State of the controller that is part of the observation.

    Attributes:
        progress: fraction of the run's updates done, in [0, 1]; None if the length of the
            run is unknown. The features of progress and length are then all 0.
        length: updates of the whole run; None if unknown.
        log_multiplier: log ``s`` of the multiplier of the learning rate, in nats, ``[B]``.
        log_lr: log of (base learning rate times ``e^s`` / a usual learning rate of the
            rule), without the schedule. It is misleading for weights in unusual units; the
            policy then has to rely on other features.
        previous_action: change of ``s`` that the last action requested, in nats.
    """

    progress: Tensor | None
    length: int | None
    log_multiplier: Tensor
    log_lr: Tensor
    previous_action: Tensor
