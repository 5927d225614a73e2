"""A Ray cluster for tests, which leaves no warnings behind."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Iterator

from agents.utils.ray_cluster import cluster


@contextlib.contextmanager
def ray_cluster(cpus: int) -> Iterator[None]:
    """Start a cluster of this machine for the time within.

    Ray drops the handles of its processes without waiting for them, of which Python warns
    when it collects them, in whatever test that happens.
    """
    with cluster(cpus):
        yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
