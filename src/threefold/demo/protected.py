"""Acts 1 to 3: protection begins, a storage server stalls, somebody makes a mistake."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from threefold.crm.sample.sample import load
from threefold.demo.judge import save_base
from threefold.demo.ledger import GONE, LedgerWriter, Row
from threefold.demo.outcome import Pace
from threefold.demo.team import DESKS, Watch
from threefold.demo.world import World
from threefold.kernel.errors import Unavailable
from threefold.kernel.lsn import Lsn

_HEALTHY_S = 8.0
_STOPPED_S = 8.0
_MISTAKEN_S = 4.0
_FILL_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Mistake:
    """The deletion, and the instant before it."""

    before: Lsn
    at: datetime
    contacts: frozenset[str]  # ids of those that were deleted


async def protection_begins(world: World) -> None:
    narrator, stack, outcome = world.narrator, world.stack, world.outcome
    narrator.act(
        1,
        "Protection begins",
        "Three storage servers, a PostgreSQL and the DRaaS server start as processes of their own. From then on "
        "PostgreSQL says that a change is saved only when it is on two of the three storage servers.",
    )
    await world.taking("starting three storage servers", stack.start_stores())
    await world.taking("making a PostgreSQL and starting it", stack.start_primary())
    await world.taking("starting the DRaaS server: it probes the stores and begins the log", stack.start_protect())
    binaries = stack.primary.server.binaries
    outcome.postgresql = binaries.version
    narrator.say(f"S1, S2, S3, PostgreSQL {binaries.version} and the DRaaS server run", processes=world.processes())

    counts, size = await world.taking("loading a CRM, protected from the first row on", asyncio.to_thread(_load, world))
    outcome.rows_loaded, outcome.database_bytes = sum(counts.values()), size
    narrator.say(
        f"{outcome.rows_loaded:,} rows of accounts, contacts, queries, requests and interactions are loaded",
        rows=counts,
    )
    outcome.snapshot = await world.taking("taking a snapshot into the stores", stack.run("snapshot"))
    narrator.say(
        f"the first snapshot is in all three stores ({outcome.snapshot['bytes'] / 1e6:.0f} MB, "
        f"{outcome.snapshot['bytes_sent'] / 1e6:.0f} MB compressed and encrypted)"
    )


def _load(world: World) -> tuple[dict[str, int], int]:
    with world.database() as connection:
        counts = load(connection, world.seed)
        connection.commit()
        save_base(connection, world.base)
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return counts, int(row[0]) if row else 0


async def people_work(world: World) -> None:
    """The rest of act 1."""
    narrator = world.narrator
    await world.team.start(world.writers_dsn, world.home.secret("crm.password"), world.seed)
    narrator.say(f"{DESKS} people work on the CRM; a ledger on the other side notes what each was told is saved")
    await world.clock.sleep(2)  # caches warm, connections made
    world.outcome.healthy = pace = await world.team.pace(_HEALTHY_S)
    narrator.say(f"healthy: {_pace(pace)}", pace=_facts(pace))


async def a_store_stalls(world: World, watch: Watch) -> None:
    narrator = world.narrator
    narrator.act(
        2,
        "A storage server stalls",
        "S3 is stopped in mid-flight (SIGSTOP): it holds its connections open and answers nothing, as a provider "
        "with trouble does. Two of three are enough, so nobody should notice.",
    )
    world.signal("S3", signal.SIGSTOP)
    narrator.say("S3 is stopped")
    world.outcome.one_store_stopped = pace = await world.team.pace(_STOPPED_S)
    healthy = world.outcome.healthy
    ratio = pace.per_second / healthy.per_second if healthy and healthy.per_second else 0.0
    narrator.say(f"without S3: {_pace(pace)} - {ratio:.0%} of the healthy pace", pace=_facts(pace))
    world.signal("S3", signal.SIGCONT)
    began = world.clock.monotonic()
    narrator.doing("S3 is back: what it missed is filled in from the other two")
    await _filled(world, watch)
    world.outcome.filled_in_seconds = seconds = world.clock.monotonic() - began
    narrator.say(f"S3 is back, and whole again after {seconds:.0f} s; the writers never waited for it")


async def _filled(world: World, watch: Watch) -> None:
    deadline = world.clock.monotonic() + _FILL_PATIENCE_S
    beat = watch.leader.beat if watch.leader else 0
    while True:
        leader = watch.leader
        if leader is not None and leader.beat > beat + 1 and _whole(leader.stores):
            return
        if world.clock.monotonic() > deadline:
            raise Unavailable(f"S3 was not filled in within {_FILL_PATIENCE_S:.0f} s")
        await world.clock.sleep(0.1)


def _whole(stores: Any) -> bool:
    return all(line.state == "voting" and line.missing == 0 for line in stores)


async def somebody_errs(world: World) -> Mistake:
    narrator = world.narrator
    narrator.act(
        3,
        "Somebody deletes all contacts",
        "DELETE FROM contacts, without a WHERE, committed. It is replicated as faithfully as everything else: "
        "three copies do not help against a mistake. The log does, act 6 shows how.",
    )
    mistake = await asyncio.to_thread(_delete_contacts, world)
    world.outcome.contacts_deleted = len(mistake.contacts)
    narrator.say(
        f"{len(mistake.contacts):,} contacts are gone; the log had come to {mistake.before}",
        before=str(mistake.before),
    )
    world.outcome.after_the_mistake = pace = await world.team.pace(_MISTAKEN_S)
    narrator.say(f"people go on working: {_pace(pace)}", pace=_facts(pace))
    return mistake


def _delete_contacts(world: World) -> Mistake:
    """One transaction, and the ledger hears of it as of any other."""
    with world.database() as connection:
        # What was acked up to this moment lies before this LSN: the moment is taken first.
        at = world.clock.now()
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        before = Lsn.parse(row[0] if row else "")
        began = world.clock.monotonic()
        gone = [row[0] for row in connection.execute("DELETE FROM crm.contacts RETURNING id::text")]
        ledger = LedgerWriter(world.ledger, "somebody")
        change = ledger.tried([Row("contacts", each, GONE) for each in gone])
        connection.commit()
        took = (world.clock.monotonic() - began) * 1000
    asyncio.run(ledger.acked(change, world.clock.now(), took))
    ledger.close()
    return Mistake(before, at, frozenset(gone))


def _pace(pace: Pace) -> str:
    return f"{pace.per_second:.0f} changes a second, p99 {pace.p99_ms:.0f} ms"


def _facts(pace: Pace) -> dict[str, float]:
    return {"per_second": round(pace.per_second, 1), "p50_ms": pace.p50_ms, "p99_ms": pace.p99_ms}
