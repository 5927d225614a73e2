"""Short list of arms, with which ``train_agent.py`` compares a policy.

It has AdamW with torch's defaults; *tuned*, with the learning rate and schedule that are
best for the task; and *shared*, with the one setting that is best for all tasks together.
Schedule-Free and Prodigy run with their own defaults: like a learned policy, they are meant
to need no tuning. :data:`~agents.evaluation.arms.table.ARMS` has these and all other arms.
"""

from __future__ import annotations

from functools import partial

from optenv.actions import SCHEDULES

from ..row import DEFAULT, SHARED, TUNED
from .arm import Arm, ArmEntry, Search, grid
from .factories import adamw, prodigy, schedule_free

__all__ = ["ADAMW", "LR_GRID", "SHORT_LIST", "default_arms"]

#: Learning rates that are tried for each task.
LR_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
#: AdamW with every learning rate of :data:`LR_GRID` and every schedule.
ADAMW = Search("AdamW", adamw, grid(LR_GRID))

#: Entries of the short list, by the name of the column.
SHORT_LIST: dict[str, ArmEntry] = {
    DEFAULT: ArmEntry(
        Arm(DEFAULT, partial(adamw, lr=1e-3)),
        "torch's AdamW with its defaults: lr 1e-3, constant",
    ),
    "Schedule-Free AdamW": ArmEntry(
        Arm("Schedule-Free AdamW", schedule_free),
        "AdamW with averaging in place of a schedule (Defazio et al., 2024), lr 2.5e-3",
        "schedulefree",
    ),
    "Prodigy": ArmEntry(
        Arm("Prodigy", prodigy, SCHEDULES["cosine"]),
        "Adam that estimates its learning rate (Mishchenko & Defazio, 2023), cosine",
        "prodigyopt",
    ),
    SHARED: ArmEntry(
        ADAMW,
        "AdamW with the one of 21 settings that is best for all tasks together",
        shared=True,
    ),
    TUNED: ArmEntry(ADAMW, "AdamW; the best of 7 learning rates, 3 schedules"),
}


def default_arms() -> list[Arm]:
    """Return the arms of the short list that are not tuned."""
    entries = (entry.optimizer for entry in SHORT_LIST.values())
    return [optimizer for optimizer in entries if isinstance(optimizer, Arm)]
