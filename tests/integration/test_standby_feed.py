"""What streaming does not bring: the log laid into the standby's pg_wal, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pg import BOTH, cluster, folder
from tests.protect_process import Process, Site, site, until
from tests.standing import ask, fenced, flushed, held, replayed, standby_of

from threefold.kernel.lsn import Lsn
from threefold.postgres.binaries import account
from threefold.postgres.timeline import History
from threefold.postgres.wal import first_boundary, records, segment_name
from threefold.recover.feed import ForeignCopy, Layer, PgWal
from threefold.recover.standby import Standby

pytestmark = pytest.mark.long

MB = 2**20
# Its WAL is gone from the primary as soon as the log has it.
FORGETFUL = {"wal_keep_size": "0", "max_wal_size": "32MB", "min_wal_size": "32MB"}
FILL = "INSERT INTO t SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 12000) g"

# An agent that is killed, by its own hand, after a number of parts of the log were read.
_DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.protect_process import Site
from tests.standing import held
from threefold.bootstrap import open_parts
from threefold.recover.log import open_quorum_log
from threefold.settings import load
config, data, port, login, doing, after = sys.argv[1:]

async def main():
    left = int(after)
    async def opens(*parts):
        log = await open_quorum_log(*parts)
        read = log.read
        async def dying(start, end):
            nonlocal left
            async for part in read(start, end):
                yield part
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        log.read = dying
        return log
    class Here:
        class primary:
            @staticmethod
            def dsn():
                return login
    async with open_parts(load(Path(config))) as parts:
        standby = held(parts, Here, Path(data), int(port), open_log=opens)
        await standby.prepare()
        if doing == "feed":
            await standby.start(None)
            await standby.feed()
asyncio.run(main())
"""


async def dies(here: Site, data: Path, port: int, doing: str, after: int) -> None:
    arguments: list[str | Path] = ["-c", _DIES, here.config, data, str(port), here.primary.dsn(), doing, str(after)]
    process = Process(arguments, here.home / f"dies-{doing}-{after}.log", here.environment())
    here.processes.append(process)
    assert await process.ended() == -signal.SIGKILL, process.said


async def forgotten(here: Site) -> None:
    """The primary recycles all that the log has."""
    for _ in range(3):
        await here.primary.sql("SELECT pg_switch_wal()")
        await here.primary.sql("INSERT INTO t VALUES (0, 'a record in this segment')")
        await here.primary.sql("CHECKPOINT")


