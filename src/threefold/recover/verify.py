"""`threefold verify`: whether what is stored can be restored, without restoring it.

For each snapshot: its manifest reads, its packs are there and on how many stores (each asked by reading its end, not
by listing), and the log holds everything from its start on. ``deep`` reads every chunk of every store's copy, decrypts
it and compares its digest, and reads the whole log: the proof that a restore from any of the stores alone gives the
same bytes.

A problem names the store, the object and what to do. One that costs a copy is not one that costs a recovery point, and
the report says which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from threefold.kernel.errors import BadInput, Damaged, NotThere, ThreefoldError, Unavailable
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Progress
from threefold.recover.log import OpenLog
from threefold.recover.plan import choose
from threefold.recover.targets import Latest
from threefold.vault.chunk_store import Vault
from threefold.vault.manifest import Manifest, snapshot_key
from threefold.vault.pack import Place, ends, pack_key

_PACKS_AT_ONCE: Final = 3
_FILLED_IN: Final = "`threefold protect`, where it runs, looks for what a store lacks and copies it from another"
_REPLACE: Final = "delete this copy on that store: `threefold protect`, where it runs, copies it again from another"


@dataclass(frozen=True, slots=True)
class Problem:
    """``store`` is empty where no single one is to blame; ``costs_recovery``: something cannot be restored now."""

    store: str
    key: str
    what: str
    remedy: str
    costs_recovery: bool


@dataclass(slots=True)
class Report:
    """What was looked at and what was found."""

    snapshots: int = 0
    packs: int = 0
    chunks_read: int = 0
    bytes_read: int = 0
    wal_start: Lsn | None = None
    wal_end: Lsn | None = None
    wal_bytes_read: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def restorable(self) -> bool:
        return self.snapshots > 0 and not any(problem.costs_recovery for problem in self.problems)


async def verify_stored(vault: Vault, log: OpenLog | ThreefoldError, progress: Progress, *, deep: bool) -> Report:
    """Look at everything. ``log`` is the opened log, or why it does not open. Raises Unavailable: no store answers."""
    report = Report()
    progress.step("verify-snapshots", "reading the snapshots' manifests", unit="objects")
    catalogue = await vault.catalogue()
    for snapshot in catalogue.damaged:
        report.problems.append(
            Problem(
                "", snapshot_key(snapshot), "no copy of the manifest reads", "take a new snapshot", costs_recovery=True
            )
        )
    places: dict[str, dict[bytes, Place]] = {}
    used_by: dict[str, list[str]] = {}
    for summary in catalogue.summaries:
        report.snapshots += 1
        _copies(report, snapshot_key(summary.id), vault.stores, catalogue.found_on[summary.id])
        try:
            manifest = await vault.restorable(summary.id)
        except (Damaged, NotThere, Unavailable) as error:
            report.problems.append(
                Problem("", snapshot_key(summary.id), error.message, "take a new snapshot", costs_recovery=True)
            )
            continue
        for pack in manifest.packs():
            used_by.setdefault(pack, []).append(summary.id)
        _by_pack(manifest, places)
        progress.advance(1)
    await _verify_presence(vault, report, places, used_by)
    if deep:
        await _verify_chunks(vault, report, places, used_by, progress)
    await _verify_log(vault, log, report, progress, deep=deep)
    return report


async def _verify_presence(
    vault: Vault, report: Report, places: Mapping[str, Mapping[bytes, Place]], used_by: Mapping[str, Sequence[str]]
) -> None:
    report.packs = len(places)
    reaches = ends(place for chunks in places.values() for place in chunks.values())
    for pack, presence in (await vault.presence(reaches)).items():
        _copies(report, pack_key(pack), vault.stores, presence.on, unknown=presence.unknown)
        if not presence.on and not presence.unknown:
            report.problems.append(_lost(pack, "it is on no store", used_by[pack]))


async def _verify_chunks(
    vault: Vault,
    report: Report,
    places: Mapping[str, Mapping[bytes, Place]],
    used_by: Mapping[str, Sequence[str]],
    progress: Progress,
) -> None:
    """Each store's copy for itself; a pack that reads whole nowhere is lost only if some chunk reads nowhere."""
    progress.step("verify-packs", "reading every copy of every pack", total=len(places), unit="packs")
    room = asyncio.Semaphore(_PACKS_AT_ONCE)

    async def one(pack: str, chunks: Mapping[bytes, Place]) -> None:
        async with room:
            bad_everywhere, copies = set(chunks), 0
            for name in vault.stores:
                bad = await vault.bad_chunks(name, pack, chunks)
                if isinstance(bad, Unavailable):
                    report.problems.append(_unknown(name, pack_key(pack), bad.message))
                    bad_everywhere.clear()
                    continue
                if bad is None:
                    continue  # absent, which is reported already
                copies += 1
                report.chunks_read += len(chunks) - len(bad)
                report.bytes_read += sum(place.stored for chunk, place in chunks.items() if chunk not in bad)
                bad_everywhere &= bad
                if bad:
                    what = f"{len(bad)} of its {len(chunks)} chunks are damaged"
                    report.problems.append(Problem(name, pack_key(pack), what, _REPLACE, costs_recovery=False))
            if copies and bad_everywhere:
                what = f"{len(bad_everywhere)} of its chunks are damaged on every store"
                report.problems.append(_lost(pack, what, used_by[pack]))
            progress.advance(1)

    await asyncio.gather(*(one(pack, chunks) for pack, chunks in places.items()))


