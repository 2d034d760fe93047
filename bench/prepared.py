"""A folder that was filled once, put back to how it was before each round: only what a round changed is copied.

A database of 5 GB takes minutes to fill and to snapshot. What one round of `bench.failover` changes is a few files:
the rest of the copy, of the stores' objects and of the primary stays where it is.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def put_back(prepared: Path, home: Path) -> None:
    """Make ``home`` what ``prepared`` is. A file of the same size and time of change (ns) is taken for the same one."""
    _remove_what_is_new(prepared, home)
    for source, folders, files in os.walk(prepared):
        target = home / Path(source).relative_to(prepared)
        if not target.exists():
            target.mkdir()
            _like(Path(source), target)
        for name in folders:
            if (Path(source) / name).is_symlink():
                _copy(Path(source) / name, target / name)
        for name in files:
            if not _same(Path(source) / name, target / name):
                _copy(Path(source) / name, target / name)


def _remove_what_is_new(prepared: Path, home: Path) -> None:
    for there, folders, files in os.walk(home):
        was = prepared / Path(there).relative_to(home)
        for name in files:
            if not os.path.lexists(was / name):
                (Path(there) / name).unlink()
        for name in list(folders):
            if not os.path.lexists(was / name):
                folders.remove(name)
                shutil.rmtree(Path(there) / name)


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or not os.path.lexists(other):
        return False
    a, b = one.lstat(), other.lstat()
    return a.st_size == b.st_size and a.st_mtime_ns == b.st_mtime_ns


def _copy(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        target.unlink()
    shutil.copy2(source, target, follow_symlinks=False)
    _like(source, target)


def _like(source: Path, target: Path) -> None:
    """PostgreSQL's own folders belong to the user whom it runs as."""
    shutil.copystat(source, target, follow_symlinks=False)
    at = source.lstat()
    os.chown(target, at.st_uid, at.st_gid, follow_symlinks=False)
