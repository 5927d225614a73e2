"""Table of all arms of the benchmark.

The command line, its help and the documentation all use the list :data:`ARMS`: an arm or a
search by the name of its column, with a line that describes it and the package that it
needs. ``python -m agents.evaluation --list`` prints it.
"""

from __future__ import annotations

import math
import random
from functools import partial

from optenv.actions import SCHEDULES
from optenv.checks import positive_int
from optenv.memory_limit import refuse_count
from optenv.rules import RuleSpec

from ...policy.files import load_policy
from ..row import SHARED, TUNED
from .arm import TRIED_SCHEDULES, Arm, ArmEntry, Choice, Search, grid
from .factories import (
    adam_hd,
    adamw,
    dadapt_adam,
    greedy,
    mechanic_adamw,
    muon,
    nadamw,
    orthogonal_adam,
    pilot,
    plateau,
    schedule_free,
    schedule_free_plus,
    schedule_free_sgd,
    sgd_momentum,
    soap,
    warmup_cosine,
)
from .short_list import LR_GRID, SHORT_LIST

__all__ = [
    "ARMS",
    "DEFAULT_POLICY_RULE",
    "GREEDY",
    "MUON",
    "ORTHOGONAL",
    "RANDOM",
    "SCHEDULE_FREE",
    "SEARCHES",
    "SGD",
    "SGD_LR_GRID",
    "SOAP",
    "random_choices",
    "untuned_arms",
]

#: Update rule of the shipped default policy, which the search :data:`ORTHOGONAL` tunes
#: without the policy. It is read from the policy's file: the comparison isolates what the
#: policy adds to its rule, so both must have the same hyperparameters, even after another
#: policy has become the default.
DEFAULT_POLICY_RULE: RuleSpec = load_policy("default").rule.to_spec()

#: Learning rates of SGD that are tried for each task.
SGD_LR_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
#: Bounds of the learning rates that random search draws.
RANDOM_LR_BOUNDS = (1e-4, 1e-1)
RANDOM_TRIALS = 5


def random_choices(trials: int = RANDOM_TRIALS, seed: int = 0) -> tuple[Choice, ...]:
    """Draw settings at random, the same ones for the same seed on every machine.

    Args:
        trials: number of settings.
        seed: seed of Python's generator. The first settings do not depend on ``trials``.

    Returns:
        Learning rates, log-uniform between 1e-4 and 1e-1 and rounded to three digits, with
        schedules, all equally likely.

    Raises:
        ValueError: ``trials`` is not a positive integer, or the settings need more memory
            than the limit.
    """
    refuse_count("trials", positive_int("trials", trials), "the settings", 250)
    generator, schedules = random.Random(seed), TRIED_SCHEDULES
    low, high = map(math.log, RANDOM_LR_BOUNDS)

    def draw() -> Choice:
        lr = math.exp(low + (high - low) * generator.random())
        return Choice(
            float(f"{lr:.3g}"), schedules[int(len(schedules) * generator.random())]
        )

    return tuple(draw() for _ in range(trials))


SGD = Search("SGD", sgd_momentum, grid(SGD_LR_GRID))
#: A few settings, as one might try by hand.
RANDOM = Search("AdamW", adamw, random_choices())
#: The default policy's update rule with tuned instead of learned learning rates.
ORTHOGONAL = Search(
    "Orthogonal Adam", partial(orthogonal_adam, spec=DEFAULT_POLICY_RULE), grid(LR_GRID)
)
#: Without a schedule, since it is meant to need none.
SCHEDULE_FREE = Search(
    "Schedule-Free AdamW", schedule_free, grid(LR_GRID, schedules=("constant",))
)
#: With the schedule of the untuned arm only: an update costs more than two of AdamW's.
SOAP = Search("SOAP", soap, grid(LR_GRID, schedules=("cosine",)))

#: With the schedule that Muon is published with.
MUON = Search("Muon + AdamW", muon, grid(LR_GRID, schedules=("cosine",)), takes_module=True)
#: Without another schedule: the rate follows the loss.
GREEDY = Search(
    "AdamW GreedyLR", adamw, grid(LR_GRID, schedules=("constant",)), watch=greedy
)

_COSINE = SCHEDULES["cosine"]

