"""Where the CRM's real parts are chosen and handed in, as bootstrap.py does for what protects it.

The two do not know each other: the CRM runs on any PostgreSQL, and any CRM is protected. Where this host knows the
stores, bootstrap_ride.py adds what lets the CRM ride through a disaster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import psycopg
from fastapi import FastAPI
from psycopg.conninfo import make_conninfo

from threefold.bootstrap_ride import Protection
from threefold.connectivity import erasing, mode
from threefold.connectivity.app import Pages, Parts, create_app, edge_set
from threefold.connectivity.mode import Mode
from threefold.connectivity.standing import About
from threefold.crm import api, pages
from threefold.crm.clocks.escalation import escalation
from threefold.crm.datalog.live import Live
from threefold.crm.erasing import erasure
from threefold.crm.erasing.erasure_ledger import ErasureLedger
from threefold.crm.exchange import imports
from threefold.crm.exchange.courier import Courier
from threefold.crm.exchange.webhook_sending import Sender
from threefold.crm.model.actor import SYSTEM
from threefold.crm.pages.rendering import STATIC
from threefold.crm.sample.company import Company, load_company
from threefold.crm.sql.database import Database
from threefold.crm.sql.database import conninfo_of as reaching
from threefold.crm.sql.migrate import Migration, crm_set, migrate
from threefold.crm.sql.servers import places
from threefold.kernel.clock import Clock, SystemClock
from threefold.kernel.errors import Unavailable
from threefold.settings import CrmSettings

_ASK_EVERY_S = 1.0
_STANDBY_AFTER_S = 3.0
_BY_FLAG = "this server was started to be read only"


def conninfo_of(settings: CrmSettings) -> str:
    """To the CRM's database where it takes writes, password included: for libpq alone, never for a log."""
    return reaching(_conninfo(settings), writable=True)


def _conninfo(settings: CrmSettings) -> str:
    crm = settings.crm
    secret = {"password": settings.secret(crm.password)} if crm.password else {}
    return make_conninfo(crm.dsn, **secret)


def database_of(settings: CrmSettings, clock: Clock) -> Database:
    return Database(_conninfo(settings), clock, size=settings.crm.connections)


async def wait_for_database(settings: CrmSettings, clock: Clock, patience: float, say: Callable[[str], None]) -> bool:
    """Until it takes writes: whoever starts both need not know in which order. Raises Unavailable.

    False: nobody takes writes now, and there is a standby to read from that has our tables.
    """
    began = clock.monotonic()
    told = False
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(conninfo_of(settings), connect_timeout=5):
                return True
        except psycopg.OperationalError as error:
            waited = clock.monotonic() - began
            if waited > _STANDBY_AFTER_S and await _standby_serves(settings):
                return False
            if waited > patience:
                raise Unavailable(
                    f"the CRM's database does not take connections: {_first_line(error)}",
                    hint="see [crm] dsn and password in threefold.toml; the role has to own that database",
                ) from None
        if not told:
            say("waiting for the CRM's database")
            told = True
        await clock.sleep(_ASK_EVERY_S)


async def _standby_serves(settings: CrmSettings) -> bool:
    """Whether one that is read can be served as this version of the code wants it."""
    for _, conninfo in places(_conninfo(settings)):
        try:
            async with await psycopg.AsyncConnection.connect(conninfo, connect_timeout=3) as connection:
                cursor = await connection.execute("SELECT set, number FROM crm.migrations")
                there = {(name, number) for name, number in await cursor.fetchall()}
        except psycopg.Error:
            continue
        if there == {(each.set, each.number) for each in (*crm_set(), *edge_set())}:
            return True
    return False


def prepare(settings: CrmSettings, conninfo: str = "") -> list[Migration]:
    """The tables, as this version of the code wants them; what was applied now. ``conninfo``: where, if it is known."""
    with psycopg.connect(conninfo or conninfo_of(settings)) as connection:
        return migrate(connection, crm_set(), edge_set())


