"""`threefold crm`: our own CRM, and what its operator needs beside its pages."""

from __future__ import annotations

import asyncio
import os
import re
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from socket import socket
from typing import Annotated

import typer
from fastapi import FastAPI

from threefold import bootstrap, bootstrap_crm, bootstrap_keys, telemetry
from threefold.bootstrap_ride import Protection, names_of
from threefold.cli.common import execute
from threefold.cli.options import CONFIG, Config, Json, Quiet
from threefold.cli.output import Output
from threefold.connectivity import mode
from threefold.connectivity.invitations import first_administrator, invite_contact
from threefold.connectivity.mode import Mode
from threefold.crm.datalog import log
from threefold.crm.model.actor import SYSTEM
from threefold.kernel.clock import Clock, SystemClock
from threefold.kernel.errors import BadInput, Damaged, Refused, ThreefoldError, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.memory import return_large_blocks
from threefold.settings import CrmSettings, Settings, load, load_crm
from threefold.stores.store import ObjectStore

app = typer.Typer(help="Our own CRM: customers, queries, requests, products.", no_args_is_help=True)


class Wanted(StrEnum):
    ON = "on"
    OFF = "off"
    STATUS = "status"


_PATIENCE_S = 60.0
_LAST_REQUESTS_S = 5


@app.command()
def serve(
    config: Config = CONFIG,
    listen: Annotated[
        str | None, typer.Option(help="Where to listen, in place of the settings'.", metavar="HOST:PORT")
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Take no changes, and write nothing: also over a standby.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve the CRM: its pages, its API, and the edge that lets devices in.

    Makes or brings up to date the tables of its database first, and replays the erasure ledger: nobody who asked to be
    forgotten comes back with a recovery. Several may serve one database. Where threefold.toml names the stores and the
    key as well, what customers write while the database is away is kept there, and filed when it is back.

    [bold]Example:[/] threefold crm serve --config crm/threefold.toml
    """
    output = Output(as_json, quiet)
    settings = load_crm(config)
    if listen is not None:
        settings = settings.model_copy(update={"crm": settings.crm.model_copy(update={"listen": address(listen)})})
    clock = SystemClock()
    sites, protection = _protection(config, clock, output)
    prepared = read_only or execute(_prepare(settings, output, standby_will_do=True), output, logs=True)
    telemetry.configure(quiet=output.quiet)
    _serve(
        settings,
        lambda: bootstrap_crm.application(settings, protection, sites, read_only=read_only, prepared=prepared),
        output,
    )


def _protection(config: Path, clock: Clock, output: Output) -> tuple[dict[str, str], Protection | None]:
    """What this host knows beside the CRM's own settings: the sites' names, the stores and the key."""
    with config.open("rb") as file:
        if not {"store", "keys", "system"} <= tomllib.load(file).keys():
            return {}, None
    whole = load(config)
    names = tuple(site.name for site in whole.sites()) if whole.system.site != whole.recovery.site else ()
    sites = names_of(whole) if names else {}
    try:
        bootstrap_keys.keyring_from(whole)
    except ThreefoldError as error:
        if not {bootstrap_keys.PASSPHRASE, bootstrap_keys.SHARE_FILES} & os.environ.keys():
            output.warn(f"nothing can be deferred while the database is away: {error.message}")
            return sites, None
    return sites, Protection(lambda: _stores(whole), clock, names)


@asynccontextmanager
async def _stores(settings: Settings) -> AsyncIterator[tuple[Mapping[str, ObjectStore], Keyring, int]]:
    async with bootstrap.open_parts(settings, verb="crm") as parts:
        yield parts.stores, parts.keyring, parts.membership.generation


async def _prepare(settings: CrmSettings, output: Output, *, standby_will_do: bool = False) -> bool:
    """False: the database takes no writes now, and what there was to do is left for when it does."""
    clock = SystemClock()
    if not await bootstrap_crm.wait_for_database(settings, clock, _PATIENCE_S, output.note):
        if not standby_will_do:
            raise Unavailable("the CRM's database takes no writes now", hint="wait until a site takes over")
        output.warn("the database takes no writes now: serving what the standby has")
        return False
    for migration in await asyncio.to_thread(bootstrap_crm.prepare, settings):
        telemetry.report("migration applied", file=migration.name)
    async with bootstrap_crm.database_of(settings, clock) as database:
        if forgotten := await bootstrap_crm.replay_erasures(settings, database):
            telemetry.report("erasures replayed", people=forgotten)
        if broken := await bootstrap_crm.fail_broken_imports(database):
            telemetry.report("imports that broke off were noted", imports=broken)
    return True


def _serve(settings: CrmSettings, application: Callable[[], FastAPI], output: Output) -> None:
    """uvicorn has the event loop: it handles signals, and lets requests under way come to their end."""
    import uvicorn  # noqa: PLC0415 - the other verbs need not load it

    return_large_blocks()  # of the files that people send

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                facts = {"url": settings.crm.public_url, "listening": settings.crm.listen}
                output.result(facts, f"the CRM is at {settings.crm.public_url}")

    host, _, port = settings.crm.listen.rpartition(":")
    config = uvicorn.Config(
        application(),
        host=host.strip("[]"),
        port=int(port),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_LAST_REQUESTS_S,
    )
    server = Server(config)
    try:
        server.run()
    except SystemExit:  # uvicorn's word for "could not begin"; why is in the log
        raise Refused(
            f"the CRM could not begin to serve {settings.crm.listen}",
            hint="is one running there already? the log says why",
        ) from None


@app.command()
def invite(
    email: Annotated[str, typer.Argument(help="The person's address.", metavar="EMAIL")],
    name: Annotated[str, typer.Option(help="How the person is called.")] = "Administrator",
    again: Annotated[
        bool, typer.Option("--again", help="Though administrators have devices: all of them lost theirs.")
    ] = False,
    config: Config = CONFIG,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the link that lets the first administrator in - and the way back in, when nobody can sign in any more.

    Everybody else is invited from within the CRM.

    [bold]Example:[/] threefold crm invite ada@example.com --name "Ada Lovelace"
    """
    output = Output(as_json, quiet)
    settings = load_crm(config)

    async def work() -> str:
        await _prepare(settings, output)
        async with bootstrap_crm.database_of(settings, SystemClock()) as database:
            return await first_administrator(database, name=name, email=email, again=again)

    link = join_link(settings, execute(work(), output))
    output.result(
        {"link": link}, f"Open this link on the device of {email}, within three days; it works once:", f"  {link}"
    )


@app.command()
def sample(
    seed: Annotated[int, typer.Option(help="The same seed gives the same company.")] = 1,
    config: Config = CONFIG,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fill an empty CRM with a sample company, and print an administrator's link and a customer's.

    [bold]Example:[/] threefold crm sample --config crm/threefold.toml
    """
    output = Output(as_json, quiet)
    settings = load_crm(config)
    output.result(*execute(_sample(settings, seed, output), output))


async def _sample(settings: CrmSettings, seed: int, output: Output) -> tuple[dict[str, object], str]:
    await _prepare(settings, output)
    output.note("making a sample company")
    company = await asyncio.to_thread(bootstrap_crm.load_sample, settings, seed, SystemClock())
    async with bootstrap_crm.database_of(settings, SystemClock()) as database:
        token = await first_administrator(database, name=company.administrator, email=company.administrator_email)
        async with database.write(SYSTEM, "sample") as tx:
            customer = await invite_contact(tx, company.customer)
    links = {"administrator": join_link(settings, token), "customer": join_link(settings, customer.token)}
    people = {"administrator": company.administrator, "customer": customer.person["full_name"]}
    lines = [f"  {people[role]}, {role}:\n    {link}" for role, link in links.items()]
    told = "\n".join(["Each of these links lets one device in, once:", *lines])
    return {"rows": company.rows, "links": links, "people": people}, told


@app.command()
def verify_log(config: Config = CONFIG, as_json: Json = False, quiet: Quiet = False) -> None:
    """Prove that nobody changed the history: every record's chain of changes, and that the record agrees with it.

    [bold]Example:[/] threefold crm verify-log --json
    """
    output = Output(as_json, quiet)
    settings = load_crm(config)
    progress = output.progress()

    async def work() -> log.Report:
        async with bootstrap_crm.database_of(settings, SystemClock()) as database, database.read() as connection:
            return await log.verify(connection, progress)

    try:
        found = execute(work(), output)
    finally:
        output.finish(progress)
    facts = {"records": found.records, "entries": found.entries, "erased": found.erased, "wrong": found.wrong}
    broken = [{"kind": each.kind, "id": str(each.id), "problem": each.problem} for each in found.broken]
    told = [
        f"{found.entries:,} changes of {found.records:,} records: every chain is whole, every record agrees with it"
    ]
    if not found.sound:
        told = [f"  {each['kind']} {each['id']}: {each['problem']}" for each in broken]
    output.result({**facts, "sound": found.sound, "broken": broken}, *told)
    if not found.sound:
        raise Damaged(
            f"records that do not agree with the data log: {found.wrong:,}",
            hint="somebody changed the database behind the CRM, or it is damaged: recover to before, and compare",
        )


@app.command("read-only")
def read_only_mode(
    wanted: Annotated[Wanted, typer.Argument(help="on, off or status.")],
    reason: Annotated[str, typer.Option(help="What people are told.")] = "maintenance",
    until: Annotated[
        str, typer.Option(help="Until when, as people are told: 22:00 (today, UTC) or 2026-11-24T22:00Z.")
    ] = "",
    config: Config = CONFIG,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take no changes for a while: before a planned switch, or for maintenance. Reading goes on, and pages say why.

    Kept in the database: every server of the CRM holds to it within seconds. Where the database takes no writes, start
    `threefold crm serve --read-only` instead.

    [bold]Example:[/] threefold crm read-only on --reason "moving to the other site" --until 22:00
    """
    output = Output(as_json, quiet)
    settings = load_crm(config)

    async def work() -> Mode:
        if wanted is Wanted.STATUS:
            return await bootstrap_crm.read_only(settings)
        asked = mode.checked(reason, _moment(until)) if wanted is Wanted.ON else mode.WRITABLE
        await bootstrap_crm.set_read_only(settings, asked)
        return asked

    found = execute(work(), output)
    facts = {**found.told(), "until": found.until.isoformat() if found.until else None}
    output.result(facts, f"read-only: {found.sentence}" if found.on else "changes are taken")


def _moment(text: str) -> datetime | None:
    """Raises BadInput."""
    if not text:
        return None
    now = SystemClock().now()
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}", text):
            hour, _, minute = text.partition(":")
            found = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
            return found if found > now else found + timedelta(days=1)
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"not a time: {text!r}", hint="write 22:00, or 2026-11-24T22:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def join_link(settings: CrmSettings, token: str) -> str:
    """The token stands in the fragment, which no server ever sees in a log."""
    return f"{settings.crm.public_url.rstrip('/')}/join#{token}"


def address(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise BadInput(f"not an address: {listen!r}", hint="it reads like 127.0.0.1:8080")
    return listen
