"""Which machine this is, as far as a process number means the same process here and there."""

from __future__ import annotations

import socket
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PIDS = Path("/proc/self/ns/pid")


def this_machine() -> str:
    """Host, boot and process-number space (a container has its own); on other systems than Linux the host alone."""
    try:
        return f"{socket.gethostname()} {_BOOT.read_text().strip()} {_PIDS.stat().st_ino}"
    except OSError:
        return socket.gethostname()
