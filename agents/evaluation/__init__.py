"""How good optimizers are on tasks that no policy is trained on."""

from .results import Row, format_table, write_csv
from .run import train
from .runner import BaselineRuns, evaluate, start_baselines

__all__ = [
    "BaselineRuns",
    "Row",
    "evaluate",
    "format_table",
    "start_baselines",
    "train",
    "write_csv",
]
