"""kill -9, emptied disks, failing disks: what was acknowledged stays, what cannot be known is an error."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store
from storage_clients import open_boto, open_obstore
from storage_process import BUCKET, Launch


async def load(store: S3Store, turn: int, ledger: dict[str, Any], until_killed: asyncio.Event) -> None:
    """Creates, overwrites and deletes; the ledger knows what was acknowledged, and what was only asked for."""
    numbers = iter(range(10**9))

    async def worker(seed: int) -> None:
        rng = random.Random(seed)
        while not until_killed.is_set():
            number = next(numbers)
            key, body = f"log/{turn}/{number:08d}", rng.randbytes(rng.choice([100, 8000, 70_000]))
            try:
                ledger["asked"][key] = body
                await obstore.put_async(store, key, body, mode="create", use_multipart=False)
                ledger["acked"][key] = body
                await obstore.put_async(store, f"beacon/{seed}", f"{turn:04d}{number:012d}".encode())
                ledger["beacons"][f"beacon/{seed}"] = f"{turn:04d}{number:012d}".encode()
                try:
                    await obstore.put_async(store, key, b"rival", mode="create", use_multipart=False)
                    raise AssertionError("two creates of one key won")
                except AlreadyExistsError:
                    ledger["refused"].add(key)
                if number % 4:
                    ledger["acked"].pop(key)
                    await obstore.delete_async(store, [key])
                    ledger["deleted"].add(key)
            except BaseError:
                return

    await asyncio.gather(*(worker(seed) for seed in range(8)))


async def test_kill_9_under_load_loses_nothing_that_was_acknowledged(launch: Launch) -> None:
    server = launch(journal_file_bytes=128 << 10)
    ledger = {"asked": {}, "acked": {}, "beacons": {}, "deleted": set(), "refused": set()}
    for turn in range(3):
        store, killed = open_obstore(server), asyncio.Event()
        task = asyncio.create_task(load(store, turn, ledger, killed))
        await asyncio.sleep(1.2)
        while len(ledger["asked"]) < 400 * (turn + 1):
            await asyncio.sleep(0.02)
        await asyncio.to_thread(server.kill)
        killed.set()
        await task
        await asyncio.to_thread(server.start)
        store = open_obstore(server)
        for key, body in ledger["acked"].items():
            assert bytes(await (await obstore.get_async(store, key)).bytes_async()) == body, key
        there = {item["path"]: item["size"] for page in obstore.list(store, "log") for item in page}
        assert not ledger["deleted"] & there.keys()
        for key, size in there.items():
            assert size == len(ledger["asked"][key]), key
        for key, body in ledger["beacons"].items():
            assert bytes(await (await obstore.get_async(store, key)).bytes_async()) >= body
        assert all(key in there for key in ledger["refused"] & ledger["acked"].keys())
    assert len(ledger["asked"]) > 100
    assert min(int(path.stem, 16) for path in (server.data_dir / "journal").glob("*.journal")) > 1, "nothing compacted"
    status, errors = server.stop()
    assert (status, errors) == (0, "")


@pytest.mark.parametrize("how", ["contents", "folder", "journal only"])
def test_an_emptied_disk_answers_neither_yes_nor_no(launch: Launch, how: str) -> None:
    server = launch()
    store = open_obstore(server)
    obstore.put(store, "small", b"v", mode="create")
    obstore.put(store, "large", b"v" * 100_000, mode="create", use_multipart=False)
    if how == "folder":
        shutil.rmtree(server.data_dir)
    else:
        for path in server.data_dir.iterdir():
            if how == "contents" or path.name == "journal":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    asks = [
        lambda: obstore.put(store, "fresh", b"v", mode="create"),
        lambda: obstore.put(store, "small", b"v", mode="create"),
        lambda: obstore.put(store, "fresh", b"v" * 100_000, mode="create", use_multipart=False),
        lambda: obstore.get(store, "small").bytes(),
        lambda: obstore.get(store, "large").bytes(),
        lambda: obstore.head(store, "small"),
        lambda: obstore.get(store, "never"),
        lambda: list(obstore.list(store)),
        lambda: obstore.delete(store, ["never"]),
    ]
    for ask in asks:
        with pytest.raises(Exception) as error:
            ask()
        assert not isinstance(error.value, FileNotFoundError | AlreadyExistsError)
    status, errors = server.process.wait(10), server.process.stderr.read().decode()
    assert status == 1
    assert "was removed while the server ran" in errors
    if how != "journal only":  # and the next server on it knows nothing, and says so
        server.start(bucket="")
        with pytest.raises(Exception, match="NoSuchBucket"):
            obstore.put(open_obstore(server), "small", b"v", mode="create")


def test_an_emptied_disk_ends_even_an_idle_server(launch: Launch) -> None:
    server = launch()
    shutil.rmtree(server.data_dir / "journal")
    assert server.process.wait(10) == 1


def test_one_server_owns_a_folder(launch: Launch) -> None:
    server = launch()
    from storage_process import StorageProcess

    with pytest.raises(AssertionError, match="another process serves"):
        StorageProcess(server.data_dir).start()
    open_boto(server).head_bucket(Bucket=BUCKET)


def test_sigterm_lets_requests_finish_and_kill_leaves_no_process(launch: Launch) -> None:
    server = launch()
    store = open_obstore(server)
    obstore.put(store, "k", os.urandom(8000))
    began = time.monotonic()
    assert server.stop() == (0, "")
    assert time.monotonic() - began < 3
    server.start()
    children = subprocess.run(["ps", "--ppid", str(server.process.pid), "-o", "pid="], capture_output=True, check=False)
    assert children.stdout.strip() == b""
    assert len(bytes(obstore.get(open_obstore(server), "k").bytes())) == 8000


def test_after_a_failed_fdatasync_nothing_is_acknowledged(launch: Launch, tmp_path: Path) -> None:
    """The kernel may say "fine" the second time; the pages are gone all the same."""
    script = tmp_path / "failing.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import storage_process\n"
        "real = os.fdatasync\n"
        "def once(fd):\n"
        f"    if os.path.exists({str(tmp_path / 'fail')!r}):\n"
        f"        os.unlink({str(tmp_path / 'fail')!r})\n"
        "        raise OSError(5, 'Input/output error')\n"
        "    real(fd)\n"
        "os.fdatasync = once\n"
        "storage_process.main()\n"
    )
    server = launch(script=str(script))
    store = open_obstore(server)
    obstore.put(store, "before", b"v", mode="create")
    (tmp_path / "fail").touch()
    for key in ("lost", "after"):
        with pytest.raises(BaseError) as error:
            obstore.put(store, key, b"v", mode="create")
        assert not isinstance(error.value, AlreadyExistsError)
    assert server.process.wait(10) == 1
    assert "the journal could not be written" in server.process.stderr.read().decode()
    server.options.pop("script")
    server.start()
    assert bytes(obstore.get(open_obstore(server), "before").bytes()) == b"v"
    server.kill()


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_really_fills_up(launch: Launch, tmp_path: Path) -> None:
    disk = tmp_path / "data"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no mounts here")
    try:
        server = launch(min_free_bytes=3 << 20)
        store, kept = open_obstore(server), []

        def fill() -> None:
            for number in range(1000):
                body = os.urandom(50_000 if number % 2 else 300_000)
                obstore.put(store, f"k/{number}", body, mode="create", use_multipart=False)
                kept.append((f"k/{number}", body))

        with pytest.raises(BaseError, match="507"):
            fill()
        assert len(kept) > 5
        for key, body in kept:
            assert bytes(obstore.get(store, key).bytes()) == body
        server.kill()
        server.start()
        store = open_obstore(server)
        for key, body in kept:
            assert bytes(obstore.get(store, key).bytes()) == body
        obstore.delete(store, [key for key, _ in kept])
        obstore.put(store, "room", b"v" * 300_000, mode="create", use_multipart=False)
        server.kill()
    finally:
        subprocess.run(["umount", "-l", disk], check=False)
