"""Memory that is freed goes back to the system.

glibc raises its threshold for blocks of their own to whatever was freed last, up to 32 MiB (mallopt(3),
M_MMAP_THRESHOLD). Whole segments and packs then lie in heaps, of several threads, that never shrink: the DRaaS server
kept a quarter more than it used. A fixed threshold ends that. Elsewhere (musl, macOS) nothing is done: they return
large blocks by themselves.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_OWN_BLOCK_BYTES: Final = 256 * 1024


def return_large_blocks() -> None:
    """For this process, from now on."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_BLOCK_BYTES)
