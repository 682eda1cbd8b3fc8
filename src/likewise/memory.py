"""The memory of this process: what it took at most, and keeping that of one step for the next.

glibc hands large blocks back to the system when they are freed and asks for them anew at every step; each page must
then be found and zeroed again, which on virtual machines can cost more than the arithmetic (LOG.md).
"""

import ctypes
import functools
import resource
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters, from malloc.h


def peak_memory_mb() -> float:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its next allocation. Says whether the C library can do so."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    largest = 2**31 - 1
    return bool(mallopt(_MMAP_THRESHOLD, largest) & mallopt(_TRIM_THRESHOLD, largest))