@pytest.mark.parametrize("major", BOTH)
async def test_what_the_primary_has_recycled_comes_from_the_log(major: int) -> None:
    async with site(major, settings=FORGETFUL) as here, standby_of(here) as standby:
        await here.protect()
        await here.primary.sql("CREATE TABLE t (x int, y text)")
        await here.done("snapshot")
        # Killed while it places the WAL that the copy begins with, then again, then let live.
        await dies(here, standby.data_dir, standby.port, "prepare", 1)
        assert (await standby.prepare()).how == "restored"
        await standby.start(here.primary.dsn())
        await replayed(standby, await flushed(here))
        await standby.stop()

        for _ in range(3):
            await here.primary.sql(FILL)
        await forgotten(here)
        oldest = min(path.name for path in (here.primary.server.data_dir / "pg_wal").glob("0000*"))
        await standby.start(here.primary.dsn())
        behind = await standby.position()
        assert oldest > segment_name(1, behind.replayed // (16 * MB), 16 * MB), "the primary still has it all"
        await until(lambda: "has already been removed" in standby.server.log_file.read_text(), "a refusal", 20)
        await standby.follow(None)
        for after in (1, 3):
            await dies(here, standby.data_dir, standby.port, "feed", after)
        standby.server.kill()  # and PostgreSQL as well, where it stands

        async with here.parts() as parts:
            again = held(parts, here, standby.data_dir, standby.port)
            assert (await again.prepare()).how == "kept"
            await again.start(here.primary.dsn())
            fed = await again.feed()
            assert fed.written > 10 * MB
            await replayed(again, await flushed(here))
            await until(lambda: _streams(again), "streaming")
            assert (await again.feed()).written == 0
            assert await ask(again, "SELECT count(*) FROM t") == await here.primary.sql("SELECT count(*) FROM t")
            await again.close()


async def _streams(standby: Standby) -> bool:
    return (await standby.position()).streaming


async def test_the_last_acknowledged_commit_is_in_a_segment_that_was_never_streamed() -> None:
    """The standby was down all the time: everything up to the log's last byte is taken from the log."""
    async with site(18) as here, standby_of(here) as standby:
        await here.protect()
        await here.primary.sql("CREATE TABLE t (x int, y text)")
        await here.done("snapshot")
        await standby.prepare()
        await here.primary.sql(FILL)
        await here.primary.sql("INSERT INTO t VALUES (-1, 'the last one')")
        here.primary.server.kill()
        end, timeline = await fenced(here)
        assert end % (16 * MB)
        await standby.complete(end, timeline)  # starts it as well
        await standby.promote(settings={"synchronous_standby_names": ""})
        assert await ask(standby, "SELECT count(*) FROM t") == [(12001,)]


@pytest.fixture(scope="module")
def wal() -> Iterator[Path]:
    """Segments of real WAL, a megabyte each, full of small records."""
    home = folder("tf-wal-")

    async def make() -> None:
        async with cluster(18, wal_segment_size=MB, settings={"wal_keep_size": "100MB"}) as primary:
            await primary.sql("SELECT pg_switch_wal()")
            await primary.sql("CREATE TABLE t (x int)")
            await primary.sql("INSERT INTO t SELECT generate_series(1, 60000)")
            await primary.sql("SELECT pg_switch_wal()")
            await primary.server.stop()
            for path in sorted((primary.server.data_dir / "pg_wal").glob("0000*")):
                shutil.copy(path, home / path.name)

    asyncio.run(make())
    yield home
    shutil.rmtree(home)


def _laid(pg_wal: Path, *, replayed: Lsn, start: Lsn, log: bytes) -> int:
    files = PgWal(pg_wal, MB, History(1), account())
    layer = Layer(files, replayed=replayed, end=Lsn(start + len(log)))
    for at in range(0, len(log), 300_000):
        layer.put(Lsn(start + at), log[at : at + 300_000])
    layer.finish()
    return layer.written


def _start(name: str) -> Lsn:
    return Lsn(int(name[8:16], 16) * 2**32 + int(name[16:], 16) * MB)


def _records_in(path: Path) -> int:
    data, start = path.read_bytes(), _start(path.name)
    at = first_boundary(data, start=start)
    return 0 if at is None else sum(1 for _ in records(data, start=start, at=at, segment_size=MB))


def test_bytes_that_may_have_been_replayed_are_never_overwritten(wal: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in wal.iterdir())
    at = next(n for n in range(2, len(names)) if all(_records_in(wal / names[n + more]) > 1000 for more in (0, 1)))
    names = names[at - 2 :]
    first, second = (wal / names[2]).read_bytes(), (wal / names[3]).read_bytes()
    start = _start(names[2])
    log = first + second
    begin = first_boundary(log, start=start)
    assert begin is not None
    ends = [record.end for record in records(log, start=start, at=begin, segment_size=MB)]
    assert len(ends) > 1000
    replayed, received = ends[200], ends[300]
    cut = received + 11 - start  # in the middle of a record

    def copy(rest: bytes) -> Path:
        made = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        made.mkdir()
        (made / names[2]).write_bytes((first[:cut] + rest)[:MB])
        return made / names[2]

    # Zeros, or the old content of a recycled file, behind what was received: the log is laid over it.
    for rest in (bytes(MB), second[cut:] + bytes(cut)):
        path = copy(rest)
        assert _laid(path.parent, replayed=replayed, start=start, log=log[: MB + 5000]) > MB - cut
        assert path.read_bytes() == first
        assert (path.parent / names[3]).read_bytes() == second[:5000] + bytes(MB - 5000)
        assert _laid(path.parent, replayed=replayed, start=start, log=log[: MB + 5000]) == 0  # nothing twice
    # Even a whole old record, just where the next one would begin: it names another one before it.
    after = Lsn(start + MB)
    old = next(
        record
        for record in records(second, start=after, at=first_boundary(second, start=after) or after, segment_size=MB)
        if record.length < 100 and record.start // 8192 == (record.end - 1) // 8192
    )
    end = next(end for end in ends[250:] if end % 8192 + 100 < 8192 and end % 8192)
    path = copy(b"")
    body = second[old.start - after :][: old.length]
    path.write_bytes((first[: end - start] + body + bytes(MB))[:MB])
    assert _laid(path.parent, replayed=replayed, start=start, log=log) > MB // 2
    assert path.read_bytes() == first
    # More than the log has: it stays.
    path = copy(bytes(MB))
    before = path.read_bytes()
    assert _laid(path.parent, replayed=replayed, start=start, log=first[: ends[250] + 3 - start]) == 0
    assert path.read_bytes() == before
    # Another history, replayed or about to be: refused, and nothing is touched.
    for at in (ends[100], ends[250]):
        path = copy(bytes(MB))
        before = path.read_bytes()
        other = bytearray(log)
        other[at - start + 30] ^= 1
        with pytest.raises(ForeignCopy, match="differs from the log"):
            _laid(path.parent, replayed=replayed, start=start, log=bytes(other))
        assert path.read_bytes() == before
    # Behind what is whole, nobody has replayed it.
    path = copy(bytes(MB))
    other = bytearray(log)
    other[received + 5 - start] ^= 1
    _laid(path.parent, replayed=replayed, start=start, log=bytes(other))
    assert path.read_bytes() == other[:MB]
