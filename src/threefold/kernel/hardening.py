"""Keys stay out of core dumps, and out of the reach of other processes of the same user (debuggers, /proc/PID/mem).

Called by whoever is about to hold a key: one that is read (bootstrap_keys.py), or made (local/create.py). What it does
not do is said in docs/explanation/security.md: root reads everything, and memory may be swapped out.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def keep_out_of_dumps() -> None:
    """For this process. Programs that it starts (PostgreSQL) write none either, unless they ask for it."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    if sys.platform == "linux":
        # The limit does not hold where the kernel pipes dumps into a program (core_pattern "|..."); this does.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
