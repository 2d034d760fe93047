"""What we read in the log against what PostgreSQL reads in it: pg_waldump's records, and where a recovery forks."""

import random
import re
import shutil
from pathlib import Path

import pytest
from tests.pg import BOTH, Cluster, cluster

from threefold.kernel.lsn import Lsn
from threefold.postgres.timeline import parse_history
from threefold.postgres.wal import (
    first_boundary,
    first_whole_record_after,
    last_whole_record_end,
    records,
    segment_name,
    segment_no,
    segment_start,
)

MB = 2**20
LINE = re.compile(r"len \(rec/tot\):\s*\d+/\s*(\d+),.* lsn: ([0-9A-F/]+), prev ([0-9A-F/]+)")


async def work(primary: Cluster) -> None:
    """Records of all lengths: a few bytes, pages, many pages; switches of segment in between."""
    await primary.sql("CREATE TABLE t (x text)")
    await primary.sql("ALTER TABLE t ALTER x SET STORAGE EXTERNAL")
    for n in (10, 9_000, 100_000, 1_500_000):
        await primary.sql("INSERT INTO t SELECT repeat('x', %s)", [n])
        await primary.sql("SELECT pg_switch_wal()")
        await primary.sql("SELECT pg_logical_emit_message(false, 'test', repeat('y', %s))", [n])
    await primary.sql("CHECKPOINT")
    await primary.sql("INSERT INTO t SELECT repeat('z', 700) FROM generate_series(1, 900)")


async def settled(primary: Cluster) -> Lsn:
    return Lsn.parse((await primary.sql("SELECT pg_current_wal_flush_lsn()::text"))[0][0])


def log_of(data_dir: Path, start: Lsn, end: Lsn, size: int) -> bytes:
    """The log's bytes from a segment's start to ``end``, as they lie in pg_wal."""
    names = (segment_name(1, n, size) for n in range(segment_no(start, size), segment_no(end - 1, size) + 1))
    return b"".join((data_dir / "pg_wal" / name).read_bytes() for name in names)[: end - start]


@pytest.mark.parametrize("major", BOTH)
@pytest.mark.parametrize("size", [MB, 16 * MB])
async def test_the_records_are_those_of_pg_waldump(major: int, size: int) -> None:
    async with cluster(major, wal_segment_size=size, settings={"wal_keep_size": "1GB"}) as primary:
        first = segment_start(segment_no(await settled(primary), size), size)
        await work(primary)
        end = await settled(primary)
        data = log_of(primary.server.data_dir, first, end, size)
        dumped = primary.run(
            "pg_waldump", "-p", str(primary.server.data_dir / "pg_wal"), "-s", str(first), "-e", str(end), check=False
        )
        theirs = [
            (Lsn.parse(m[2]), int(m[1]), Lsn.parse(m[3])) for m in map(LINE.search, dumped.stdout.splitlines()) if m
        ]
        boundary = first_boundary(data, start=first)
        assert boundary is not None
        found = list(records(data, start=first, at=boundary, segment_size=size))
        assert len(found) > 900
        assert [(r.start, r.length, r.previous) for r in found] == theirs
        assert found[-1].end == end


@pytest.mark.parametrize("major", BOTH)
async def test_a_recovery_forks_where_we_say(major: int) -> None:
    """Cut the log at any byte, pad it with zeros, recover and promote: the history names the end of the last record."""
    chance = random.Random(major)
    async with cluster(major, wal_segment_size=MB, settings={"wal_keep_size": "1GB"}) as primary:
        first = segment_start(segment_no(await settled(primary), MB), MB)
        await primary.server.stop()
        base = primary.folder / "base"
        shutil.copytree(primary.server.data_dir, base, symlinks=True)
        await primary.server.start()
        redo = await settled(primary)
        await work(primary)
        end = await settled(primary)
        data = log_of(primary.server.data_dir, first, end, MB)
        await primary.server.stop("immediate")
        ends = [r.end for r in records(data, start=first, at=redo, segment_size=MB)]
        inside = [chance.randrange(redo + 20_000, end) for _ in range(3)]
        for cut in (Lsn(n) for n in (*inside, end, Lsn(ends[len(ends) // 2] + 4))):
            log = data[: cut - first]
            fork = await _fork_of_a_recovery(primary, base, first, log)
            assert fork == last_whole_record_end(log, start=first, segment_size=MB)
            assert first_whole_record_after(log, start=first, at=fork, segment_size=MB) is None
            before = max(e for e in ends if e < fork)
            assert first_whole_record_after(log, start=first, at=before, segment_size=MB) is not None


async def _fork_of_a_recovery(primary: Cluster, base: Path, first: Lsn, log: bytes) -> Lsn:
    data_dir = primary.server.data_dir
    shutil.rmtree(data_dir)
    shutil.copytree(base, data_dir, symlinks=True)
    padded = log + bytes(-len(log) % MB)
    for offset in range(0, len(padded), MB):
        name = segment_name(1, segment_no(first + offset, MB), MB)
        (data_dir / "pg_wal" / name).write_bytes(padded[offset : offset + MB])
    (data_dir / "recovery.signal").touch()
    primary.server.settings["restore_command"] = "false"
    await primary.server.start()
    await primary.server.promote()
    await primary.server.stop("immediate")
    history = parse_history(2, (data_dir / "pg_wal" / "00000002.history").read_bytes())
    return history.switches[0].at
