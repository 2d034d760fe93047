"""Numbers and moments as people read them. Pure."""

from __future__ import annotations

from datetime import datetime

from rich import box
from rich.table import Table


def size(count: float) -> str:
    """``1.4 MB``: powers of 1000, as disks and providers count."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def span(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 20 s``, ``5 h 10 min``, ``3 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, below, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // below} {rest}"
    return f"{whole} s"


def moment(at: datetime) -> str:
    """In UTC, to the second."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def count(number: int, what: str) -> str:
    """``1 change``, ``12 345 changes``."""
    return f"{number:,}".replace(",", " ") + f" {what}{'' if number == 1 else 's'}"


def table(*headers: str, title: str = "") -> Table:
    """The one look of our tables; cells are not broken."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left", title_style="bold")
    for header in headers:
        made.add_column(header, no_wrap=True)
    return made


def facts_table(title: str = "") -> Table:
    """Names and values, without a frame."""
    made = Table(box=None, show_header=False, pad_edge=False, title=title or None, title_justify="left")
    made.title_style = "bold"
    made.add_column(no_wrap=True, style="dim")
    made.add_column()
    return made
