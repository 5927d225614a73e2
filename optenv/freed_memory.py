"""Setting of the C library to keep freed memory instead of returning it to the system."""

from __future__ import annotations

import ctypes
import platform

from .checks import positive_int

__all__ = ["keep_freed_memory"]

#: Parameters of ``mallopt`` (``malloc.h`` of the GNU C library).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

#: Largest value of a parameter of ``mallopt``, an int.
_MOST = 2**31 - 1


def keep_freed_memory(limit: int = 2**30) -> bool:
    """Let this process keep the memory that it frees, for later tensors.

    The GNU C library returns a block of more than 32 MiB to the system as soon as it is
    freed, and the next block of this size costs a page fault for every page of 4 KiB. The
    steps of a batch whose parameters take more than 32 MiB (``num_envs`` times their number
    times 4 bytes) spend a third of their time on that. A call of this function avoids it.
    Everything else in the process that allocates and frees large blocks gets faster, too,
    and the process keeps up to ``limit`` unused bytes.

    Args:
        limit: largest block, and largest number of unused bytes at the end of the heap,
            that are kept. Values above 2147483647 count as 2147483647.

    Returns:
        Whether the C library accepted the setting; False if it is not the GNU C library.

    Raises:
        ValueError: ``limit`` is not a positive integer.

    Example:
        >>> import optenv
        >>> optenv.keep_freed_memory(2**28) in (True, False)
        True
    """
    value = min(positive_int("limit", limit), _MOST)
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(each, value) == 1 for each in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
