"""The newest point that can be had of what is damaged: found by reading what its recovery would read.

Asked only where a recovery has failed. The newest snapshot of which every chunk reads on some store, and from it the
log as far as it reads: no older snapshot gets further, since it would have to come through the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from threefold.kernel.errors import Damaged, NotThere, ThreefoldError
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.postgres.commits import last_commit
from threefold.recover.log import OpenLog
from threefold.recover.plan import choose
from threefold.recover.targets import Latest
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Summary
from threefold.vault.pack import Place

_PAGE_BYTES: Final = 8192
_READ_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reachable:
    """``snapshot`` replayed to ``lsn``; ``commit``: of the last transaction known to be in it (primary's clock)."""

    snapshot: str
    lsn: Lsn
    commit: datetime

    @property
    def command(self) -> str:
        return f"threefold recover --to {self.lsn} --snapshot {self.snapshot}"

    @property
    def sentence(self) -> str:
        return f"the newest point that can be had is {self.lsn}, of {self.commit:%Y-%m-%d %H:%M:%S} UTC"


async def newest_reachable(
    vault: Vault, log: OpenLog, snapshots: Sequence[Summary], progress: Progress
) -> Reachable | None:
    """None where nothing can be recovered. Raises Unavailable where a store has to be asked again."""
    progress.step("newest-point", "looking for the newest point that can be had", unit="objects")
    for summary in sorted(snapshots, key=lambda each: (each.stop, each.id), reverse=True):
        try:
            plan = choose(snapshots, log.extent, Latest(), snapshot=summary.id)
            await _readable(vault, summary)
        except (Damaged, NotThere):
            continue
        lsn, commit = await _reach(log, plan.start, summary)
        if lsn >= summary.stop:
            return Reachable(summary.id, lsn, max(commit or summary.stopped, summary.stopped))
    return None


async def _readable(vault: Vault, summary: Summary) -> None:
    """Raises Damaged, NotThere where a part of it reads on no store."""
    manifest = await vault.restorable(summary.id)
    places = sorted(zip(manifest.names, manifest.places, strict=True), key=lambda each: each[1])
    group: list[tuple[bytes, Place]] = []
    for name, place in places:
        if group and (place.pack != group[0][1].pack or place.offset - group[0][1].offset > _READ_BYTES):
            await vault.chunks(group)
            group = []
        group.append((name, place))
    if group:
        await vault.chunks(group)


async def _reach(log: OpenLog, start: Lsn, summary: Summary) -> tuple[Lsn, datetime | None]:
    """How far the log reads, and the last commit in it that tells its time."""
    reach, commit = start, None
    try:
        async for _, at, data in log.read(start, log.extent.end):
            reach = Lsn(at + len(data))
            if at % _PAGE_BYTES == 0:
                commit = last_commit(data, start=at, segment_size=summary.segment_size) or commit
    except (Damaged, NotThere):
        pass
    return reach, commit


def told(error: ThreefoldError, point: Reachable | None, into: str, *, only: str = "") -> ThreefoldError:
    """The error, with what can be had in its place. ``only``: the one store that is read."""
    if point is None:
        hint = "no snapshot can be recovered from what is left here: bring back a store that is away, or its disk"
        return type(error)(error.message, hint=hint)
    return Damaged(
        f"{error.message}; {point.sentence}", hint=f"{point.command}{f' --from {only}' if only else ''} --into {into}"
    )
