"""Where the parts of fail-over are chosen and handed in: a site's copy, its agent, and what carries out a switch."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg

from threefold.bootstrap import Parts, agent_lock, conninfo_of, journal_of
from threefold.failover.agent import Agent, Means, Place
from threefold.failover.agent_beacon import wait_for_pulse
from threefold.failover.journal import Journal
from threefold.failover.judgement import Patience
from threefold.failover.keeper import Keeper
from threefold.failover.overdue import Overdue, agent_named
from threefold.failover.preflight import Prepared
from threefold.failover.reports import PERIOD_S
from threefold.failover.steps import Active, Switch
from threefold.failover.store_watch import read_reports
from threefold.failover.switch import SYNCHRONOUS, Hands
from threefold.failover.watch import Target, Vantage, Watch
from threefold.kernel.errors import BadInput, NotThere, Refused, ThreefoldError, Unavailable
from threefold.kernel.machine import this_machine
from threefold.kernel.progress import Progress
from threefold.kernel.report import Report
from threefold.postgres.replication import ReplicationLink
from threefold.postgres.sql import reading
from threefold.protect.needed_log import snapshot_log
from threefold.protect.settled import until_settled
from threefold.protect.snapshot import take_snapshot
from threefold.recover.standby import Standby
from threefold.settings import Settings, Site
from threefold.vault.chunk_store import Vault

_SERVES_S = 2.0
_PREPARING = "it is being prepared"


def site_of(settings: Settings, name: str | None) -> Site:
    """One of the two sites; without a name the recovery site. Raises BadInput."""
    sites = settings.sites()
    found = next((site for site in sites if site.name == (name or sites[1].name)), None)
    if found is None:
        raise BadInput(
            f"there is no site {name}", hint=f"threefold.toml names {' and '.join(site.name for site in sites)}"
        )
    return found


def data_dir_of(settings: Settings, site: Site) -> Path:
    """Where that site's PostgreSQL lies, on its own machine. Raises BadInput where nobody said."""
    if site.data_dir is None:
        section = "system" if site == settings.sites()[0] else "recovery"
        raise BadInput(
            f"where the PostgreSQL of {site.name} lies is not said",
            hint=f"set data_dir in [{section}] of threefold.toml",
        )
    return site.data_dir


