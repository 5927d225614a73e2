"""Comparison of optimizers on tasks that no policy is trained on.

An *arm* is an optimizer under test with its schedule, a *search* tunes one, a *row* is the
result of one run, and a *control* is a learned policy deprived of its training or of its
observations. The folders, each of which imports only from earlier ones, are ``tasks`` and
``arms``, ``runs`` (make and store rows), ``stats`` (compare them) and ``report`` (print and
plot them). The command is ``python -m agents.evaluation``.
"""

from .arms.arm import Arm
from .arms.learned import learned_arm
from .report.tables import format_summary, format_table, write_csv
from .row import Row
from .runs.baselines import BaselineRuns, start_baselines
from .runs.run import train
from .runs.runner import evaluate
from .stats.summary import summarize
from .tasks.problem import HeldoutTask

__all__ = [
    "Arm",
    "BaselineRuns",
    "HeldoutTask",
    "Row",
    "evaluate",
    "format_summary",
    "format_table",
    "learned_arm",
    "start_baselines",
    "summarize",
    "train",
    "write_csv",
]
