"""Old path of :mod:`agents.rl.rl2`.

Models that version 0.1 saved name ``agents.recurrent.LstmPolicy`` as the class of their
policy.
"""

from .rl.rl2 import RL2, LstmPolicy

__all__ = ["RL2", "LstmPolicy"]
