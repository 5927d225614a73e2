"""Result of one run, and the names of the arms with which others are compared.

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

    Runs of one task and seed share initial parameters, batches and validation set, for all
    optimizers, so that arms can be compared seed by seed.

    Attributes:
        task: name of the held-out task.
        arm: name of the arm, an optimizer under test.
        seed: seed of the initial parameters, the batches and the validation set.
        updates: length of the run.
        learned: whether the arm is a learned policy (its controls are not).
        train_loss: mean training loss over the last tenth of the updates; inf if
            non-finite.
        validation_loss: validation loss at the end of the run; inf if non-finite.
        initial_validation_loss: validation loss before the first update.
        lr: learning rate with which the optimizer was constructed.
        cpu_seconds: CPU time of the updates, without validation, in seconds.
        adamw_seconds: CPU time of as many updates with AdamW, measured during the run, in
            seconds.
        curve: pairs ``(update, validation loss)`` from 0 to the last update.
        lr_trace: pairs ``(update, learning rate in force)``.
        shifts: change of the log-multiplier, in nats, chosen at each decision of a policy;
            empty for all other optimizers.
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