@contextmanager
def one_agent(data_dir: Path) -> Iterator[None]:
    """Only one process at a time keeps a data folder. Raises Refused."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(agent_lock(data_dir), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                f"an agent already keeps {data_dir}", hint="one is enough; `threefold status` shows what it does"
            ) from None
        yield
    finally:
        os.close(lock)


def keeper_of(parts: Parts, site: Site, progress: Progress, report: Report, *, rebuild: bool = False) -> Keeper:
    host, _, port = site.listen.rpartition(":")
    standby = Standby(
        site=site.name,
        stores=parts.stores,
        keyring=parts.keyring,
        clock=parts.clock,
        progress=progress,
        data_dir=data_dir_of(parts.settings, site),
        host=host,
        port=int(port),
        login=conninfo_of(parts.settings, parts.settings.system.dsn),
        find_binaries=parts.binaries,
    )
    return Keeper(standby, parts.clock, report, rebuild=rebuild)


def hands_of(
    parts: Parts,
    site: Site,
    keeper: Keeper,
    journal: Journal,
    progress: Progress,
    report: Report,
    *,
    heard: Callable[[Switch], None] = lambda _: None,
) -> Hands:
    """``heard`` is told of every step."""
    dsn = conninfo_of(parts.settings, site.dsn)

    async def secure() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{SYNCHRONOUS}'")
            await connection.execute("SELECT pg_reload_conf()")

    async def snapshot() -> str:
        async with await ReplicationLink.connect(dsn, application_name="threefold snapshot") as link:
            identity = await link.identify()
            taken = await take_snapshot(
                link,
                Vault(parts.stores, parts.keyring, parts.clock, note=progress.note),
                settled=lambda lsn: until_settled(parts.stores, parts.keyring, parts.clock, identity, lsn),
                needed_log=partial(snapshot_log, parts.stores, parts.keyring, parts.clock),
                clock=parts.clock,
                progress=progress,
            )
        return taken.summary.id

    return Hands(
        stores=parts.stores,
        keyring=parts.keyring,
        clock=parts.clock,
        report=report,
        journal=journal,
        site=site.name,
        dsn=site.dsn,
        strict=parts.settings.failover.strict,
        ready=keeper.ready,
        surplus=keeper.surplus,
        promoted=keeper.promoted,
        secure=secure,
        snapshot=snapshot,
        heard=heard,
    )


async def agent_of(
    parts: Parts, site: Site, progress: Progress, report: Report, *, rebuild: bool, goes_on: bool = False
) -> Agent:
    """The agent of that site; ``goes_on`` as the agent has it."""
    settings = parts.settings
    journal = journal_of(parts, by=agent_named(site.name))
    keeper = keeper_of(parts, site, progress, report, rebuild=rebuild)
    dsns = {each.name: each.dsn for each in settings.sites()}
    try:
        active = await journal.active()
    except Unavailable:
        active = None
    if active is not None and active.dsn:
        dsns[active.site] = active.dsn

    def follow(active: Active) -> str | None:
        told = active.dsn or dsns.get(active.site)
        return conninfo_of(settings, told) if told else None

    targets = tuple(
        Target(name, conninfo_of(settings, dsn), site.data_dir if name == site.name else None)
        for name, dsn in dsns.items()
    )
    vantage = Vantage(f"agent-{site.name}", site.name, parts.clock.new_id())
    limits = settings.failover
    return Agent(
        Means(
            place=Place(site.name, site.dsn, socket.gethostname(), this_machine()),
            stores=parts.stores,
            keyring=parts.keyring,
            clock=parts.clock,
            report=report,
            journal=journal,
            keeper=keeper,
            watch=Watch(vantage, targets, parts.stores, parts.keyring, parts.clock, reads_reports=True),
            patience=Patience(
                limits.stall.total_seconds(), limits.process_gone.total_seconds(), limits.site_gone.total_seconds()
            ),
            policy=limits.policy,
            hands=hands_of(parts, site, keeper, journal, progress, report),
            others=tuple(name for name in dsns if name != site.name),
            follow=follow,
        ),
        goes_on=goes_on,
    )


def overdue_of(parts: Parts, report: Report) -> Overdue:
    """Abandons what an agent ordered and does not carry out, once the site that was to be left serves again."""
    settings = parts.settings
    known = {site.name: site.dsn for site in settings.sites()}

    async def serves(switch: Switch) -> bool:
        dsn = known.get(switch.source)
        if dsn is None:
            return False
        try:
            async with reading(conninfo_of(settings, dsn), timeout_s=_SERVES_S) as link:
                (row,) = await link.rows("SELECT NOT pg_is_in_recovery() AS production")
        except ThreefoldError:
            return False
        return bool(row["production"])

    return Overdue(
        journal_of(parts, by=f"DRaaS server at {socket.gethostname()}"),
        parts.stores,
        parts.keyring,
        parts.clock,
        report,
        patience=settings.failover.overdue.total_seconds(),
        serves=serves,
    )


async def prepared_of(parts: Parts) -> Prepared:
    """What is set for the day of the disaster, and who is seen alive: two looks at the beacons."""
    settings, limits = parts.settings, parts.settings.failover
    primary, recovery = settings.sites()
    first = await read_reports(parts.stores, parts.keyring)
    agent = await wait_for_pulse(parts.stores, recovery.name, parts.keyring, parts.clock)
    await parts.clock.sleep(PERIOD_S * 1.5)
    second = await read_reports(parts.stores, parts.keyring)
    living = [name for name, report in second.items() if name in first and report.beat != first[name].beat]
    return Prepared(
        policy=limits.policy,
        standby=settings.recovery.standby,
        recovery=recovery.name,
        primary_host=primary.listen.rpartition(":")[0],
        recovery_host=recovery.listen.rpartition(":")[0],
        data_dir_set=recovery.data_dir is not None,
        process_gone_s=limits.process_gone.total_seconds(),
        site_gone_s=limits.site_gone.total_seconds(),
        agent_lives=agent is not None,
        copy="" if agent is None or agent.copy_ready or agent.role == "active" else agent.copy_why or _PREPARING,
        sentinels=tuple(sorted(living)),
        strict=limits.strict,
        without_quorum=limits.without_quorum,
    )


def dsn_of_active(settings: Settings, active: Active) -> str:
    """How the active site's PostgreSQL is reached, without the password. Raises NotThere."""
    known = {site.name: site.dsn for site in settings.sites()}
    dsn = active.dsn or known.get(active.site)
    if dsn is None:
        raise NotThere(f"how to reach {active.site} is not known here", hint="name that site in threefold.toml")
    return dsn
