"""What becomes of memory that is freed: a process that stays gives it back, a snapshot uses it again.

glibc raises its threshold for blocks of their own to whatever was freed last, up to 32 MiB (mallopt(3),
M_MMAP_THRESHOLD). Whole segments and packs then lie in heaps, of several threads, that never shrink: the DRaaS server
kept a quarter more than it used. A fixed threshold ends that. Elsewhere (musl, macOS) nothing is done: they return
large blocks by themselves.

It lies above what is made and dropped all the time, the log's entries of a megabyte: a block of its own costs a page
fault for every 4 KiB, which took a third of the DRaaS server's time while it drained much WAL. Freed at the top of a
heap those would go back at once and be asked for again, unless some are kept there.

A snapshot, or a recovery, goes through the database in blocks of a MiB and packs of 16, some dozen at once. Taken from
the system anew each time, every page of them is faulted in again: a fifth of the processor time of a snapshot that
sends nothing.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_OWN_BLOCK_BYTES: Final = 4 * 1024 * 1024
_SPARE_BYTES: Final = 16 * 1024 * 1024
_KEPT_BLOCK_BYTES: Final = 32 * 1024 * 1024  # the most that older glibc take
_KEPT_BYTES: Final = 128 * 1024 * 1024


def return_large_blocks() -> None:
    """For this process, from now on."""
    _mallopt(_M_MMAP_THRESHOLD, _OWN_BLOCK_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, _SPARE_BYTES)


def keep_large_blocks() -> None:
    """The other way round: for a process that ends when its work is done."""
    _mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _mallopt(parameter: int, value: int) -> None:
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)
