"""Reading the tar archives of a base backup as they stream in, in pieces of any size.

What PostgreSQL sends is POSIX ustar (src/port/tar.c): 512-byte headers; regular files, directories and symbolic
links; names up to 99 bytes; a size of 8 GB and more in base 256 (high bit of the field set, big-endian). Contents are
padded to 512 bytes; two blocks of zeros end the archive, which older servers leave out. Anything else is refused:
a file that is skipped because its kind is unknown would be missing from the restore.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from threefold.kernel.errors import Damaged

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)


class Kind(Enum):
    FILE = "0"
    SYMLINK = "2"
    DIRECTORY = "5"


@dataclass(frozen=True, slots=True)
class Member:
    """A header: a member begins. A file's ``size`` bytes follow, then `MemberEnd`."""

    path: str
    kind: Kind
    mode: int
    size: int
    mtime: int
    target: str = ""  # of a symbolic link


class MemberEnd(Enum):
    """The file that began last is complete."""

    END = "end"


class TarReader:
    """Feed it bytes, get members and their contents."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0  # of the current file
        self._padding = 0
        self._in_file = False

    def feed(self, data: bytes | memoryview) -> Iterator[Member | memoryview | MemberEnd]:
        """Raises Damaged where the bytes are no tar archive that PostgreSQL writes."""
        view = memoryview(data)
        while view:
            if self._in_file and self._left:
                taken, view = view[: self._left], view[self._left :]
                self._left -= len(taken)
                yield taken
                if not self._left:
                    self._in_file = False
                    yield MemberEnd.END
            elif self._padding:
                skipped = min(self._padding, len(view))
                self._padding -= skipped
                view = view[skipped:]
            else:
                wanted = _BLOCK - len(self._header)
                self._header += view[:wanted]
                view = view[wanted:]
                if len(self._header) == _BLOCK:
                    header = bytes(self._header)
                    self._header.clear()
                    if header != _ZEROS:
                        yield from self._begin(_parse(header))

    def finish(self) -> None:
        """The archive is over. Raises Damaged where it ends within a member."""
        if self._in_file or self._padding or self._header:
            raise Damaged("a tar archive of the base backup ends in the middle of a file")

    def _begin(self, member: Member) -> Iterator[Member | MemberEnd]:
        yield member
        if member.kind is not Kind.FILE:
            return
        self._left = member.size
        self._padding = -member.size % _BLOCK
        self._in_file = member.size > 0
        if not self._in_file:
            yield MemberEnd.END


def _parse(header: bytes) -> Member:
    unsigned = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _number(header[148:156]) != unsigned:
        raise Damaged("a tar header of the base backup has a wrong checksum")
    flag = chr(header[156]) if header[156] else Kind.FILE.value
    name, prefix = _text(header[:100]), _text(header[345:500])
    path = f"{prefix}/{name}" if prefix else name
    if flag not in {kind.value for kind in Kind}:
        raise Damaged(f"the base backup holds {path!r}, a tar member of unknown kind {flag!r}")
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if path.startswith("/") or ".." in parts:
        raise Damaged(f"the base backup holds {path!r}, which leads out of the data folder")
    return Member(
        path="/".join(parts),
        kind=Kind(flag),
        mode=_number(header[100:108]) & 0o7777,
        size=_number(header[124:136]) if flag == Kind.FILE.value else 0,
        mtime=_number(header[136:148]),
        target=_text(header[157:257]),
    )


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise Damaged("a tar header of the base backup holds a number that is none") from None


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="surrogateescape")
