"""Settings that are read again when their file changes, for what runs for months and must not be found with old ones.

A file that cannot be used keeps those in use, and that is said, once for each content. One that reads the same (a
comment, another order) changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import ThreefoldError
from threefold.kernel.report import Report
from threefold.settings import Settings, load

_LOOK_S: Final = 2.0


class Rereading:
    """``usable`` raises a ThreefoldError for settings that this process cannot go on with."""

    def __init__(self, path: Path, usable: Callable[[Settings], object], clock: Clock, report: Report) -> None:
        self._path = path
        self._usable = usable
        self._clock = clock
        self._report = report
        self._seen = b""  # the first look compares: the file may have changed since it was read

    async def changed(self, now: Settings, at_rest: Callable[[], bool]) -> Settings:
        """Those of the file, once they are others than ``now`` and it is ``at_rest``. Does not raise for the file."""
        while True:
            await self._clock.sleep(_LOOK_S)
            content = self._content()
            # Looked at twice: an editor may be in the midst of it.
            await self._clock.sleep(_LOOK_S / 4)
            if content in {self._seen, b""} or content != self._content() or not at_rest():
                continue
            self._seen = content
            try:
                found = load(self._path)
                self._usable(found)
            except ThreefoldError as error:
                self.refused(error)
                continue
            if found != now:
                self._report("the settings have changed: going on with the new ones", file=str(self._path))
                return found

    def refused(self, error: ThreefoldError) -> None:
        """Those of the file are not gone on with."""
        self._report(
            "the changed settings cannot be used: going on with the ones before",
            level="error",
            file=str(self._path),
            reason=error.message,
            hint=error.hint,
        )

    def _content(self) -> bytes:
        """A digest; empty where the file is not there, or does not read, at this moment."""
        try:
            return sha256(self._path.read_bytes()).digest()
        except OSError:
            return b""
