"""What packs that are needed in part only cost over a year, and what writing them anew wins: python -m bench.repack.

A database of which a share changes from day to day, a snapshot and a prune a day with the default [retention], by the
real writers, over three stores in memory. What is counted lies in one store's `packs/`: all of it, and what of it some
snapshot that is kept names. Nothing is timed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from bench.scale_data import SYSTEM, T0, WAL_SEGMENT, Churn, Shape, write_epochs, write_snapshots
from threefold.kernel.clock import SystemClock
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.progress import Silent
from threefold.quorum import keys
from threefold.quorum.members import Format
from threefold.quorum.objects import Codec
from threefold.quorum.timelines import seal_history
from threefold.stores.memory import MemoryStore
from threefold.upkeep.prune import Prune
from threefold.upkeep.sparse import Thresholds
from threefold.vault.chunk_store import Vault
from threefold.vault.retention import Policy

_KEYRING: Final = Keyring(bytes(range(32)))
_POLICY: Final = Policy(timedelta(days=7), daily=7, weekly=4, monthly=12)


class _Day(SystemClock):
    """The system's clock, and the time of the day that is played."""

    at = T0

    def now(self) -> datetime:
        return self.at


@dataclass
class Year:
    """The days so far."""

    stored: list[int]
    needed: list[int]
    copied: int = 0
    revised: int = 0


async def play(churn: Churn, thresholds: Thresholds | None) -> dict[str, Any]:
    stores = {name: MemoryStore(name) for name in ("S1", "S2", "S3")}
    for number, store in enumerate(stores.values()):
        await store.create(keys.FORMAT, Format(SYSTEM, _KEYRING.key_id, f"{number:032x}").encode())
        await store.create(keys.timeline_key(1), seal_history(_KEYRING, 1, b""))
    shape = Shape(entries=60, epochs=2, bytes_each=1_000_000, tiny=1)
    end = await write_epochs(stores, Codec(_KEYRING, SYSTEM), shape, lambda _: None)
    clock, year = _Day(), Year([], [])

    async def prune(at: datetime) -> None:
        clock.at = at + timedelta(hours=1)
        report = await Prune(stores, _KEYRING, clock, Silent(), _POLICY, repack=thresholds).run()
        year.copied += report.repack.copied_bytes // 3
        year.revised += len(report.repack.revised)
        vault = Vault(stores, _KEYRING, clock)
        places = {place for name in report.kept for place in (await vault.manifest(_latest(stores, name))).places}
        year.needed.append(sum(place.stored for place in places))
        year.stored.append(sum(len(body) for key, body in stores["S1"].objects.items() if key.startswith("packs/")))

    await write_snapshots(stores, _KEYRING, churn, (Lsn(WAL_SEGMENT), end), lambda _: None, then=prune)
    last = len(year.stored) // 4
    stored, needed = sum(year.stored[-last:]) / last, sum(year.needed[-last:]) / last
    return {
        "stored MB": round(stored / 1e6, 1),
        "needed MB": round(needed / 1e6, 1),
        "stored against needed": round(stored / needed, 2),
        "at worst": round(max(one / two for one, two in zip(year.stored, year.needed, strict=True)), 2),
        "copied MB a day": round(year.copied / 1e6 / len(year.stored), 2),
        "manifests written anew a day": round(year.revised / len(year.stored), 2),
    }


def _latest(stores: dict[str, MemoryStore], snapshot: str) -> str:
    name = snapshot.partition(".")[0]
    return max(key for key in stores["S1"].objects if key.startswith(f"snapshots/{name}")).rpartition("/")[2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.repack", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--days", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=256, help="the database; all of it lies in memory")
    parser.add_argument("--share", type=float, default=0.02, help="of it that changes a day")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for kind in (False, True):
        churn = Churn(snapshots=options.days, chunks=options.megabytes, share=options.share, hot=kind)
        for name, thresholds in (("never", None), ("below half", Thresholds(least=16 * 2**20))):
            title = f"{'hot' if kind else 'even'} changes, packs written anew: {name}"
            found[title] = asyncio.run(play(churn, thresholds))
            print(title, file=sys.stderr)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
