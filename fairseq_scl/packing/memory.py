"""glibc's allocator, set up for training on a CPU."""

import ctypes
import functools
import sys

# <malloc.h>: never map a block on its own, never give memory back.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1


@functools.cache
def keep_memory() -> bool:
    """Have glibc keep freed memory for the next step; tell whether it does.

    By default each large tensor is mapped and unmapped by the system, page by page: the
    gradient of the embedding and the optimizer's buffers then take longer to get than
    to fill. The process holds its peak memory until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
