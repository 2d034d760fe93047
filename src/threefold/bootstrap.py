"""Where real parts are chosen and handed in; nothing else does that (ARCHITECTURE.md).

Settings become a clock, three observed stores, the key that seals everything, PostgreSQL's programs and the links to
the primary. Whoever gets these parts knows neither the settings nor where the parts come from.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import combinations

from psycopg.conninfo import make_conninfo

from threefold.kernel.clock import Clock, SystemClock
from threefold.kernel.errors import BadInput, NotThere, ThreefoldError
from threefold.kernel.keys import Keyring
from threefold.postgres.binaries import Binaries, find_binaries
from threefold.quorum.keys import wrapped_key_key
from threefold.settings import Settings
from threefold.stores.health import HealthBook
from threefold.stores.observed import ObservedStore
from threefold.stores.open import StoreConfig, open_store, same_place
from threefold.stores.reads import Reader
from threefold.stores.store import Page

_WRAPPED_KEYS = "keys"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process works with."""

    settings: Settings
    clock: Clock
    stores: Mapping[str, ObservedStore]
    health: HealthBook
    keyring: Keyring

    def binaries(self, major: int | None) -> Binaries:
        """PostgreSQL's programs of that major version."""
        configured = self.settings.recovery.binaries
        return find_binaries(major, self.settings.path(configured) if configured else None)


@asynccontextmanager
async def open_parts(settings: Settings, *, passphrase: str | None = None) -> AsyncIterator[Parts]:
    """Stores opened (nothing is asked of them yet), the key read; closed afterwards.

    ``passphrase`` opens the wrapped master key that lies in the stores, for a site that does not have the key file.
    """
    async with open_stores(settings) as (stores, health, clock):
        if passphrase is None:
            keyring = keyring_from(settings)
        else:
            keyring = await unwrap_from_stores(stores, clock, passphrase)
        yield Parts(settings, clock, stores, health, keyring)


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[tuple[Mapping[str, ObservedStore], HealthBook, Clock]]:
    """The three stores alone: for what needs no key."""
    configs = store_configs(settings)
    clock = SystemClock()
    health = HealthBook(config.name for config in configs)
    stores = {config.name: ObservedStore(open_store(config), clock, health) for config in configs}
    try:
        yield stores, health, clock
    finally:
        for store in stores.values():
            await store.close()


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
    system = settings.system
    secret = {"password": settings.secret(system.password)} if system.password else {}
    return make_conninfo(system.dsn, **secret, **more)


def keyring_from(settings: Settings) -> Keyring:
    """The master key of the settings: 32 bytes, written in base64."""
    text = settings.secret_bytes(settings.keys.master).strip()
    try:
        return Keyring(b64decode(text, validate=True))
    except binascii.Error:
        raise BadInput(
            "the master key is not readable: it is not base64",
            hint="use the file that `threefold init` wrote, or a passphrase to open the copy in the stores",
        ) from None


async def unwrap_from_stores(stores: Mapping[str, ObservedStore], clock: Clock, passphrase: str) -> Keyring:
    """The master key from the wrapped copy that lies in every store. Raises BadInput for a wrong passphrase."""
    pages = [await store.list(_WRAPPED_KEYS) for store in stores.values()]
    keys = {listed.key for page in pages if isinstance(page, Page) for listed in page.objects}
    if not keys:
        raise NotThere("no store has a wrapped master key", hint="use the key file: [keys] master in threefold.toml")
    reader = Reader(stores, clock, lambda _: None)

    async def accept(body: bytes) -> Keyring:
        return Keyring.unwrap(body, passphrase)

    # Usually one; after a change of the key, the newest that the passphrase opens.
    wrong: ThreefoldError | None = None
    for key in sorted(keys):
        try:
            return await reader.read(key, accept)
        except ThreefoldError as error:
            wrong = error
    raise wrong or NotThere("no wrapped master key could be read")


async def publish_wrapped_key(parts: Parts, wrapped: bytes) -> None:
    """Put the wrapped master key into every store that lacks it: what a recovery site without the file needs.

    A store that does not answer now gets it at the next start.
    """
    for store in parts.stores.values():
        await store.create(wrapped_key_key(parts.keyring.key_id), wrapped)
