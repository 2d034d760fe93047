"""The power cut itself: it takes what no sync covers, in any part, and nothing else."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from tests.torture.cache import SECTOR, Watch, cut_power

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd")
SIZE = 4 * SECTOR


def prepared(folder: Path) -> tuple[Watch, Path]:
    (folder / "data" / "journal").mkdir(parents=True)
    return Watch(folder / "data", folder / "notes", None), folder / "data" / "journal"


def sync_folder(watch: Watch, folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    watch.fsync(fd)
    os.close(fd)


def test_what_was_synced_stays_and_the_rest_goes_in_any_part(tmp_path: Path) -> None:
    left = set()
    for seed in range(60):
        watch, journal = prepared(tmp_path / str(seed))
        fd = watch.open(journal / "f", os.O_RDWR | os.O_CREAT, 0o600)
        watch.pwrite(fd, b"a" * SIZE, 0)
        watch.fdatasync(fd)
        sync_folder(watch, journal)
        watch.pwrite(fd, b"b" * (SIZE - 100), 100)
        watch.pwrite(fd, b"c" * SECTOR, SECTOR)
        os.close(fd)
        cut_power(tmp_path / str(seed) / "data", tmp_path / str(seed) / "notes", random.Random(seed))
        data = (journal / "f").read_bytes()
        assert data[:100] == b"a" * 100
        sectors = [data[at : at + SECTOR] for at in range(0, SIZE, SECTOR)]
        assert all(len(set(sector[100:])) == 1 for sector in sectors)
        left.add(bytes(sector[-1] for sector in sectors))
    assert {b"aaaa", b"bcbb"} < left
    assert {state[1] for state in left} == set(b"abc")
    assert len(left) > 8


def test_names_go_from_some_moment_on_and_only_where_their_folder_was_not_synced(tmp_path: Path) -> None:
    left = set()
    for seed in range(40):
        watch, journal = prepared(tmp_path / str(seed))
        for name in ("old", "kept.new"):
            fd = watch.open(journal / name, os.O_RDWR | os.O_CREAT, 0o600)
            watch.pwrite(fd, name.encode(), 0)
            watch.fsync(fd)
            os.close(fd)
        watch.rename(journal / "kept.new", journal / "kept")
        sync_folder(watch, journal)
        os.close(watch.open(journal / "made.new", os.O_RDWR | os.O_CREAT, 0o600))
        watch.rename(journal / "made.new", journal / "made")
        watch.unlink(journal / "old")
        cut_power(tmp_path / str(seed) / "data", tmp_path / str(seed) / "notes", random.Random(seed))
        left.add(" ".join(sorted(path.name for path in journal.iterdir())))
        assert (journal / "kept").read_bytes() == b"kept.new"
        assert not (journal / "old").exists() or (journal / "old").read_bytes() == b"old"
    assert left == {"kept made", "kept made old", "kept made.new old", "kept old"}
