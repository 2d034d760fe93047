"""The engine on real files: against a dict as model, torn at every byte, damaged, and with files missing."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Damaged, Refused, ThreefoldError
from threefold.storage_server import disk
from threefold.storage_server.app import App, AppOptions
from threefold.storage_server.compaction import compact_oldest
from threefold.storage_server.disk import NoNextFile
from threefold.storage_server.engine import Engine, EngineOptions
from threefold.storage_server.entries import INLINE
from threefold.storage_server.journal_file import JournalFile
from threefold.storage_server.messages import Request
from threefold.storage_server.records import PAGE, FileHeader, Kind, scan
from threefold.storage_server.s3 import Condition, S3Error
from threefold.storage_server.sigv4 import Credentials, Verifier

OPTIONS = EngineOptions(journal_file_bytes=PAGE + 6000, inline_bytes_max=1000, min_free_bytes=0)
NO_LOCK = ("", 0)


async def put(engine: Engine, key: str, body: bytes, *, create: bool = False) -> None:
    sha256, condition = hashlib.sha256(body).digest(), Condition(create=create)
    if len(body) <= OPTIONS.inline_bytes_max:
        await engine.put_small("b-b", key, body, sha256=sha256, condition=condition, attributes=b"", lock=NO_LOCK)
        return
    writer = engine.blobs.create()
    writer.write(body)
    try:
        await engine.put_file("b-b", key, writer, sha256=sha256, condition=condition, attributes=b"", lock=NO_LOCK)
    except S3Error:
        writer.abandon()
        raise


async def get(engine: Engine, key: str) -> bytes:
    entry = await engine.find("b-b", key)
    if entry.file_id == INLINE:
        return await engine.read_small(entry)
    return b"".join([block async for block in engine.read_file(entry, 0, entry.size)])


async def contents(engine: Engine) -> dict[str, bytes]:
    listing = await engine.list("b-b", prefix="", after="", delimiter="", limit=1000)
    return {key: await get(engine, key) for key, _ in listing.objects}


async def crash(engine: Engine) -> None:
    """As kill -9 leaves it: nothing is flushed, nothing is said."""
    engine._tender.cancel()
    await asyncio.sleep(0)
    engine.journal._queue.put(None)
    await asyncio.to_thread(engine.journal._thread.join)
    await asyncio.to_thread(engine.journal._maker.shutdown)
    engine._lock.release()


async def opened(folder: Path) -> Engine:
    engine = Engine(folder, SystemClock(), OPTIONS)
    await engine.make_bucket("b-b")
    return engine


KEYS = st.sampled_from(["a", "b", "c/d", "c/e", "ä"])
BODIES = st.one_of(st.binary(max_size=50), st.integers(0, 1000).map(lambda n: b"x" * n), st.just(b"large" * 300))


class AgainstDict(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.model = {}
        self.engine = self.run(opened(self.folder))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    @rule(key=KEYS, body=BODIES)
    def put(self, key: str, body: bytes) -> None:
        self.run(put(self.engine, key, body))
        self.model[key] = body

    @rule(key=KEYS, body=BODIES)
    def create(self, key: str, body: bytes) -> None:
        if key in self.model:
            with pytest.raises(S3Error) as error:
                self.run(put(self.engine, key, body, create=True))
            assert error.value.status == 412
        else:
            self.run(put(self.engine, key, body, create=True))
            self.model[key] = body

    @rule(bodies=st.lists(BODIES, min_size=2, max_size=6))
    def race(self, bodies: list[bytes]) -> None:
        async def all_at_once() -> list[Any]:
            return await asyncio.gather(
                *(put(self.engine, "race", body, create=True) for body in bodies), return_exceptions=True
            )

        answers = self.run(all_at_once())
        winners = [body for body, answer in zip(bodies, answers, strict=True) if answer is None]
        if "race" in self.model:
            assert winners == []
        else:
            (self.model["race"],) = winners

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.run(self.engine.delete("b-b", key))
        self.model.pop(key, None)

    @rule()
    def compact(self) -> None:
        if len(self.engine.journal.files) > 1:
            self.run(compact_oldest(self.engine.journal, self.engine._catalog))

    @rule(gently=st.booleans())
    def restart(self, gently: bool) -> None:
        self.run(self.engine.close() if gently else crash(self.engine))
        self.engine = self.run(opened(self.folder))

    @invariant()
    def same_as_the_model(self) -> None:
        if hasattr(self, "engine"):
            assert self.run(contents(self.engine)) == self.model
            files = sum(1 for _ in (self.folder / "objects").glob("??/*"))
            assert files == sum(len(body) > OPTIONS.inline_bytes_max for body in self.model.values())
            live = sum(entry.place.record_bytes for entry in self.engine._entries())
            assert self.engine._catalog.live_bytes == live + self.engine._catalog.buckets["b-b"].place.record_bytes

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.run(crash(self.engine))
            self.runner.close()
            shutil.rmtree(self.folder)


AgainstDict.TestCase.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_against_dict = AgainstDict.TestCase


def journal_files(folder: Path) -> list[Path]:
    return sorted((folder / "journal").glob("*.journal"))


async def test_a_tail_torn_at_every_byte_loses_only_what_was_not_acknowledged(tmp_path: Path) -> None:
    engine = await opened(tmp_path / "whole")
    await put(engine, "first", b"1" * 40)
    await put(engine, "second", b"2" * 40)
    start = engine.journal._end
    await put(engine, "last", b"3" * 40)
    end = engine.journal._end
    await crash(engine)
    (file, *_) = journal_files(tmp_path / "whole")
    data = file.read_bytes()
    folder, journal = tmp_path / "torn", tmp_path / "torn" / "journal"
    journal.mkdir(parents=True)
    expected = {"first": b"1" * 40, "second": b"2" * 40}
    for cut in range(start, end + 1):
        for rest in (b"\0", b"\xff") if cut % 3 == 0 else (b"\0",):
            for path in journal.iterdir():
                path.unlink()
            (journal / file.name).write_bytes(data[:cut] + rest * (end - cut) + data[end:])
            engine = await opened(folder)
            seen = await contents(engine)
            assert seen == expected or (cut >= end - 8 and seen == expected | {"last": b"3" * 40}), cut
            await put(engine, "next", b"4")  # goes where the torn one stood, and stays
            await crash(engine)
            engine = await opened(folder)
            assert await contents(engine) == seen | {"next": b"4"}
            await crash(engine)


async def test_what_was_cut_off_never_comes_back(tmp_path: Path) -> None:
    """The rest of a torn batch, whole in itself, must not line up behind the next record that is written."""
    engine = await opened(tmp_path)
    start = engine.journal._end
    await asyncio.gather(put(engine, "aa", b"1" * 40), put(engine, "bb", b"2" * 40))
    await crash(engine)
    (file, *_) = journal_files(tmp_path)
    data = bytearray(file.read_bytes())
    data[start + 60] ^= 1
    file.write_bytes(data)
    engine = await opened(tmp_path)
    assert await contents(engine) == {}
    await put(engine, "cc", b"3" * 40)
    await crash(engine)
    engine = await opened(tmp_path)
    assert await contents(engine) == {"cc": b"3" * 40}
    await engine.close()


async def filled(folder: Path) -> None:
    """Several files of journal, stopped in good order."""
    engine = await opened(folder)
    for number in range(30):
        await put(engine, f"k{number}", bytes([number]) * 500)
    await engine.close()
    assert len(journal_files(folder)) >= 3


@pytest.mark.parametrize("which", [0, 1, -2])
async def test_a_missing_file_is_noticed(tmp_path: Path, which: int) -> None:
    await filled(tmp_path)
    journal_files(tmp_path)[which].unlink()
    if which == -2:
        journal_files(tmp_path)[-1].unlink()  # the spare as well
    with pytest.raises(Damaged, match="is missing"):
        await opened(tmp_path)


async def test_files_that_were_wiped_are_not_taken_for_unused_ones(tmp_path: Path) -> None:
    await filled(tmp_path)
    for path in journal_files(tmp_path)[1:]:
        path.write_bytes(path.read_bytes()[:PAGE].ljust(path.stat().st_size, b"\0"))
    with pytest.raises(Damaged, match="is empty, and others follow it"):
        await opened(tmp_path)


@pytest.mark.parametrize("which", [0, -2])
async def test_a_damaged_record_head_is_not_cut_but_refused(tmp_path: Path, which: int) -> None:
    await filled(tmp_path)
    path = journal_files(tmp_path)[which]
    data = bytearray(path.read_bytes())
    data[PAGE + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match="damaged at byte 4096"):
        await opened(tmp_path)
    assert path.read_bytes() == data


async def test_a_damaged_object_is_an_error_never_absent_and_can_be_put_again(tmp_path: Path) -> None:
    await filled(tmp_path)
    path = journal_files(tmp_path)[0]
    path.write_bytes(path.read_bytes().replace(bytes([3]) * 500, bytes([3]) * 499 + b"!"))
    for turn in range(3):
        engine = await opened(tmp_path)
        with pytest.raises(Damaged):
            await get(engine, "k3")
        with pytest.raises(S3Error) as error:
            await put(engine, "k3", b"new", create=True)
        assert error.value.status == 412
        assert await get(engine, "k4") == bytes([4]) * 500
        if turn == 1:  # the damage is carried on, not laundered
            await compact_oldest(engine.journal, engine._catalog)
            assert not path.exists()
        await engine.close()
    engine = await opened(tmp_path)
    await put(engine, "k3", b"new")
    await engine.close()
    engine = await opened(tmp_path)
    assert await get(engine, "k3") == b"new"
    await engine.close()


async def test_a_damaged_or_missing_large_object_is_an_error(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    await put(engine, "large", b"v" * 5000)
    (path,) = (tmp_path / "objects").glob("??/*")
    path.write_bytes(b"v" * 4999 + b"w")
    with pytest.raises(Damaged):
        await get(engine, "large")
    path.unlink()
    with pytest.raises(Damaged):
        await get(engine, "large")
    assert [key for key, _ in (await engine.list("b-b", prefix="", after="", delimiter="", limit=9)).objects] == [
        "large"
    ]
    await engine.close()


async def test_a_crash_at_every_step_of_compaction_changes_nothing(tmp_path: Path) -> None:
    await filled(tmp_path / "whole")
    expected = {f"k{number}": bytes([number]) * 500 for number in range(2, 30)}
    engine = await opened(tmp_path / "whole")
    for key in ("k0", "k1"):
        await engine.delete("b-b", key)
    await engine.close()
    steps = 0
    while True:
        folder = tmp_path / f"crash{steps}"
        shutil.copytree(tmp_path / "whole", folder)
        engine = await opened(folder)
        left, real = [steps], engine.journal.append

        def append(*args: Any, left: list[int] = left, real: Any = real, **kwargs: Any) -> Any:
            if left[0] == 0:
                raise asyncio.CancelledError
            left[0] -= 1
            return real(*args, **kwargs)

        engine.journal.append = append
        done = False
        try:
            await compact_oldest(engine.journal, engine._catalog)
            done = True
        except asyncio.CancelledError:
            await engine.journal.durable(engine.journal.newest_batch)
        await crash(engine)
        engine = await opened(folder)
        assert await contents(engine) == expected
        await engine.close()
        if done:
            break
        steps += 1
    assert steps > 5


async def test_an_empty_bucket_outlives_the_file_that_named_it(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    await engine.make_bucket("empty")
    for number in range(30):
        await put(engine, "k", bytes([number]) * 500)
    while len(engine.journal.files) > 1:
        await compact_oldest(engine.journal, engine._catalog)
    await engine.close()
    engine = Engine(tmp_path, SystemClock(), OPTIONS)
    assert await engine.buckets() == ["b-b", "empty"]
    await engine.close()


async def test_records_that_only_the_page_cache_had_are_written_again_before_they_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an fdatasync that failed, the pages read well and are on no disk: only writing them puts them there."""
    engine = await opened(tmp_path)
    await put(engine, "k", b"only in memory?")
    await crash(engine)
    written = []
    from threefold.storage_server import replay

    real = replay.write_all

    def recording(fd: int, data: bytes, position: int) -> None:
        written.append(data)
        real(fd, data, position)

    monkeypatch.setattr(replay, "write_all", recording)
    engine = await opened(tmp_path)
    assert any(b"only in memory?" in data for data in written)
    await engine.close()


