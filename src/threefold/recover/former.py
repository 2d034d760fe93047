"""Whether a former primary can become a standby as it is: the log has all that it has."""

from __future__ import annotations

import asyncio
from pathlib import Path

from threefold.kernel.lsn import Lsn
from threefold.postgres.binaries import Account
from threefold.postgres.control import Control
from threefold.postgres.timeline import fork_point, parse_history
from threefold.postgres.wal import records, segment_no, segment_start
from threefold.recover.feed import PgWal
from threefold.recover.follow import first_difference
from threefold.recover.log import OpenLog

_RECORD_BYTES = 64 * 1024  # a checkpoint's record has about 120


async def why_not_as_it_is(control: Control, log: OpenLog, pg_wal: Path, owner: Account) -> str:
    """Why it has to be rebuilt; empty where it need not.

    A primary that was stopped in good order ends with the record of its last checkpoint. It can follow whoever forked
    off there or later; whoever forked off before has not what it has.
    """
    if not control.shut_down:
        return f"it was not stopped in good order, its control file says {control.state!r}"
    extent = log.extent
    if control.system_identifier != extent.system_identifier:
        return "it is of another database system"
    history = parse_history(extent.timeline, extent.history_files.get(extent.timeline))
    files = PgWal(pg_wal, control.segment_size, parse_history(control.timeline, None), owner)
    start = segment_start(segment_no(control.checkpoint, control.segment_size), control.segment_size)
    data = await asyncio.to_thread(files.read, start, Lsn(control.checkpoint + _RECORD_BYTES))
    last = next(records(data, start=start, at=control.checkpoint, segment_size=control.segment_size), None)
    if last is None:
        return f"the record of its last checkpoint, {control.checkpoint}, is not in its pg_wal"
    left = extent.end if control.timeline == extent.timeline else fork_point(history, control.timeline)
    if left is None:
        return f"its timeline {control.timeline} is none that the log went through"
    if last.end > left:
        return f"it ends at {last.end}, and the log has timeline {control.timeline} up to {left} only"
    begin = max(start, extent.start)
    if begin < last.end:
        ours = b"".join([part async for _, _, part in log.read(begin, last.end)])
        at = first_difference(ours, data[begin - start : last.end - start])
        if at is not None:
            return f"it differs from the log at {Lsn(begin + at)}"
    return ""
