"""The folder that is recovered into: ours alone, and fit to be gone on with after a crash.

Invariant: before anything else is written, `MARKER` stands in the folder, which was empty then. So what lies beside an
unfinished marker is ours, and a recovery that was killed may be run again, with any target: what matches the snapshot
by digest is kept, what does not is written again, what does not belong is removed. A finished marker, like any other
content, is somebody's database, and is refused.

Tablespaces go beside the data folder (``INTO-tablespaces/<oid>``), not into it: a base backup of the recovered server
would hold them twice.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from threefold.kernel.errors import BadInput, Refused, Unavailable
from threefold.vault.manifest import Tablespace

MARKER: Final = "threefold-recovery.json"
# Not wanted: tablespace_map, which is in every backup (the links are made here, where they lead is ours to say), and
# standby.signal, which a backup of a standby holds: it beats recovery.signal, and the server would follow for ever.
_NOT_RESTORED: Final = frozenset({"tablespace_map", "standby.signal", MARKER})
_MARGIN_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Destination:
    """Where everything of a snapshot goes. ``tablespaces``: OID → folder."""

    into: Path
    tablespaces: Mapping[int, Path]

    @classmethod
    def of(cls, into: Path, tablespaces: tuple[Tablespace, ...], mapping: Mapping[int, Path]) -> Destination:
        """Raises BadInput for a mapping of a tablespace that the snapshot does not have."""
        into = into.absolute()
        unknown = sorted(mapping.keys() - {space.oid for space in tablespaces})
        if unknown:
            there = ", ".join(f"{space.oid} ({_shown(space.location)})" for space in tablespaces) or "none"
            raise BadInput(f"the snapshot has no tablespace {unknown[0]}", hint=f"it has {there}")
        beside = into.with_name(f"{into.name}-tablespaces")
        return cls(
            into,
            {
                # A relative location is one in place (allow_in_place_tablespaces): a folder, not a link.
                space.oid: mapping.get(space.oid, beside / str(space.oid)).absolute()
                for space in tablespaces
                if Path(space.location).is_absolute()
            },
        )

    def path(self, name: str) -> Path | None:
        """Where a path of the manifest goes; None: it is not restored."""
        if name in _NOT_RESTORED:
            return None
        first, _, rest = name.partition("/")
        if first == "pg_tblspc":
            oid, _, inner = rest.partition("/")
            if oid.isdigit() and int(oid) in self.tablespaces:
                return self.tablespaces[int(oid)] / inner
        return self.into / name

    def roots(self) -> list[Path]:
        return [self.into, *self.tablespaces.values()]

    def claim(self, record: Mapping[str, Any], *, rebuild: bool = False) -> bool:
        """Make the folders ours, or find that an unfinished recovery of ours left them; True: go on with that.

        ``rebuild``: what is there is given up, and gone on with like an unfinished recovery; the caller knows that it
        may be, and that no server runs on it. Raises Refused for anything else that is there.
        """
        ours = rebuild or self._unfinished()
        for root in self.roots():
            if root.exists() and not root.is_dir():
                raise Refused(f"{root} is not a folder", hint="name a new or an empty folder")
            # A recovery killed while it wrote its first marker leaves the draft of it, and nothing else.
            if not ours and root.exists() and any(each.name != f"{MARKER}.new" for each in root.iterdir()):
                raise Refused(f"{root} is not empty", hint="name a new or an empty folder; nothing was touched")
        with disk_errors(self.into):
            # The data folder first, and its marker, so that the others are ours from the moment they are made.
            self.into.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.into.chmod(0o700)
            self.mark({**record, "finished": False, "tablespaces": [str(path) for path in self.tablespaces.values()]})
            for root in self.tablespaces.values():
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return ours

    def mark(self, record: Mapping[str, Any]) -> None:
        """Replace the marker, durably."""
        write_durably(self.into / MARKER, f"{json.dumps(record, indent=1)}\n")

    def check_room(self, bytes_wanted: Mapping[Path, int]) -> None:
        """``bytes_wanted``: folder → bytes still to be written. Raises BadInput where a disk lacks room."""
        disks: dict[int, tuple[Path, int]] = {}
        for folder, wanted in bytes_wanted.items():
            device = folder.stat().st_dev
            first, so_far = disks.get(device, (folder, 0))
            disks[device] = (first, so_far + wanted)
        for folder, wanted in disks.values():
            free = shutil.disk_usage(folder).free
            if wanted + _MARGIN_BYTES > free:
                raise BadInput(
                    f"the disk of {folder} has {free:,} bytes free, and the recovery needs {wanted + _MARGIN_BYTES:,}",
                    hint="make room or name another folder; what was restored so far is kept and gone on with",
                )

    def _unfinished(self) -> bool:
        try:
            record = json.loads((self.into / MARKER).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return False
        except ValueError:
            record = {}  # ours is replaced as a whole: this one is somebody else's
        if record.get("finished") is not False:
            return False
        refuse_running(self.into)
        before = {Path(path) for path in record.get("tablespaces", ())}
        return all(root == self.into or root in before or not root.exists() for root in self.roots())


def _shown(path: str) -> str:
    """For people: a path need not be UTF-8, a terminal and a log are."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def refuse_running(data_dir: Path) -> None:
    """Raises Refused where a PostgreSQL runs on the folder."""
    try:
        pid = int((data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
        running = Path(psutil.Process(pid).cwd()) == data_dir.resolve()
    except (OSError, ValueError, psutil.Error):
        return
    if running:
        raise Refused(f"PostgreSQL is running in {data_dir}, process {pid}", hint=f"stop it: pg_ctl stop -D {data_dir}")


def write_durably(path: Path, text: str) -> None:
    """Make or replace a file as a whole, its owner kept; on the disk, under its name, when this returns."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", errors="surrogateescape") as file:
        os.fchmod(file.fileno(), 0o600)
        if path.exists() and os.geteuid() == 0:
            # PostgreSQL's own by now, who does not run as root and has to go on reading it.
            before = path.stat()
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the disk says, as errors for people."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise Unavailable(
                f"the disk of {folder} is full",
                hint="make room and run the same command again: it goes on where it stopped; or remove the folder",
            ) from None
        raise BadInput(
            f"{error.filename or folder} cannot be written: {error.strerror}", hint="check the folder and its rights"
        ) from None
