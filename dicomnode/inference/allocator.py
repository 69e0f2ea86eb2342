"""Memory that was freed stays with the process for the next window, instead of going to the system and back.

A network's intermediate tensors have some megabytes each. By its default the C library gives such blocks back to the
system when they are freed, and the next window pays for every page again: a quarter of its processor time.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt in glibc's malloc.h
_KEPT_BYTES, _SEPARATE_BYTES = 1 << 28, 1 << 26


def keep_freed_memory() -> bool:
    """Let the process keep up to 256 MiB that it freed, in blocks of up to 64 MiB; whether its C library can."""
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    return tune is not None and bool(tune(_MMAP_THRESHOLD, _SEPARATE_BYTES) and tune(_TRIM_THRESHOLD, _KEPT_BYTES))


def give_back_freed_memory() -> None:
    """Give what was kept back to the system, where the C library can: between two jobs."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
