"""The baselines whose settings are chosen for each task, by what they are chosen from."""

from __future__ import annotations

import math
import random
from functools import partial

from optenv.actions import SCHEDULES
from optenv.checks import positive_int

from .defaults import ADAMW, GRID, TUNED, Choice, Search, adamw, grid, schedule_free
from .more import RULE, orthogonal_adam, sgd_momentum, soap

__all__ = [
    "ORTHOGONAL",
    "RANDOM",
    "SCHEDULE_FREE",
    "SEARCHES",
    "SGD",
    "SGD_GRID",
    "SOAP",
    "random_choices",
]

#: Learning rates of SGD tried per task.
SGD_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
#: Bounds of the learning rates that are drawn.
RANDOM_RATES = (1e-4, 1e-1)
RANDOM_TRIALS = 5


def random_choices(trials: int = RANDOM_TRIALS, seed: int = 0) -> tuple[Choice, ...]:
    """Settings drawn at random, the same ones for the same seed on every machine.

    Args:
        trials: how many.
        seed: of Python's generator; more trials begin with those of fewer.

    Returns:
        Learning rates, log-uniform between 1e-4 and 1e-1 and rounded to three digits,
        and schedules, each as likely as the others.

    Raises:
        ValueError: ``trials`` is not a positive integer.
    """
    generator, schedules = random.Random(seed), list(SCHEDULES)
    low, high = map(math.log, RANDOM_RATES)

    def draw() -> Choice:
        lr = math.exp(low + (high - low) * generator.random())
        return Choice(
            float(f"{lr:.3g}"), schedules[int(len(schedules) * generator.random())]
        )

    return tuple(draw() for _ in range(positive_int("trials", trials)))


SGD = Search("SGD", sgd_momentum, grid(SGD_GRID))
#: What one might try by hand.
RANDOM = Search("AdamW", adamw, random_choices())
#: What our rule comes to if its learning rates are tuned instead of learned.
ORTHOGONAL = Search("Orthogonal Adam", partial(orthogonal_adam, spec=RULE), grid(GRID))
#: Needs no schedule, which is what it is for.
SCHEDULE_FREE = Search(
    "Schedule-Free AdamW", schedule_free, grid(GRID, schedules=("constant",))
)
#: With one schedule, that of the untuned arm: an update costs more than two of AdamW's.
SOAP = Search("SOAP", soap, grid(GRID, schedules=("cosine",)))

#: What is tuned for each task, by the name of the column.
SEARCHES = {
    TUNED: ADAMW,
    "SGD tuned": SGD,
    "AdamW random search": RANDOM,
    "Orthogonal Adam tuned": ORTHOGONAL,
    "Schedule-Free AdamW tuned": SCHEDULE_FREE,
    "SOAP tuned": SOAP,
}
