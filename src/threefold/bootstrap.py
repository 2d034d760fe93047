"""Where real parts are chosen and handed in; nothing else does that (ARCHITECTURE.md).

Settings become a clock, three observed stores, the key that seals everything, PostgreSQL's programs and the links to
the primary. Whoever gets these parts knows neither the settings nor where the parts come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from threefold.bootstrap_keys import ring_of
from threefold.cost.keeping import Keeper
from threefold.failover.journal import Journal
from threefold.failover.overdue import Overdue
from threefold.failover.steps import Kind
from threefold.kernel.clock import Clock, SystemClock
from threefold.kernel.errors import BadInput, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.progress import Progress
from threefold.kernel.wraps import Opener
from threefold.postgres.binaries import Binaries, find_binaries
from threefold.postgres.conninfo import checked_conninfo
from threefold.protect.where import AsksWhere, Primary, Where
from threefold.quorum.driver import Driver
from threefold.quorum.membership import FOUNDED, Membership, Named, ReplacedError
from threefold.quorum.notices import newest_notice
from threefold.settings import Settings
from threefold.stores.health import HealthBook, Operation
from threefold.stores.locking import LockingStore
from threefold.stores.observed import ObservedStore
from threefold.stores.open import StoreConfig, open_store, same_place
from threefold.stores.store import ObjectStore
from threefold.upkeep.renew import AT_CREATION, Renewal
from threefold.upkeep.sparse import MIB, Thresholds
from threefold.vault.retention import Policy

_NOTICE_PATIENCE_S = 2.0
_MEMBERS_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process works with."""

    settings: Settings
    clock: Clock
    stores: Mapping[str, ObservedStore]  # those whose answers count
    health: HealthBook
    keyring: Keyring
    keeper: Keeper
    membership: Membership = FOUNDED  # by which they were chosen
    all_stores: Mapping[str, ObservedStore] = field(default_factory=dict)  # all that the settings name

    def binaries(self, major: int | None) -> Binaries:
        """PostgreSQL's programs of that major version."""
        configured = self.settings.recovery.binaries
        return find_binaries(major, self.settings.path(configured) if configured else None)


@asynccontextmanager
async def open_parts(
    settings: Settings,
    *,
    opener: Opener | None = None,
    ask: Callable[[], Opener | None] = lambda: None,
    verb: str = "",
) -> AsyncIterator[Parts]:
    """Stores opened (nothing is asked of them yet), the keys read; closed afterwards.

    ``verb``: for whom what is asked of the stores is counted and kept (cost/keeping.py); without one it is not kept.

    ``opener`` opens the wrapped copy that lies in the stores, for a site that does not have the key file; where both
    are missing, the environment's does (bootstrap_keys.py), or what ``ask`` gets from a person.
    """
    async with open_stores(settings) as (every, health, clock):
        named = named_of(settings)
        # Notices are sealed. What lies where a store is only to join may be another log's: no key is taken from there.
        known = {name: store for name, store in every.items() if name != named.joining}
        keyring = await ring_of(settings, known, clock, opener=opener, ask=ask)
        membership = await _in_force(every, keyring, clock)
        stores = {name: every[name] for name in named.voters(membership)}
        keeper = Keeper(verb, stores, health, keyring, clock)
        keeping = asyncio.create_task(keeper.run())
        try:
            yield Parts(settings, clock, stores, health, keyring, keeper, membership, every)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await keeper.flush()


async def _in_force(stores: Mapping[str, ObservedStore], keyring: Keyring, clock: Clock) -> Membership:
    """As far as the stores tell soon. Whoever decides anything with two of them finds out if it was too little."""
    try:
        return await Driver(stores, clock).run(newest_notice(tuple(stores), keyring), patience=_NOTICE_PATIENCE_S)
    except Unavailable:
        return FOUNDED


async def still_members(parts: Parts) -> None:
    """For what two stores were to keep: whether they still count. Raises ReplacedError, Unavailable."""
    asking = newest_notice(tuple(parts.stores), parts.keyring)
    now = await Driver(parts.stores, parts.clock).run(asking, patience=_MEMBERS_PATIENCE_S)
    if now.generation > parts.membership.generation:
        raise ReplacedError(now)


def named_of(settings: Settings) -> Named:
    """The stores that the settings name, and which of them is to replace which."""
    joining = next((store for store in settings.store if store.replaces), None)
    names = tuple(store.name for store in settings.store)
    return Named(names, joining.replaces or "", joining.name) if joining else Named(names)


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[tuple[Mapping[str, ObservedStore], HealthBook, Clock]]:
    """All stores that the settings name."""
    configs = store_configs(settings)
    clock = SystemClock()
    health = HealthBook(config.name for config in configs)
    stores = {
        config.name: ObservedStore(_locking(settings, open_store(config), clock), clock, health) for config in configs
    }
    try:
        yield stores, health, clock
    finally:
        for store in stores.values():
            await store.close()