#: Arms that run with their own defaults, those of the short list first. Arms that are meant
#: to have a schedule follow a cosine to 0. An arm whose package is missing raises an
#: ImportError when its optimizer is made, not here.
_UNTUNED: dict[str, ArmEntry] = {
    **{n: entry for n, entry in SHORT_LIST.items() if isinstance(entry.optimizer, Arm)},
    "NAdamW warm-up + cosine": ArmEntry(
        Arm("NAdamW warm-up + cosine", nadamw, warmup_cosine),
        "NAdam with decoupled weight decay, lr 1e-3; 5 % warm-up, cosine",
    ),
    "AdamW plateau": ArmEntry(
        Arm("AdamW plateau", partial(adamw, lr=1e-3), watch=plateau),
        "AdamW, lr 1e-3, lowered by torch's ReduceLROnPlateau",
    ),
    "ScheduleFree+": ArmEntry(
        Arm("ScheduleFree+", schedule_free_plus, takes_loss=True, baseline=True),
        "Adam with averaging and a Polyak step size, which needs no rate (Defazio, 2026)",
    ),
    "Schedule-Free SGD": ArmEntry(
        Arm("Schedule-Free SGD", schedule_free_sgd),
        "SGD with averaging in place of a schedule (Defazio et al., 2024), lr 1",
        "schedulefree",
    ),
    "D-Adapt Adam": ArmEntry(
        Arm("D-Adapt Adam", dadapt_adam, _COSINE),
        "Adam that estimates its learning rate (Defazio & Mishchenko, 2023), cosine",
        "dadaptation",
    ),
    "Mechanic AdamW": ArmEntry(
        Arm("Mechanic AdamW", mechanic_adamw, _COSINE),
        "AdamW scaled by an online learner (Cutkosky et al., 2023), cosine",
        "mechanic-pytorch",
    ),
    "Adam-HD": ArmEntry(
        Arm("Adam-HD", adam_hd),
        "Adam with hypergradient descent on the learning rate (Baydin et al., 2018)",
    ),
    "SOAP": ArmEntry(
        Arm("SOAP", soap, _COSINE),
        "Adam in the eigenbasis of Shampoo (Vyas et al., 2024), lr 3e-3, cosine",
        "pytorch_optimizer",
    ),
    "Muon + AdamW": ArmEntry(
        Arm("Muon + AdamW", muon, _COSINE, takes_module=True),
        "Muon (Jordan et al., 2024) on hidden weights, AdamW on the rest, lr 1e-3, cosine",
        "torch (2.9 or later)",
    ),
    "Orthogonal Adam WSD": ArmEntry(
        Arm(
            "Orthogonal Adam WSD",
            partial(orthogonal_adam, lr=1e-2, spec=DEFAULT_POLICY_RULE),
            SCHEDULES["wsd"],
        ),
        "the default policy's rule without the policy, lr 1e-2, stable then decayed",
    ),
    "Orthogonal Adam linear": ArmEntry(
        Arm(
            "Orthogonal Adam linear",
            partial(orthogonal_adam, lr=2e-2, spec=DEFAULT_POLICY_RULE),
            SCHEDULES["linear"],
        ),
        "the default policy's rule without the policy, lr 2e-2, falling linearly to 0",
    ),
    "PILOT": ArmEntry(
        Arm("PILOT", pilot, _COSINE),
        "rule adapted during the run (Altuuaim et al., 2026), lr 1e-3, cosine",
        "pilot-optimizer",
    ),
}

#: All arms by the names of their columns: untuned ones, AdamW with one setting for all
#: tasks, and those that are tuned for each task.
ARMS: dict[str, ArmEntry] = {
    **_UNTUNED,
    SHARED: SHORT_LIST[SHARED],
    TUNED: SHORT_LIST[TUNED],
    "SGD tuned": ArmEntry(
        SGD, "SGD with momentum 0.9; the best of 7 learning rates, 3 schedules"
    ),
    "AdamW random search": ArmEntry(RANDOM, "AdamW with the best of 5 random settings"),
    "Orthogonal Adam tuned": ArmEntry(
        ORTHOGONAL,
        "the default policy's rule without the policy; 7 learning rates, 3 schedules",
    ),
    "Schedule-Free AdamW tuned": ArmEntry(
        SCHEDULE_FREE, "Schedule-Free AdamW; the best of 7 learning rates", "schedulefree"
    ),
    "SOAP tuned": ArmEntry(
        SOAP, "SOAP, cosine; the best of 7 learning rates", "pytorch_optimizer"
    ),
    "Muon + AdamW tuned": ArmEntry(
        MUON,
        "Muon + AdamW, cosine; the best of 7 learning rates",
        "torch (2.9 or later)",
    ),
    "AdamW GreedyLR tuned": ArmEntry(
        GREEDY,
        "AdamW, raised while the loss falls (GreedyLR, 2025); the best of 7 first rates",
        "transformers",
    ),
}

#: Searches that choose a setting for each task, by the name of the column.
SEARCHES: dict[str, Search] = {
    name: entry.optimizer
    for name, entry in ARMS.items()
    if isinstance(entry.optimizer, Search) and not entry.shared
}


def untuned_arms() -> list[Arm]:
    """Return all arms that run with their own defaults, in the order of :data:`ARMS`."""
    entries = (entry.optimizer for entry in ARMS.values())
    return [optimizer for optimizer in entries if isinstance(optimizer, Arm)]
