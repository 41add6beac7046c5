"""What does a process that computes do with memory? It keeps what is freed for the next tensor, and says its peak."""

import ctypes
from contextlib import suppress
from pathlib import Path

# Parameters of mallopt, from glibc's malloc.h, and what they are set to, in bytes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _LARGEST = 1 << 30, 1 << 28


def keep_freed_memory() -> None:
    """Have the C library keep up to 1 GiB of freed memory, and take blocks of up to 256 MiB out of it, from now on.

    As it comes, it gives every large block back to the system at once, and the next tensor pays for new pages: 6 % of
    ViT-B's importance and 13 to 17 % of DeiT-tiny's (docs/performance.md). This is glibc, so Linux; nothing
    happens elsewhere. For a process that computes, not for one that serves.
    """
    with suppress(OSError, AttributeError):  # another C library, which has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)


def forget_peak() -> None:
    """Have `peak_mb` start again from what this process holds now."""
    with suppress(OSError):  # not Linux
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> int | None:
    """The most memory that this process held since `forget_peak`, in MB; None where the system is not Linux."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(status.partition("VmHWM:")[2].split()[0]) // 1000
