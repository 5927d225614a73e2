"""How good optimizers are on tasks that no policy is trained on."""

from .results import Row, format_table, write_csv
from .run import train
from .runner import BaselineRuns, evaluate, start_baselines
from .summary import format_summary, summarize

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
