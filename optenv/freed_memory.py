"""Memory that a process frees: returned to the system, or kept for what comes next."""

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
    """Let this process keep memory that it frees, for tensors that it makes later.

    The GNU C library returns a block of more than 32 MiB to the system as soon as it is
    freed, and the next one of this size costs an interrupt for every page of 4 KiB. The
    steps of a batch whose parameters take more than that (``num_envs`` times their number
    times 4 bytes) spend a third of their time so. After a call of this function they do
    not; all else in the process that allocates and frees large blocks gets quicker as well,
    and the process holds on to up to ``limit`` bytes that it does not use.

    Args:
        limit: largest block, and largest number of unused bytes at the end of the heap,
            that are kept. Values above 2147483647 count as this one.

    Returns:
        Whether the C library took the setting; False for others than the GNU C library.

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