async def _verify_log(
    vault: Vault, log: OpenLog | ThreefoldError, report: Report, progress: Progress, *, deep: bool
) -> None:
    if isinstance(log, ThreefoldError):
        report.problems.append(
            Problem("", "log", log.message, log.hint or "start `threefold protect`", costs_recovery=True)
        )
        return
    report.wal_start, report.wal_end = log.extent.start, log.extent.end
    summaries = (await vault.catalogue()).summaries
    reach: Lsn | None = None
    for summary in summaries:
        try:
            plan = choose(summaries, log.extent, Latest(), snapshot=summary.id)
            reach = plan.start if reach is None else min(reach, plan.start)
        except (NotThere, BadInput) as error:
            report.problems.append(
                Problem("", snapshot_key(summary.id), error.message, "take a new snapshot", costs_recovery=True)
            )
    if reach is None or not deep:
        return
    progress.step("verify-wal", "reading the log", total=log.extent.end - reach)
    try:
        async for _, _, data in log.read(reach, log.extent.end):
            report.wal_bytes_read += len(data)
            progress.advance(len(data))
    except (Damaged, NotThere, Unavailable) as error:
        at = Lsn(reach + report.wal_bytes_read)
        report.problems.append(
            Problem(
                "",
                "wal",
                f"the log cannot be read on from {at}: {error.message}",
                "take a new snapshot",
                costs_recovery=True,
            )
        )


def _copies(
    report: Report, key: str, stores: Iterable[str], on: frozenset[str], *, unknown: frozenset[str] = frozenset()
) -> None:
    for name in stores:
        if name in unknown:
            report.problems.append(_unknown(name, key, "the store does not answer"))
        elif name not in on:
            what = f"it is not there whole, and on {len(on)} of the other stores"
            report.problems.append(Problem(name, key, what, _FILLED_IN, costs_recovery=False))


def _unknown(store: str, key: str, what: str) -> Problem:
    return Problem(store, key, what, "verify again when the store is back", costs_recovery=False)


def _lost(pack: str, what: str, snapshots: Sequence[str]) -> Problem:
    where = ", ".join(snapshots)
    return Problem(
        "", pack_key(pack), f"{what}; snapshots that need it: {where}", "take a new snapshot", costs_recovery=True
    )


def _by_pack(manifest: Manifest, places: dict[str, dict[bytes, Place]]) -> None:
    for name, place in zip(manifest.names, manifest.places, strict=True):
        places.setdefault(place.pack, {})[name] = place
