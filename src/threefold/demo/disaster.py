"""Acts 4 to 6: everything is lost, and comes back; and the instant before the mistake comes back beside it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from datetime import datetime
from functools import partial

from psycopg.conninfo import make_conninfo

from threefold.demo.judge import Verdict, judge, read_base
from threefold.demo.ledger import read_ledger
from threefold.demo.protected import Mistake
from threefold.demo.team import Watch
from threefold.demo.visitor import Visitor
from threefold.demo.world import PRIMARY, World
from threefold.kernel.errors import Unavailable
from threefold.postgres.server import Server

RECOVERED = ("recovered", "before-the-mistake")
_EMPLOYEE = "ada@threefold.example"


async def disaster(world: World, watch: Watch) -> float:
    """Act 4. The moment of the blow, by the monotonic clock."""
    narrator = world.narrator
    narrator.act(
        4,
        "The disaster",
        "At the same moment the primary is killed (kill -9) and its data folder removed, and S2 is killed and its "
        "disk wiped. No warning, no last flush. What is left: S1, S3, and the ledger.",
    )
    if watch.leader is not None:
        world.outcome.puts = dict(watch.leader.puts_per_store)
    blow = await asyncio.to_thread(_blow, world)
    narrator.say("the primary and S2 are gone")
    await world.team.gone_home()
    narrator.say(
        f"the last person heard 'saved' {len(world.team.acks):,} changes into the day; then the line was dead",
        acked=len(world.team.acks),
    )
    return blow


def _blow(world: World) -> float:
    world.gone |= {PRIMARY, "S2"}
    world.signal("S2", signal.SIGKILL)
    world.stack.primary.server.kill()
    blow = world.clock.monotonic()
    for folder in (world.home.primary, world.home.storage("S2")):
        shutil.rmtree(folder)
    return blow


async def recovery(world: World, blow: float, port: int) -> None:
    narrator, outcome = world.narrator, world.outcome
    narrator.act(
        5,
        "Recovery from S1 and S3",
        "threefold recover fetches the snapshot and the log from the two stores that are left, PostgreSQL replays to "
        "the last acknowledged change, and the ledger is compared with it, row by row, column by column.",
    )
    arguments = ["--into", str(world.home.folder / RECOVERED[0]), "--start", "--port", str(port)]
    outcome.recovery = await world.taking("recovering", world.stack.run("recover", *arguments))
    await asyncio.to_thread(_write, world, port)
    outcome.writable_seconds = world.clock.monotonic() - blow
    narrator.say(f"the CRM takes changes again, {outcome.writable_seconds:.1f} s after the blow", port=port)
    outcome.latest = verdict = await world.taking("the ledger judges", asyncio.to_thread(_judge, world, port))
    narrator.say(_sentence(verdict), acked=verdict.acked, lost=verdict.lost_changes)
    outcome.stored_bytes = await asyncio.to_thread(_stored, world)


def _write(world: World, port: int) -> None:
    """A database is back when it takes a change; this one is rolled back, so that the ledger stays right."""
    with world.database(port) as connection:
        done = connection.execute("UPDATE crm.products SET version = version + 1")
        if not done.rowcount:
            raise Unavailable("the recovered database has no products to change")
        connection.rollback()


def _judge(world: World, port: int, until: datetime | None = None) -> Verdict:
    with world.database(port) as connection:
        return judge(connection, read_ledger(world.ledger), read_base(world.base), until)


def _sentence(verdict: Verdict) -> str:
    if verdict.exact:
        return (
            f"{verdict.acked:,} changes were acknowledged, 0 are lost; all {sum(verdict.rows.values()):,} rows of "
            f"{len(verdict.rows)} tables are exactly as promised"
        )
    wrong = [*verdict.lost, *verdict.altered, *verdict.unexplained]
    return f"the promise is broken: {len(wrong)} rows differ, the first: {wrong[0]}"


async def the_crm_answers(world: World, blow: float, port: int) -> None:
    """The rest of act 5: the CRM itself, on the recovered database, as somebody at a desk sees it."""
    crm, narrator, outcome = world.home.settings.crm, world.narrator, world.outcome
    if crm is None:
        return
    recovered = {
        "THREEFOLD_CRM__DSN": make_conninfo(crm.dsn, port=port),
        "THREEFOLD_CRM__SITE": "the recovery site",
    }
    narrator.doing("starting the CRM on the recovered database")
    await world.stack.start_crm(recovered)
    invited = await world.stack.run("crm invite", _EMPLOYEE, "--name", "Ada Okafor", environment=recovered)
    visitor = Visitor(crm.public_url, world.clock)
    await asyncio.to_thread(visitor.enrol, invited["link"], "a new laptop")
    page = await asyncio.to_thread(partial(visitor.ask, "GET", "/queue", accept="text/html"))
    outcome.crm_seconds = world.clock.monotonic() - blow
    queue = (await asyncio.to_thread(visitor.ask, "GET", "/api/v1/queue?limit=4")).json()["items"]
    narrator.say(
        f"the CRM's pages are back {outcome.crm_seconds:.1f} s after the blow, at {crm.public_url}; "
        "somebody enrols a new laptop and sees the queue:",
        url=crm.public_url,
        page_bytes=len(page.body),
    )
    for case in queue:
        narrator.say(f"    {case['subject']}   ({case['status']}, priority {case['priority']})")
    again = await world.stack.run("crm invite", _EMPLOYEE, "--again", environment=recovered)
    outcome.crm = {"url": crm.public_url, "link": again["link"], "queue": queue}


async def before_the_mistake(world: World, mistake: Mistake, port: int) -> None:
    narrator, outcome = world.narrator, world.outcome
    narrator.act(
        6,
        "The contacts come back",
        "A second recovery, from the same stores, to the instant before somebody deleted them. It stands beside the "
        "first one: nothing of the newer work is given up to look at it.",
    )
    into = str(world.home.folder / RECOVERED[1])
    arguments = ["--to", str(mistake.before), "--into", into, "--start", "--port", str(port)]
    outcome.before = await world.taking("recovering to " + str(mistake.before), world.stack.run("recover", *arguments))
    outcome.before_verdict = verdict = await world.taking(
        "the ledger judges", asyncio.to_thread(_judge, world, port, mistake.at)
    )
    outcome.contacts_back = await asyncio.to_thread(_found, world, port, mistake)
    state = "each one as it was" if verdict.exact else _sentence(verdict)
    narrator.say(
        f"{outcome.contacts_back:,} of {len(mistake.contacts):,} contacts are back, {state}",
        port=port,
        contacts=outcome.contacts_back,
    )


def _found(world: World, port: int, mistake: Mistake) -> int:
    with world.database(port) as connection:
        present = {row[0] for row in connection.execute("SELECT id::text FROM crm.contacts")}
    return len(present & mistake.contacts)


def _stored(world: World) -> dict[str, int]:
    """What each store's disk holds, as du counts."""
    return {
        name: sum(path.stat().st_blocks * 512 for path in world.home.storage(name).rglob("*") if path.is_file())
        for name in world.stores()
        if world.home.storage(name).exists()
    }


def stop_recovered(world: World) -> None:
    """The recovered servers are processes of their own: they end with the demo, unless they are kept."""
    for name in RECOVERED:
        server = Server(world.stack.primary.server.binaries, world.home.folder / name, 0)
        server.kill()