def _locking(settings: Settings, store: ObjectStore, clock: Clock) -> ObjectStore:
    if store.name not in settings.locked_stores:
        return store
    return LockingStore(store, clock, settings.locks.period, AT_CREATION)


def policy_of(settings: Settings) -> Policy:
    """What prune goes by."""
    rules = settings.retention
    return Policy(rules.pitr, rules.daily, rules.weekly, rules.monthly, rules.grace)


def thresholds_of(settings: Settings) -> Thresholds | None:
    """Which packs prune writes anew; None: none."""
    rules = settings.retention
    if not rules.repack_below:
        return None
    return Thresholds(rules.repack_below, rules.repack_least_mib * MIB, rules.repack_most_mib * MIB)


def renewal_of(parts: Parts, progress: Progress | None = None, *, once: bool = False) -> Renewal | None:
    """Who keeps what is needed locked; None where nothing is. ``once``: for one pass only."""
    settings = parts.settings
    if not settings.locked_stores:
        return None
    return Renewal(
        parts.stores,
        settings.locked_stores,
        parts.keyring,
        parts.clock,
        policy_of(settings),
        settings.locks.period,
        progress=progress,
        once=once,
    )


def store_configs(settings: Settings) -> list[StoreConfig]:
    """Raises BadInput for two stores at one place: two copies there would be one."""
    configs = [
        StoreConfig(
            name=store.name,
            # The system's name is part of the place, so that several CRMs can share three buckets.
            url=f"{store.url.rstrip('/')}/{settings.system.name}",
            endpoint=store.endpoint,
            access_key_id=settings.secret(store.access_key_id) if store.access_key_id else None,
            secret_access_key=settings.secret(store.secret_access_key) if store.secret_access_key else None,
            region=store.region,
            ca_file=settings.path(store.ca_file) if store.ca_file else None,
            provider=store.provider,
            allow_http=store.allow_http,
            lock_mode=settings.locks.mode.upper(),
        )
        for store in settings.store
    ]
    for one, other in combinations(configs, 2):
        if same_place(one, other):
            raise BadInput(
                f"stores {one.name} and {other.name} are the same place: two copies there would be one",
                hint="give each store a bucket of its own, best at another provider",
            )
    return configs


def primary_conninfo(settings: Settings, **more: str) -> str:
    """How to connect to the primary, password included: for libpq alone, never for a log or an argument list."""
    return conninfo_of(settings, settings.system.dsn, **more)


def conninfo_of(settings: Settings, dsn: str, **more: str) -> str:
    """The same for any site's PostgreSQL: roles and passwords are the primary's."""
    system = settings.system
    secret = {"password": settings.secret(system.password)} if system.password else {}
    return checked_conninfo(dsn, **secret, **more)


def primary_of(settings: Settings, dsn: str | None = None) -> Primary:
    """The CRM's PostgreSQL, as the DRaaS server sees it. One slot for each system that is protected.

    ``dsn``: of the site that is active, without the password; absent: of the first one.
    """
    slot = f"threefold_{settings.system.name}".replace("-", "_")
    return Primary(dsn=conninfo_of(settings, dsn or settings.system.dsn), slot=slot)


def agent_lock(data_dir: Path) -> Path:
    """Held by the agent that keeps this data folder."""
    return data_dir.with_name(f"{data_dir.name}.agent.lock")


def journal_of(parts: Parts, *, by: str = "") -> Journal:
    """The switches of this system; before the first, the primary's site is active."""
    primary, _ = parts.settings.sites()
    return Journal(
        parts.stores, parts.keyring, parts.clock, primary_site=primary.name, by=by, membership=parts.membership
    )


def where_of(parts: Parts, overdue: Overdue | None = None) -> AsksWhere:
    """Which site is active, by the journal, and how its PostgreSQL is reached.

    ``overdue`` looks after a switch that nobody carries out any more.
    """
    settings = parts.settings
    sites = {site.name: site.dsn for site in settings.sites()}
    journal = journal_of(parts)

    async def where() -> Where:
        switches = await journal.read()
        if overdue is not None and await overdue.look(switches.newest):
            switches = await journal.read()
        won = next((each for each in reversed(switches.all) if each.took_over), None)
        newest = switches.newest
        site = won.target if won else next(iter(sites))
        dsn = (won.dsn if won else None) or sites.get(site)
        # Between ``promoting`` and ``serving`` there is nobody to lead for.
        coming = won is not None and won.last.kind is Kind.PROMOTING
        return Where(
            site=site,
            primary=primary_of(settings, dsn) if dsn else None,
            under_way=coming or (newest is not None and newest.under_way),
            switch=won.number if won else 0,
            newest=newest.number if newest else 0,
        )

    return where


def puts_of(parts: Parts) -> dict[str, int]:
    """Requests that create or overwrite, by store, since the start: what a provider bills most for."""
    writing = {Operation.CREATE, Operation.WRITE}
    return {
        name: sum(traffic.requests for traffic in store.traffic() if traffic.operation in writing)
        for name, store in (parts.all_stores or parts.stores).items()
    }
