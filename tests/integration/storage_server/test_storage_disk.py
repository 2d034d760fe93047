"""The disk under a server: folders that vanish, descriptors and room that run out, files that cannot be opened."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from storage_engines import crash, get, opened, put

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import ThreefoldError
from threefold.storage_server import disk
from threefold.storage_server.app import App, AppOptions
from threefold.storage_server.disk import NoNextFile
from threefold.storage_server.journal_file import JournalFile
from threefold.storage_server.messages import Request
from threefold.storage_server.records import FileHeader, scan
from threefold.storage_server.s3 import S3Error
from threefold.storage_server.sigv4 import Credentials, Verifier


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