@pytest.mark.parametrize("ended", [True, False])
async def test_a_crash_between_two_files_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """The file after the next may have its name before the batch that ends this one is on the disk."""
    engine = await opened(tmp_path)
    while engine.journal.active_number == 1:
        await put(engine, "k", b"v" * 900)
    await put(engine, "k", b"newest")
    await crash(engine)
    first, *rest = journal_files(tmp_path)
    data = bytearray(first.read_bytes())
    found = scan(bytes(data), first_salt := bytes(data[20:28]), continued=True).records
    assert (found[-1].kind, len(first_salt), len(rest)) == (Kind.END, 8, 2)
    for path in rest:  # nothing of the batches after the end has reached the disk
        path.write_bytes(path.read_bytes()[:PAGE].ljust(path.stat().st_size, b"\0"))
    if not ended:
        data[found[-1].position :] = bytes(len(data) - found[-1].position)
    first.write_bytes(data)
    written = []
    from threefold.storage_server import replay

    real = replay.write_all

    def recording(fd: int, data: bytes, position: int) -> None:
        written.append(data)
        real(fd, data, position)

    monkeypatch.setattr(replay, "write_all", recording)
    for _ in range(2):
        engine = await opened(tmp_path)
        assert len(written.pop()) >= found[-1].end - found[-1].batch_start or not ended
        assert engine.journal.active_number == (2 if ended else 1)
        assert await get(engine, "k") == b"v" * 900
        await crash(engine)
    engine = await opened(tmp_path)
    for number in range(30):
        await put(engine, f"k{number}", b"w" * 900)
    await engine.close()
    engine = await opened(tmp_path)
    assert len(await contents(engine)) == 31
    await engine.close()


