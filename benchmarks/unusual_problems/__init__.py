"""Training problems that differ from classification by ordinary networks.

They are small: no run takes more than a few seconds of CPU time.
"""

from __future__ import annotations

from .decisions import DECISIONS
from .depth import DEPTH
from .generative import GENERATIVE
from .likelihoods import LIKELIHOODS
from .loops import LOOPS
from .metrics import METRICS
from .problem import Problem, Run
from .structures import STRUCTURES

__all__ = ["PROBLEMS", "Problem", "Run"]

#: All problems by name.
PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problems in (
        LIKELIHOODS, METRICS, GENERATIVE, DEPTH, STRUCTURES, LOOPS, DECISIONS,
    )
    for problem in problems
}  # fmt: skip
