"""Chunks that lie side by side in a pack are read in one go, as far as one read may hold. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from threefold.vault.pack import Place

T = TypeVar("T")
READ_BYTES: Final = 4 * 1024 * 1024  # as they are stored, and plain, of one read
OVER_BYTES: Final = 64 * 1024  # read and thrown away rather than asked for separately


def neighbours(chunks: Iterable[T], place: Callable[[T], Place]) -> Iterator[list[T]]:
    """Groups of one pack each, in the order given. ``chunks`` are sorted by ``place``."""
    group: list[T] = []
    plain = 0
    for chunk in chunks:
        here = place(chunk)
        if group and not _fits(place(group[0]), place(group[-1]), here, plain):
            yield group
            group, plain = [], 0
        group.append(chunk)
        plain += here.size
    if group:
        yield group


def _fits(first: Place, last: Place, following: Place, plain: int) -> bool:
    return (
        following.pack == last.pack
        and following.offset - last.offset - last.stored <= OVER_BYTES
        and following.offset + following.stored - first.offset <= READ_BYTES
        and plain + following.size <= READ_BYTES
    )
