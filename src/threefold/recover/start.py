"""Starting PostgreSQL on what was restored, and seeing it through replay to promotion.

Replay takes as long as it takes: it is waited for as long as the server lives. When it ends early, its log says why,
in sentences that have been the same since PostgreSQL 13 (src/backend/access/transam/xlogrecovery.c) and are read
here; the server's messages are English because it is started so (postgres/server.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, Damaged, ThreefoldError, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.server import Server
from threefold.postgres.timeline import History, begins_at, history_name, parse_history

_POLL_S: Final = 0.05
_LOG_BYTES: Final = 256 * 1024
_LAST_COMMIT = re.compile(r"last completed transaction was at log time (.+)")
_REDO_AT = re.compile(r"redo (?:in progress, elapsed time: [^,]*, current LSN: |done at )([0-9A-F]+/[0-9A-F]+)")


@dataclass(frozen=True, slots=True)
class Promoted:
    """The server takes writes: on ``timeline``, which begins at ``at``, the end of what was replayed."""

    timeline: int
    at: Lsn
    last_commit: str  # its time as the primary's clock had it; empty: no transaction was replayed


async def start_and_promote(server: Server, clock: Clock, progress: Progress, *, log_from: int) -> Promoted:
    """Start, wait for the promotion. ``log_from``: what the server's log file held before.

    Raises BadInput where the target is not in the log, with what is; Damaged where the files do not replay;
    Unavailable otherwise. The server is stopped then.
    """
    progress.step("replay", "replaying the log", unit="bytes")
    began, replayed = None, 0
    await server.start(wait=False)
    try:
        while not (server.in_production() and server.ready()):
            if server.pid is None:
                raise explain(said_since(server, log_from))
            redone = _REDO_AT.findall(said_since(server, log_from))
            if redone:
                at = Lsn.parse(redone[-1])
                began = at if began is None else began
                progress.advance(at - began - replayed)
                replayed = at - began
            await clock.sleep(_POLL_S)
    except BaseException:
        server.kill()
        raise
    said = said_since(server, log_from)
    last_commit = _LAST_COMMIT.search(said)
    history = _newest_history(server)
    return Promoted(history.timeline, begins_at(history), last_commit[1].strip() if last_commit else "")


def explain(log: str) -> ThreefoldError:
    """Why a server that was to recover ended, from its log."""
    last_commit = _LAST_COMMIT.search(log)
    until = f"its last transaction is of {last_commit[1].strip()}" if last_commit else "no transaction lies in it"
    if "recovery ended before configured recovery target was reached" in log:
        return BadInput(
            f"the target is not in the log after this snapshot: {until}",
            hint="recover --to latest gives everything that is there",
        )
    if "requested recovery stop point is before consistent recovery point" in log:
        return BadInput(
            "the target lies within the time in which the snapshot was taken",
            hint="name an earlier snapshot with --snapshot, or a slightly later target",
        )
    for sentence, error in _KNOWN.items():
        if sentence in log:
            return error(_loud(log))
    return Unavailable(f"PostgreSQL ended during the recovery: {_loud(log)}", hint="its log has the whole story")


def _incompatible(said: str) -> ThreefoldError:
    return BadInput(
        f"these PostgreSQL programs do not run this database: {said}",
        hint="recovery needs the primary's major version, built with the same options",
    )


def _lacking(said: str) -> ThreefoldError:
    return BadInput(
        f"PostgreSQL here lacks something that the primary had: {said}",
        hint="install it, or lay a setting over it with --set NAME=VALUE, and run the same command again",
    )


def _not_replayable(said: str) -> ThreefoldError:
    return Damaged(
        f"what was restored does not replay: {said}", hint="recover from an earlier snapshot, and report this"
    )


_KNOWN: Final[Mapping[str, Callable[[str], ThreefoldError]]] = {
    "database files are incompatible with server": _incompatible,
    "not compatible with this version": _incompatible,
    "could not access file": _lacking,
    "could not load library": _lacking,
    "SSL is not supported by this build": _lacking,
    "could not load server certificate": _lacking,
    "unrecognized configuration parameter": _lacking,
    "could not locate required checkpoint record": _not_replayable,
    "WAL ends before end of online backup": _not_replayable,
    "WAL ends before consistent recovery point": _not_replayable,
    "requested timeline": _not_replayable,
    "invalid page in block": _not_replayable,
}


def _loud(log: str) -> str:
    lines = [line for line in log.splitlines() if re.search(r"\b(FATAL|PANIC|HINT|DETAIL):", line)]
    return "; ".join(line.split("] ", 1)[-1].strip() for line in lines[-4:]) or "its log is empty"


def said_since(server: Server, log_from: int) -> str:
    """The end of what its log file has behind ``log_from``."""
    try:
        with server.log_file.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(log_from, end - _LOG_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _newest_history(server: Server) -> History:
    """Of the timeline that the promotion began: PostgreSQL has written it into pg_wal."""
    names = sorted(path.name for path in (server.data_dir / "pg_wal").glob("*.history"))
    timeline = int(names[-1].removesuffix(".history"), 16)
    return parse_history(timeline, (server.data_dir / "pg_wal" / history_name(timeline)).read_bytes())
