"""One run's result, and the names of the arms that others are compared with.

Everything else in this package builds on rows: runs make them, the statistics compare
them, and the report prints them. This module imports nothing from the package.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

__all__ = ["DEFAULT", "SHARED", "TUNED", "Row", "ordered_arms"]

#: AdamW with torch's default settings; the reference for CPU time.
DEFAULT = "AdamW default"
#: AdamW with the learning rate and schedule that are best for the task; the reference for
#: losses and speeds.
TUNED = "AdamW tuned"
#: AdamW with the one setting that is best for all tasks together.
SHARED = "AdamW shared"


class Row(TypedDict):
    """Result of one run.

    Runs of one task and seed share initial parameters, batches and validation set,
    whatever their optimizer, so that arms can be compared seed by seed.

    Attributes:
        task: name of the held-out task.
        arm: name of the arm, an optimizer under test.
        seed: seed of the initial parameters, the batches and the validation set.
        updates: length of the run.
        learned: whether the arm is a learned policy (its controls are not).
        train_loss: mean over the last tenth of the updates; inf if non-finite.
        validation_loss: at the end of the run; inf if non-finite.
        initial_validation_loss: before the first update.
        lr: learning rate that the optimizer was constructed with.
        cpu_seconds: CPU time of the updates, without validation.
        adamw_seconds: CPU time of as many updates with AdamW, measured beside them.
        curve: ``(update, validation loss)`` from 0 to the last update.
        lr_trace: ``(update, learning rate in force)``.
        shifts: change of the log-multiplier, in nats, that each decision of a policy
            asked for; empty for all other optimizers.
    """

    task: str
    arm: str
    seed: int
    updates: int
    learned: bool
    train_loss: float
    validation_loss: float
    initial_validation_loss: float
    lr: float
    cpu_seconds: float
    adamw_seconds: float
    curve: list[tuple[int, float]]
    lr_trace: list[tuple[int, float]]
    shifts: list[float]


def ordered_arms(rows: Iterable[Row]) -> list[str]:
    """Return the names of all arms in order of appearance, learned ones last."""
    learned = {row["arm"]: row["learned"] for row in rows}
    return sorted(learned, key=lambda arm: learned[arm])
