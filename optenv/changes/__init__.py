"""Changes of the task during a run, of which no observation tells the time.

The argument ``changes`` of the environments says how many changes a run has, and of which
kinds (:class:`Changes`). The kinds of the package are listed in :data:`KINDS`;
:func:`register` adds one from outside the package.

A run with ``K`` changes has ``K + 1`` *stages*. Changes happen between control steps, and
each kind goes on from where its last change has left it. So a task whose classes were
permuted, and then its inputs, has both permuted.
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
