"""Draws the table of states into docs/explanation/failover.md: ``python -m tests.failover_docs``. A test compares."""

from __future__ import annotations

import re
from pathlib import Path

from threefold.failover.states import mermaid, table

DOCUMENT = Path(__file__).parent.parent / "docs" / "explanation" / "failover.md"
_PLACE = re.compile(r"(<!-- drawn from failover/states.py -->\n).*(\n<!-- end -->)", re.DOTALL)


def drawn(text: str) -> str:
    """The document with the table as it is now."""
    drawing = f"```mermaid\n{mermaid()}\n```\n\n{table()}"
    new, places = _PLACE.subn(lambda found: found[1] + drawing + found[2], text)
    assert places == 1, "the document has lost the place of the drawing"
    return new


if __name__ == "__main__":
    DOCUMENT.write_text(drawn(DOCUMENT.read_text()))
