"""How good optimizers are on tasks that no policy is trained on."""

from .runs.run import train
from .runs.runner import BaselineRuns, evaluate, start_baselines
from .stats.results import Row, format_table, write_csv
from .stats.summary import format_summary, summarize

__all__ = [
    "BaselineRuns",
    "Row",
    "evaluate",
    "format_summary",
    "format_table",
    "start_baselines",
    "summarize",
    "train",
    "write_csv",
]
