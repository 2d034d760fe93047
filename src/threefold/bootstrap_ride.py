"""What lets the CRM ride through a disaster of its database, where this host knows the stores and the key.

The edge is handed a place for what is deferred (three stores, seen as one `Intake`), and what the beacons in the stores
say: the epoch, and what protection lacks. Everything that decides is below; here it is opened, looked at, and closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

import structlog
from psycopg.conninfo import conninfo_to_dict

from threefold.failover.agent_beacon import read_agent
from threefold.failover.deficiency import Deficiency
from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, ThreefoldError, Unavailable
from threefold.kernel.keys import Keyring
from threefold.protect.beacon import read_leader
from threefold.quorum.intake import StoreIntake
from threefold.quorum.membership import ReplacedError
from threefold.settings import Settings
from threefold.stores.store import ObjectStore

_EVERY_S: Final = 2.0
# The stores that are members, the key, and the generation of the membership by which they were chosen.
Opened = AbstractAsyncContextManager[tuple[Mapping[str, ObjectStore], Keyring, int]]

log = structlog.get_logger(__name__)


class Protection:
    """Implements connectivity.intake.Intake, and is opened and closed with the application."""

    def __init__(self, open_stores: Callable[[], Opened], clock: Clock, sites: tuple[str, ...]) -> None:
        """``sites``: whose agents' beacons are read."""
        self._open_stores = open_stores
        self._clock = clock
        self._sites = sites
        self._stack = AsyncExitStack()
        self._intake: StoreIntake | None = None
        self._stores: tuple[Mapping[str, ObjectStore], Keyring, int] | None = None
        self._epoch: int | None = None
        self._lacking = ""

    async def open(self) -> None:
        """A key that cannot be read now keeps nobody from serving: there is no deferral then."""
        try:
            self._stores = await self._stack.enter_async_context(self._open_stores())
        except ThreefoldError as error:
            log.warning("nothing can be deferred", reason=error.message, hint=error.hint)
            return
        stores, keyring, generation = self._stores
        self._intake = StoreIntake(stores, keyring, self._clock, generation=generation)

    async def close(self) -> None:
        self._intake = None
        await self._stack.aclose()

    # --- what is deferred ---

    async def put(self, name: str, body: bytes, same: Callable[[bytes], bool]) -> bytes:
        try:
            return await self._opened().put(name, body, same)
        except ReplacedError as moved:
            await self._anew(moved)
            raise Unavailable(moved.message, hint="ask again with the same Idempotency-Key") from None

    async def names(self) -> set[str]:
        try:
            return await self._opened().names()
        except ReplacedError as moved:
            await self._anew(moved)
            raise Unavailable(moved.message, hint="ask again") from None

    async def _anew(self, moved: ReplacedError) -> None:
        """Other stores are members by now; who is at work with the old ones gets an error, and asks again."""
        log.warning("a store was replaced: opening the stores anew", reason=moved.message)
        self._intake, self._stores = None, None
        await self._stack.aclose()
        self._stack = AsyncExitStack()
        await self.open()

    async def read(self, name: str) -> list[bytes]:
        return await self._opened().read(name)

    async def remove(self, name: str) -> None:
        await self._opened().remove(name)

    def _opened(self) -> StoreIntake:
        if self._intake is None:
            raise Unavailable("the stores are not open", hint="wait a little and ask again")
        return self._intake

    # --- what the beacons say ---

    def epoch(self) -> int | None:
        return self._epoch

    def lacking(self) -> str:
        return self._lacking

    async def look(self) -> None:
        """A loop: liveness only, for people."""
        while True:
            if self._stores is not None:
                try:
                    await self._look(*self._stores[:2])
                except BadInput as old_key_file:
                    self._lacking = f"{old_key_file.message}; {old_key_file.hint}"
            await self._clock.sleep(_EVERY_S)

    async def _look(self, stores: Mapping[str, ObjectStore], keyring: Keyring) -> None:
        leader = await read_leader(stores, keyring)
        self._epoch = leader.epoch if leader is not None else self._epoch
        agents = await asyncio.gather(*(read_agent(stores, site, keyring) for site in self._sites))
        newest = max((each for each in agents if each is not None), key=lambda each: each.at, default=None)
        told = Deficiency.from_record(newest.deficiency, away_s=0.0) if newest is not None else Deficiency()
        self._lacking = "; ".join(each.text for each in told.lacks())


def names_of(settings: Settings) -> dict[str, str]:
    """Which site a server is of, by its host:port."""
    found: dict[str, str] = {}
    for site in settings.sites():
        at = conninfo_to_dict(site.dsn)
        found[site.listen] = site.name
        found[f"{at.get('host', 'local')}:{at.get('port', 5432)}"] = site.name
    return found
