"""How long work says where it is; the command line turns it into a bar, JSON lines, or silence."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Steps have a stable machine name (``fetch-wal``) and a unit (``bytes``, ``files``, ``objects``)."""

    def step(self, name: str, text: str, *, total: int | None = None, unit: str = "bytes") -> None:
        """A new step begins; the one before is done."""
        ...

    def advance(self, amount: int) -> None:
        """That much more of the current step is done."""
        ...

    def note(self, text: str) -> None:
        """One sentence the user should see, now (a store was overtaken, a damaged copy replaced, ...)."""
        ...


class Silent:
    """Says nothing."""

    def step(self, name: str, text: str, *, total: int | None = None, unit: str = "bytes") -> None: ...

    def advance(self, amount: int) -> None: ...

    def note(self, text: str) -> None: ...