async def test_a_large_object_is_safe_although_the_one_before_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await opened(tmp_path)
    await put(engine, "large", b"v" * 5000)

    async def failing(file_id: bytes) -> None:
        raise OSError(errno.EIO, file_id.hex())

    monkeypatch.setattr(engine.blobs, "remove", failing)
    await put(engine, "large", b"w" * 5000)
    assert await get(engine, "large") == b"w" * 5000
    await engine.delete("b-b", "large")
    await engine.close()
    await (await opened(tmp_path)).close()
    assert not list((tmp_path / "objects").glob("??/*"))


@pytest.mark.parametrize("large", [True, False])
async def test_what_lost_its_record_while_the_server_ran_is_written_again(tmp_path: Path, large: bool) -> None:
    """Compaction must not drop a file with an object that it cannot find in it: 404 would be a lie for ever."""
    engine = await opened(tmp_path)
    body = b"v" * (5000 if large else 700)
    await put(engine, "k", body)
    position = (await engine.find("b-b", "k")).place.position
    for number in range(12):
        await put(engine, f"k{number}", bytes([number]) * 500)
    (first, *_) = journal_files(tmp_path)
    data = bytearray(first.read_bytes())
    data[position + 20] ^= 1
    first.write_bytes(data)
    await compact_oldest(engine.journal, engine._catalog)
    for _ in range(2):
        assert not first.exists()
        assert await get(engine, "k") == body
        assert len(await contents(engine)) == 13
        await engine.close()
        engine = await opened(tmp_path)
    await engine.close()


