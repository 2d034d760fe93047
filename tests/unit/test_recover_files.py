"""Where a recovery may write, and how the log becomes segment files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.recovering import Notes

from threefold.kernel.errors import BadInput, Damaged, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.recover.configure import _localize as localize
from threefold.recover.configure import configure
from threefold.recover.destination import MARKER, Destination, disk_errors
from threefold.recover.overrides import SEVERED, appended
from threefold.recover.plan import Plan
from threefold.recover.restore import _lacking, _make_files, restore
from threefold.recover.targets import Latest
from threefold.recover.wal_files import WalFiles
from threefold.vault.chunker import ChunkNamer
from threefold.vault.manifest import File, Summary, Tablespace
from threefold.vault.pack import Place

MB = 2**20
SPACES = (Tablespace(16400, "/srv/fast"), Tablespace(16401, "pg_tblspc/16401"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_paths_go_where_they_belong(tmp_path: Path) -> None:
    there = Destination.of(tmp_path / "data", SPACES, {})
    assert there.path("base/1/2") == tmp_path / "data/base/1/2"
    assert there.path("pg_tblspc/16400/PG_18/1/2") == tmp_path / "data-tablespaces/16400/PG_18/1/2"
    assert there.path("pg_tblspc/16401/PG_18/1/2") == tmp_path / "data/pg_tblspc/16401/PG_18/1/2"  # in place
    assert there.path("tablespace_map") is None
    assert there.path(MARKER) is None
    mapped = Destination.of(tmp_path / "data", SPACES, {16400: tmp_path / "fast"})
    assert mapped.path("pg_tblspc/16400/PG_18/1/2") == tmp_path / "fast/PG_18/1/2"
    with pytest.raises(BadInput, match="no tablespace 5"):
        Destination.of(tmp_path / "data", SPACES, {5: tmp_path / "fast"})
    latin = b"/srv/caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(BadInput) as caught:
        Destination.of(tmp_path / "data", (Tablespace(16400, latin),), {5: tmp_path / "fast"})
    assert caught.value.hint == r"it has 16400 (/srv/caf\xe9)"  # and can be printed


def test_only_empty_folders_or_our_own_unfinished_ones_are_taken(tmp_path: Path) -> None:
    there = Destination.of(tmp_path / "data", SPACES, {})
    assert there.claim({"snapshot": "s"}) is False
    assert there.claim({"snapshot": "s"}) is True
    mapped = Destination.of(tmp_path / "data", SPACES, {16400: tmp_path / "fast"})
    (tmp_path / "fast").mkdir()
    (tmp_path / "fast" / "precious").write_text("mine")
    with pytest.raises(Refused, match="not empty"):  # not ours, though the data folder is
        mapped.claim({})
    assert names(tmp_path / "fast") == ["precious"]
    there.mark({"finished": True})
    with pytest.raises(Refused, match="not empty"):
        there.claim({})
    (tmp_path / "data" / MARKER).write_text("{}")
    with pytest.raises(Refused, match="not empty"):
        there.claim({})
    (tmp_path / "data" / MARKER).write_text("not json")
    with pytest.raises(Refused, match="not empty"):
        there.claim({})
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="not a folder"):
        Destination.of(tmp_path / "file", (), {}).claim({})


def test_a_folder_in_which_a_server_runs_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Destination.of(tmp_path / "data", (), {})
    there.claim({})
    monkeypatch.chdir(tmp_path / "data")  # as a postmaster's working directory is its data folder
    (tmp_path / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with pytest.raises(Refused, match="PostgreSQL is running"):
        there.claim({})


def test_too_little_room_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    there = Destination.of(tmp_path / "data", SPACES, {})
    there.claim({})
    there.check_room({tmp_path / "data": 1000})
    with pytest.raises(BadInput, match="bytes free"):
        there.check_room({tmp_path / "data": 2**60})
    assert json.loads((tmp_path / "data" / MARKER).read_text())["finished"] is False
    with (
        pytest.raises(Unavailable, match="is full"),
        disk_errors(tmp_path),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_what_postgresql_is_told_is_on_the_disk_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, a data folder without its recovery.signal would start as a crashed primary, and diverge."""
    synced: list[int] = []
    real = os.fsync

    def recording(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    there = Destination.of(tmp_path / "data", (), {})
    there.claim({})
    (there.into / "postgresql.auto.conf").write_bytes(b"cluster_name = '\xff'\n")
    monkeypatch.setattr(os, "fsync", recording)
    at = datetime(2026, 11, 22, 10, tzinfo=UTC)
    snapshot = Summary("s", "", 7, 18, 16 * MB, 1, Lsn(0), Lsn(8), at, at, 0, 0)
    settings = {**SEVERED, **Plan(snapshot, Latest(), 1, Lsn(0), Lsn(8)).settings()}
    configure(there.into, lambda before: appended(before, settings), Silent(), signal="recovery.signal")
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf", "recovery.signal"):
        assert (there.into / name).stat().st_ino in synced, name
        assert (there.into / name).stat().st_mode & 0o777 == 0o600
    assert synced[-2:] == [(there.into / "recovery.signal").stat().st_ino, there.into.stat().st_ino]
    assert (there.into / "postgresql.auto.conf").read_bytes().startswith(b"cluster_name = '\xff'\n")


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF])
def test_a_file_system_that_does_not_allocate_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", _failing(error))
    _make_files([(File("big", 0o600, 3 * MB + 1, 0, 0, ()), tmp_path / "big")])
    assert (tmp_path / "big").stat().st_size == 3 * MB + 1


