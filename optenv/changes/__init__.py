"""Changes of the task during a run, at times that are not observed.

The argument ``changes`` of the environments sets number and kinds of the changes of a run
(:class:`Changes`). The kinds of the package are listed in :data:`KINDS`;
:func:`register` adds one from outside the package.

A run with ``K`` changes has ``K + 1`` *stages*. Changes happen between control steps, and
they accumulate: if first the classes and then the inputs of a task are permuted, both are
permuted in the last stage.
"""

from .draws import draw, draw_counts, draw_steps, start_at
from .kinds import Change
from .losses import StageLosses
from .request import KINDS, Changes, check, fitting, make, register

__all__ = [
    "KINDS",
    "Change",
    "Changes",
    "StageLosses",
    "check",
    "draw",
    "draw_counts",
    "draw_steps",
    "fitting",
    "make",
    "register",
    "start_at",
]