async def test_an_answer_waits_for_what_it_rests_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost create, a fresh object, a fresh delete: none is told while it could still vanish."""
    engine = await opened(tmp_path)
    await put(engine, "old", b"v")
    gate, real = threading.Event(), os.fdatasync

    def slow(fd: int) -> None:
        gate.wait(5)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    winner = asyncio.create_task(put(engine, "k", b"winner", create=True))
    removal = asyncio.create_task(engine.delete("b-b", "old"))
    await asyncio.sleep(0.05)
    rests = [put(engine, "k", b"loser", create=True), get(engine, "k"), get(engine, "old"), engine.delete("b-b", "old")]
    rests.append(engine.list("b-b", prefix="", after="", delimiter="", limit=9))
    tasks = [asyncio.create_task(rest) for rest in rests]
    await asyncio.sleep(0.1)
    early = [task for task in [winner, removal, *tasks] if task.done()]
    gate.set()
    answers = await asyncio.gather(winner, removal, *tasks, return_exceptions=True)
    assert early == []
    assert answers[:2] == [None, None]
    assert [getattr(answer, "status", answer) for answer in answers[2:6]] == [412, b"winner", 404, None]
    monkeypatch.undo()
    await engine.close()


async def test_leftovers_are_swept(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    await put(engine, "large", b"v" * 5000)
    writer = engine.blobs.create()
    writer.write(b"never named")
    writer.finish()
    await crash(engine)
    (tmp_path / "journal" / "00000000000000ff.new").write_bytes(b"half a file")
    engine = await opened(tmp_path)
    assert len(list((tmp_path / "objects").glob("??/*"))) == 1
    assert not list((tmp_path / "journal").glob("*.new"))
    await engine.close()


async def test_where_a_lost_folder_was_is_told_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await opened(tmp_path)
    await put(engine, "k", b"v")
    app = App(engine, {"key": Credentials("key", "a secret of sixteen")}, SystemClock(), AppOptions())
    caller = SimpleNamespace(secure=False, address="192.0.2.1")
    ask = Request(caller, "GET", "/b-b/k", headers={"host": "h"})  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "journal")
    stranger = await app(ask)
    assert stranger.status == 403
    monkeypatch.setattr(Verifier, "verify", lambda *_: "UNSIGNED-PAYLOAD")
    owner = await app(ask)
    assert owner.status == 503
    assert b"lost its data folder" in owner.body
    assert str(tmp_path).encode() not in stranger.body + owner.body
    assert str(tmp_path) in str(engine.journal.failure)
    await crash(engine)


async def test_want_of_descriptors_is_not_called_want_of_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await opened(tmp_path)
    refused: dict[int, ThreefoldError | S3Error] = {}
    for number in (errno.EMFILE, errno.ENOSPC):

        def fails(*_: object, number: int = number) -> JournalFile:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as broken:
            broken.setattr(JournalFile, "make", fails)
            for _ in range(50):
                try:
                    await put(engine, "k", b"v" * 900)
                except (ThreefoldError, S3Error) as error:
                    refused[number] = error
                    break
        # A new one was begun before the cause was gone: it may be refused once more.
        with suppress(NoNextFile, S3Error):
            await put(engine, "k", b"v" * 900)
        await put(engine, "k", b"again")
    assert isinstance(refused[errno.EMFILE], NoNextFile)
    assert str(refused[errno.EMFILE]) == "the next journal file cannot be made: too many open files"
    assert isinstance(refused[errno.ENOSPC], S3Error)
    assert refused[errno.ENOSPC].status == 507
    await crash(engine)
    engine = await opened(tmp_path)
    assert await get(engine, "k") == b"again"
    await engine.close()


def test_a_journal_file_that_cannot_be_opened_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    with suppress(FileNotFoundError):
        JournalFile(tmp_path / "none", FileHeader(1, bytes(8), 1))
    gc.collect()
    assert not unraisable


async def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    with pytest.raises(Refused):
        await opened(tmp_path)
    await engine.close()
    await (await opened(tmp_path)).close()


def test_scan_is_quick_on_an_empty_file() -> None:
    assert scan(bytes(16 << 20), b"saltsalt", continued=False).records == ()


def test_a_new_folder_is_durable_with_all_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(disk, "sync_folder", synced.append)
    folder = tmp_path / "a" / "b" / "c"
    disk.make_folder(folder)
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert folder.stat().st_mode & 0o777 == 0o700
    disk.make_folder(folder)
    assert len(synced) == 3


async def test_a_lock_that_was_made_longer_outlives_the_files_that_said_so(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    for key in ("small", "large"):
        await put(engine, key, b"x" * (10 if key == "small" else 1500))
        await engine.lengthen_lock("b-b", key, ("COMPLIANCE", 2**42))
    for number in range(400):  # several files of dead records
        await put(engine, "beacon", bytes([number % 256]) * 200)
    first = min(engine.journal.files)
    while min(engine.journal.files) < first + 2:
        await compact_oldest(engine.journal, engine._catalog)
    await crash(engine)
    engine = await opened(tmp_path)
    for key in ("small", "large"):
        with pytest.raises(S3Error) as error:
            await engine.delete("b-b", key)
        assert error.value.status == 403
        assert (await engine.find("b-b", key)).locked_until_ms == 2**42
    await engine.close()
