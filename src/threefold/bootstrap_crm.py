"""Where the CRM's real parts are chosen and handed in, as bootstrap.py does for what protects it.

The two do not know each other: the CRM runs on any PostgreSQL, and any CRM is protected.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psycopg
from fastapi import FastAPI
from psycopg.conninfo import make_conninfo

from threefold.connectivity import erasing
from threefold.connectivity.app import Pages, Parts, create_app, edge_set
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
from threefold.crm.pages.site import Site
from threefold.crm.sample.company import Company, load_company
from threefold.crm.sql.database import Database
from threefold.crm.sql.database import conninfo_of as reaching
from threefold.crm.sql.migrate import Migration, crm_set, migrate
from threefold.kernel.clock import Clock, SystemClock
from threefold.kernel.errors import Unavailable
from threefold.settings import CrmSettings

_ASK_EVERY_S = 1.0


def conninfo_of(settings: CrmSettings) -> str:
    """To the CRM's database where it takes writes, password included: for libpq alone, never for a log."""
    return reaching(_conninfo(settings), writable=True)


def _conninfo(settings: CrmSettings) -> str:
    crm = settings.crm
    secret = {"password": settings.secret(crm.password)} if crm.password else {}
    return make_conninfo(crm.dsn, **secret)


def database_of(settings: CrmSettings, clock: Clock) -> Database:
    return Database(_conninfo(settings), clock, size=settings.crm.connections)


async def wait_for_database(settings: CrmSettings, clock: Clock, patience: float, say: Callable[[str], None]) -> None:
    """Until it takes connections: whoever starts both need not know in which order. Raises Unavailable."""
    deadline = clock.monotonic() + patience
    told = False
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(conninfo_of(settings), connect_timeout=5):
                return
        except psycopg.OperationalError as error:
            if clock.monotonic() > deadline:
                raise Unavailable(
                    f"the CRM's database does not take connections: {_first_line(error)}",
                    hint="see [crm] dsn and password in threefold.toml; the role has to own that database",
                ) from None
        if not told:
            say("waiting for the CRM's database")
            told = True
        await clock.sleep(_ASK_EVERY_S)


def prepare(settings: CrmSettings) -> list[Migration]:
    """The tables, as this version of the code wants them; what was applied now."""
    with psycopg.connect(conninfo_of(settings)) as connection:
        return migrate(connection, crm_set(), edge_set())


def load_sample(settings: CrmSettings, seed: int, clock: Clock) -> Company:
    """A sample company, as of now. Raises Refused where the CRM is not empty."""
    with psycopg.connect(conninfo_of(settings)) as connection:
        return load_company(connection, seed, clock.now())


def ledger_of(settings: CrmSettings) -> ErasureLedger:
    """Of erasures: outside of the database, because a recovery to an earlier time takes the database back."""
    return ErasureLedger(settings.path(settings.crm.erasures))


async def replay_erasures(settings: CrmSettings, clock: Clock) -> int:
    """Nobody who asked to be forgotten comes back with a recovery: how many did, and were erased anew."""
    async with database_of(settings, clock) as database:
        return len(await erasure.replay(database, ledger_of(settings), hooks=(erasing.forget,)))


async def fail_broken_imports(settings: CrmSettings, clock: Clock) -> int:
    """Of a process that died meanwhile: how many."""
    async with database_of(settings, clock) as database, database.write(SYSTEM) as tx:
        return await imports.fail_broken_off(tx)


def application(settings: CrmSettings) -> FastAPI:
    """The whole CRM, ready to be served. Raises BadInput for a public address that browsers give no keys to."""
    crm = settings.crm
    clock = SystemClock()
    database = database_of(settings, clock)
    live = Live(database, clock)
    site = Site(name=crm.site or "this machine")
    return create_app(
        Parts(
            database=database,
            clock=clock,
            public_url=crm.public_url,
            api=api.router,
            pages=Pages(pages.router, pages.shell_page, str(STATIC), pages.problem_page),
            trust_proxy=crm.trust_proxy,
            opens=(live,),
            loops=(
                partial(escalation, database, clock),
                Courier(database, clock, Sender(private=crm.webhooks_to_private)).run,
            ),
            state={
                "live": live,
                "site": lambda: site,
                "erase": partial(erasure.erase, ledger=ledger_of(settings), hooks=(erasing.forget,)),
                "run_import": partial(imports.run_apart, database, clock),
                "webhooks_private": crm.webhooks_to_private,
            },
        )
    )


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0].lower()
