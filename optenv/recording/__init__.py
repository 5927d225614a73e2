"""Recordings: every control step of an environment as a row of a Parquet file.

:class:`Recorder` wraps a single environment, :class:`VectorRecorder` a batch. :func:`read`
returns the table, :func:`describe` its metadata, :func:`episodes` the episodes as arrays;
:func:`to_minari` makes an offline data set of recordings. ``python -m optenv.report`` draws
recordings. All of them need the extra ``record``.
"""

from .offline import Episode, episodes, to_minari
from .parquet import describe, read
from .wrappers import Recorder, VectorRecorder

__all__ = [
    "Episode",
    "Recorder",
    "VectorRecorder",
    "describe",
    "episodes",
    "read",
    "to_minari",
]
