"""Progress of long computations, shown to the user."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["progress_bar", "progress_range"]


@contextlib.contextmanager
def progress_bar(total: int, label: str, shown: bool) -> Iterator[Callable[[], object]]:
    """A bar, where tqdm is installed; yields the function that advances it by one."""
    bar: Any = None
    if shown:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm  # type: ignore[import-untyped]

            bar = tqdm(total=total, desc=label, unit="run")
    try:
        yield (lambda: None) if bar is None else bar.update
    finally:
        if bar is not None:
            bar.close()


def progress_range(total: int, progress_bar: bool) -> Iterable[int]:
    """``range(total)``, with a bar if one is asked for."""
    if not progress_bar:
        return range(total)
    from tqdm import trange  # type: ignore[import-untyped]

    return trange(total)
