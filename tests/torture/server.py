"""The real server in a process of its own, with small journal files, on a disk whose cache can be lost (cache.py).

As a script it is that process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from tests.torture.cache import Death

KEY, SECRET = "AKIDTORTURE", "a-secret-of-the-torture-server"
JOURNAL_FILE_BYTES = 4096 + 12_000
INLINE_BYTES_MAX = 1500
TEND_S = 0.02  # instead of a second: compaction has to be met by many kills
ROOT = Path(__file__).parents[2]


class Process:
    """``notes``: what the disk's cache holds, and what the process wrote to stderr."""

    def __init__(self, data_dir: Path, notes: Path, variant: str = "") -> None:
        self.data_dir, self.notes, self._variant = data_dir, notes, variant
        notes.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._signalled = False
        self.port = 0

    def start(self, death: Death | None) -> bool:
        """False: it died while it started, as it was told to."""
        spec = {"data_dir": str(self.data_dir), "notes": str(self.notes), "variant": self._variant}
        spec |= {"death": asdict(death)} if death else {}
        self._stderr = (self.notes / "stderr").open("wb")
        self._signalled = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.server", json.dumps(spec)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | {"THREEFOLD_STORAGE_ACCESS_KEY_ID": KEY, "THREEFOLD_STORAGE_SECRET_ACCESS_KEY": SECRET},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.port = int(line or 0)
        return bool(line)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        if self.runs:
            assert self._process is not None
            self._signalled = True
            self._process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        if self.runs:
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)

    def how(self, code: int) -> str:
        """It ended; for the figures."""
        return "in good order" if code == 0 else "by kill -9" if self._signalled else "at a system call"

    def ended(self) -> tuple[int, str]:
        """Its exit code, and what it complained of."""
        assert self._process is not None
        assert self._process.stdout is not None
        code = self._process.wait(30)
        self._process.stdout.close()
        if self._stderr is not None:
            self._stderr.close()
        return code, (self.notes / "stderr").read_text(errors="replace")


def main() -> None:
    from tests.torture.cache import Watch
    from tests.torture.variants import VARIANTS
    from threefold.kernel.errors import ThreefoldError
    from threefold.storage_server import engine
    from threefold.storage_server.engine import EngineOptions
    from threefold.storage_server.serve import ServeConfig, serve

    spec: dict[str, Any] = json.loads(sys.argv[1])
    engine._TICK_S = TEND_S
    data_dir = Path(spec["data_dir"])
    Watch(data_dir, Path(spec["notes"]), Death(**spec["death"]) if "death" in spec else None).install()
    if spec["variant"]:
        VARIANTS[spec["variant"]]()
    options = EngineOptions(JOURNAL_FILE_BYTES, INLINE_BYTES_MAX, min_free_bytes=0)
    try:
        serve(ServeConfig(data_dir, port=0, engine=options), on_ready=lambda _, port: print(port, flush=True))
    except ThreefoldError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
