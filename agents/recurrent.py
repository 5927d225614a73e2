"""Old path of :mod:`agents.rl.rl2`, which saved models of version 0.1 refer to."""

from .rl.rl2 import *  # noqa: F403
from .rl.rl2 import __all__ as __all__
