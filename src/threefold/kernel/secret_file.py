"""Files that hold a secret: for their owner alone from the first moment, whole or not there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from threefold.kernel.errors import BadInput, Refused


def write_new(path: Path, text: str) -> None:
    """Raises Refused where something is there already, BadInput where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Refused(f"{path} is there already", hint="nothing is overwritten: name another file") from None
    except OSError as error:
        raise _cannot(path, error) from None
    try:
        _write(descriptor, text)
        _keep(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)  # a part of a key file would be taken for one
        raise _cannot(path, error) from None


def replace(path: Path, text: str) -> None:
    """The old text or the new one, also after a crash; its owner stays. Raises BadInput."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if path.exists():
            before = path.stat()
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, before.st_uid, before.st_gid)
        _write(descriptor, text)
        beside.rename(path)
        _keep(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise _cannot(path, error) from None


def _write(descriptor: int, text: str) -> None:
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _keep(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot(path: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot write {path}: {(error.strerror or 'unknown reason').lower()}")