def load_sample(settings: CrmSettings, seed: int, clock: Clock) -> Company:
    """A sample company, as of now. Raises Refused where the CRM is not empty."""
    with psycopg.connect(conninfo_of(settings)) as connection:
        return load_company(connection, seed, clock.now())


def ledger_of(settings: CrmSettings) -> ErasureLedger:
    """Of erasures: outside of the database, because a recovery to an earlier time takes the database back."""
    return ErasureLedger(settings.path(settings.crm.erasures))


async def replay_erasures(settings: CrmSettings, database: Database) -> int:
    """Nobody who asked to be forgotten comes back with a recovery: how many did, and were erased anew."""
    return len(await erasure.replay(database, ledger_of(settings), hooks=(erasing.forget,)))


async def fail_broken_imports(database: Database) -> int:
    """Of a process that died meanwhile: how many."""
    async with database.write(SYSTEM) as tx:
        return await imports.fail_broken_off(tx)


async def prepare_where_it_went(settings: CrmSettings, database: Database, clock: Clock, *, done: bool) -> None:
    """A loop: what `threefold crm serve` does before it serves, done again wherever the database begins to take writes.

    A switch that was allowed to lose something may have brought an erased person back. ``done``: it was done at the
    start, where the database was then.
    """
    known: tuple[str, int] | None = None
    while True:
        writer = database.watch.found.writer if database.watch.found else None
        if writer is not None and (writer.address, writer.timeline) != known:
            if known is not None or not done:
                await asyncio.to_thread(prepare, settings, database.conninfo)
                await replay_erasures(settings, database)
                if known is None:  # this process's own imports go on elsewhere
                    await fail_broken_imports(database)
            known, done = (writer.address, writer.timeline), True
        await clock.sleep(_ASK_EVERY_S)


def application(
    settings: CrmSettings,
    protection: Protection | None = None,
    sites: Mapping[str, str] | None = None,
    *,
    read_only: bool = False,
    prepared: bool = True,
) -> FastAPI:
    """The whole CRM, ready to be served. Raises BadInput for a public address that browsers give no keys to.

    ``protection``: where this host knows the stores; without it nothing is deferred. ``sites``: their names by address.
    ``read_only``: this process takes no changes. ``prepared``: the database was, before.
    """
    crm = settings.crm
    clock = SystemClock()
    database = database_of(settings, clock)
    live = Live(database, clock)
    about = About(crm.site or "this machine", dict(sites or {}))
    if protection is not None:
        about = replace(about, epoch=protection.epoch, lacking=protection.lacking)
    busy = (
        partial(escalation, database, clock),
        Courier(database, clock, Sender(private=crm.webhooks_to_private)).run,
        partial(prepare_where_it_went, settings, database, clock, done=prepared),
    )
    return create_app(
        Parts(
            database=database,
            clock=clock,
            public_url=crm.public_url,
            api=api.router,
            pages=Pages(pages.router, pages.shell_page, str(STATIC), pages.problem_page),
            trust_proxy=crm.trust_proxy,
            opens=(live, *((protection,) if protection else ())),
            loops=((protection.look,) if protection else ()) + (() if read_only else busy),
            stores=protection,
            about=about,
            read_only=Mode(on=True, reason=_BY_FLAG, by_flag=True) if read_only else Mode(),
            state={
                "live": live,
                "erase": partial(erasure.erase, ledger=ledger_of(settings), hooks=(erasing.forget,)),
                "run_import": partial(imports.run_apart, database, clock),
                "webhooks_private": crm.webhooks_to_private,
            },
        )
    )


async def read_only(settings: CrmSettings) -> Mode:
    """As the database has it."""
    async with database_of(settings, SystemClock()) as database, database.read() as connection:
        return await mode.read(connection)


async def set_read_only(settings: CrmSettings, wanted: Mode) -> None:
    async with database_of(settings, SystemClock()) as database, database.write(SYSTEM) as tx:
        await mode.keep(tx, wanted)


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0].lower()