def test_room_for_a_restored_file_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunks come in the order of packs; written into holes, each would get a place of its own on the disk."""
    file = File("big", 0o600, 3 * MB + 1, 0, 0, ())
    _make_files([(file, tmp_path / "big")])
    assert (tmp_path / "big").stat().st_blocks * 512 >= 3 * MB
    monkeypatch.setattr(os, "posix_fallocate", _failing(errno.ENOSPC))
    with pytest.raises(Unavailable, match="is full"), disk_errors(tmp_path):
        _make_files([(file, tmp_path / "big")])


async def test_an_interrupted_recovery_is_gone_on_with_where_its_files_take_most_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their room was taken before their chunks came: it is not asked for a second time."""
    chunks = 96
    namer = ChunkNamer(Keyring(bytes(32)))
    plain = [bytes([number]) * MB for number in range(chunks)]
    file = File("big", 0o600, chunks * MB, 0, 0, tuple(range(chunks)))
    places = [Place("p", number * MB, MB, MB) for number in range(chunks)]
    manifest = SimpleNamespace(files=[file], directories=[], places=places, names=[namer.name(each) for each in plain])
    there = Destination.of(tmp_path / "data", (), {})
    there.claim({})

    def usage(folder: Path) -> Any:
        taken = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
        return SimpleNamespace(free=(chunks + 80) * MB - taken)  # 64 MiB are left free, and 16 besides

    monkeypatch.setattr(shutil, "disk_usage", usage)
    given: list[int] = []

    class Given:
        keyring = Keyring(bytes(32))

        def __init__(self, most: int) -> None:
            self.most = most

        async def chunks(self, wanted: list[tuple[bytes, Place]]) -> list[bytes]:
            if len(given) >= self.most:
                raise Unavailable("the stores went away")
            numbers = [place.offset // MB for _, place in wanted]
            given.extend(numbers)
            return [plain[number] for number in numbers]

    async def run(vault: Given, *, resumed: bool) -> None:
        await restore(cast("Any", vault), cast("Any", manifest), there, Silent(), resumed=resumed, wal_bytes=0)

    with pytest.raises(Unavailable, match="went away"):
        await run(Given(8), resumed=False)
    await run(Given(1000), resumed=True)
    assert set(given) == set(range(chunks))
    assert len(given) <= chunks + 8  # what was on its way when the first run ended may be fetched again
    assert (there.into / "big").read_bytes() == b"".join(plain)


def _failing(error: int) -> Any:
    def fail(*_: int) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def test_no_settings_file_leads_out_of_the_folder(tmp_path: Path) -> None:
    notes = Notes()
    outside = tmp_path / "outside.conf"
    outside.write_text("port = 1\n")
    into = tmp_path / "data"
    (into / "conf.d").mkdir(parents=True)
    main, more, auto = into / "postgresql.conf", into / "conf.d/more.conf", into / "postgresql.auto.conf"
    main.write_text(f"include_dir 'conf.d'\ninclude '{outside}'\ninclude '../outside.conf'\ninclude 'gone'\n")
    more.write_text("include '../postgresql.conf'\ndata_directory = '/srv/of-the-primary'\n")
    auto.write_text("hba_file = '/etc/hba'\n")
    localize(into, [main, auto], notes)
    assert main.read_text().splitlines()[0] == "include_dir 'conf.d'"
    assert [line[0] for line in main.read_text().splitlines()] == ["i", "#", "#", "#"]
    assert [line[0] for line in more.read_text().splitlines()] == ["#", "#"]
    assert auto.read_text().startswith("#")
    assert len(notes.said) == 6
    assert any(note.startswith("conf.d/more.conf had data_directory = '/srv/of-the-primary'") for note in notes.said)


def test_segments_are_whole_and_named_after_their_newest_timeline(tmp_path: Path) -> None:
    files = WalFiles(tmp_path, MB, Lsn(3 * MB))
    log = bytes(range(256)) * (3 * MB // 256)
    files.write(1, Lsn(3 * MB), log[: MB + 1000])
    files.write(2, Lsn(4 * MB + 1000), log[MB + 1000 : 2 * MB + 300])
    files.finish(Lsn(5 * MB + 300))
    assert names(tmp_path) == [f"{'00000001'}{0:08X}{3:08X}", f"{2:08X}{0:08X}{4:08X}", f"{2:08X}{0:08X}{5:08X}"]
    one, two, three = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert one + two == log[: 2 * MB]
    assert three == log[2 * MB : 2 * MB + 300] + bytes(MB - 300)


def test_an_end_on_a_boundary_makes_no_empty_segment(tmp_path: Path) -> None:
    files = WalFiles(tmp_path, MB, Lsn(3 * MB))
    files.write(1, Lsn(3 * MB), b"x" * MB)
    files.finish(Lsn(4 * MB))
    assert len(names(tmp_path)) == 1


def test_a_gap_or_a_short_log_is_not_passed_on(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="no segment's start"):
        WalFiles(tmp_path, MB, Lsn(3 * MB + 8))
    files = WalFiles(tmp_path, MB, Lsn(3 * MB))
    files.write(1, Lsn(3 * MB), b"x" * 10)
    with pytest.raises(Damaged, match="no bytes from 0/30000A"):
        files.write(1, Lsn(3 * MB + 20), b"x")
    with pytest.raises(Damaged, match="stop at 0/30000A"):
        files.finish(Lsn(3 * MB + 20))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="what the page cache holds cannot be dropped here")
def test_a_file_is_compared_as_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing back failed, the page cache has it whole and the disk has not; an earlier run was told of it."""
    path, whole = tmp_path / "1259", b"what the snapshot has"
    path.write_bytes(whole)
    namer = ChunkNamer(Keyring(bytes(32)))
    manifest: Any = SimpleNamespace(names=[namer.name(whole)], places=[Place("pack", 0, len(whole), len(whole))])
    file = File("1259", 0o600, len(whole), 0, 0, (0,))
    assert _lacking(manifest, file, path, namer) == []
    # From here on what is dropped from the page cache turns out not to be on the disk.
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: path.write_bytes(bytes(len(whole))))
    assert _lacking(manifest, file, path, namer) == [(0, 0)]
