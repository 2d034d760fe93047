"""What is taken in while the database is away: small sealed objects, each created once, standing on two of the three.

Key: ``intake/{name}``. Body: nonce, then AES-256-GCM (purpose "intake"; the key is the header, so that a copy under
another name does not open). Whoever puts one knows it stands when two stores hold a body that is *the same request* as
its own (`same`): the names are made from author and request, so another edge, or a repetition after a lost reply, finds
its own intake there already, with another time in it. A store that does not answer counts for nothing; what it may have
taken all the same is found by a later listing.

Where a store is replaced (notices.py), who chose the stores before is told so by every two of them once it has put
something, or has listed: then nothing is concluded.

A listing is a hint (invariant 2): what it misses now it has later. It is made of two stores at least, for then it has
every intake that anybody was told of. Removing is for those who have a better record of what became of it; a copy that
a store had kept through an outage comes back in a listing, and is removed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, Unavailable
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.quorum.keys import notice_key
from threefold.quorum.majority import QUORUM
from threefold.quorum.membership import ReplacedError
from threefold.quorum.notices import notice_in
from threefold.stores.store import ABSENT, Made, ObjectStore, Page

PREFIX: Final = "intake"
_PATIENCE_S: Final = 4.0
_MOST: Final = 20_000

T = TypeVar("T")


class StoreIntake:
    """Over three stores."""

    def __init__(
        self, stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, *, generation: int = 0
    ) -> None:
        """``generation``: of the membership by which ``stores`` were chosen."""
        self._stores = stores
        self._notice = notice_key(generation + 1)
        self._keyring = keyring
        self._sealer = keyring.sealer(PREFIX)
        self._clock = clock

    async def put(self, name: str, body: bytes, same: Callable[[bytes], bool]) -> bytes:
        """What stands now on two stores under that name: ours, or what was there before us.

        Raises Unavailable where nothing is known to stand; it may stand all the same. Raises ReplacedError.
        """
        key = f"{PREFIX}/{name}"
        nonce = bytes.fromhex(self._clock.new_id())[:NONCE_BYTES]
        sealed = nonce + self._sealer.seal(body, nonce=nonce, header=key.encode())
        tasks = [asyncio.create_task(self._put(store, key, sealed, body)) for store in self._stores.values()]
        standing: list[bytes] = []
        try:
            async with asyncio.timeout(_PATIENCE_S):
                for each in asyncio.as_completed(tasks):
                    found = await each
                    if isinstance(found, ReplacedError):
                        raise found
                    if found is None:
                        continue
                    standing.append(found)
                    alike = [other for other in standing if other == found or (same(other) and same(found))]
                    if len(alike) >= QUORUM:
                        return alike[0]
        except TimeoutError:
            pass
        finally:
            self._leave(tasks)
        raise Unavailable(
            f"too few stores took it: {len(standing)} of {len(self._stores)}",
            hint="ask again with the same Idempotency-Key",
        )

    def _leave(self, tasks: list[asyncio.Task[bytes | ReplacedError | None]]) -> None:
        """The third goes on for a while: three copies are better than two."""

        async def end() -> None:
            await asyncio.wait(tasks, timeout=_PATIENCE_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        if not all(task.done() for task in tasks):
            _LEFT.add(task := asyncio.create_task(end()))
            task.add_done_callback(_LEFT.discard)

    async def _put(self, store: ObjectStore, key: str, sealed: bytes, body: bytes) -> bytes | ReplacedError | None:
        """Errors are returned: nobody hears of one that is raised after another store decided."""
        answer = await store.create(key, sealed)
        if not isinstance(answer, Made):
            return None
        standing = body if answer is Made.CREATED else await self._read(store, key)
        try:
            return standing if await self._still_counts(store) else None
        except ReplacedError as moved:
            return moved

    async def _still_counts(self, store: ObjectStore) -> bool:
        """Whether it knows of no newer membership; asked after it answered. Raises ReplacedError."""
        answer = await store.read(self._notice)
        notice = notice_in([answer], self._notice, self._keyring)
        if notice is not None:
            raise ReplacedError(notice)
        return answer is ABSENT

    async def _read(self, store: ObjectStore, key: str) -> bytes | None:
        answer = await store.read(key)
        if not isinstance(answer, bytes):
            return None
        try:
            return self._sealer.open(answer[NONCE_BYTES:], nonce=answer[:NONCE_BYTES], header=key.encode())
        except Damaged:
            return None  # another copy will do

    async def names(self) -> set[str]:
        """Of all that stand. Raises Unavailable where fewer than two stores tell, ReplacedError."""
        pages = await self._each(self._list)
        told = [names for names in pages if names is not None]
        if len(told) < QUORUM:
            raise Unavailable(f"too few stores answer: {len(told)} of {len(self._stores)}", hint="wait for a store")
        return set().union(*told)

    async def _list(self, store: ObjectStore) -> set[str] | None:
        found: set[str] = set()
        after = ""
        while len(found) < _MOST:
            page = await store.list(PREFIX, after=after)
            if not isinstance(page, Page):
                return None
            found |= {listed.key.removeprefix(f"{PREFIX}/") for listed in page.objects}
            if page.last or not page.objects:
                break
            after = page.objects[-1].key
        return found if await self._still_counts(store) else None

    async def read(self, name: str) -> list[bytes]:
        """The copies that open, of the stores that answer."""
        found = await self._each(lambda store: self._read(store, f"{PREFIX}/{name}"))
        return [body for body in found if body is not None]

    async def remove(self, name: str) -> None:
        """From every store that answers."""
        await self._each(lambda store: store.delete([f"{PREFIX}/{name}"]))

    async def _each(self, ask: Callable[[ObjectStore], Awaitable[T]]) -> list[T | None]:
        async def bounded(store: ObjectStore) -> T | None:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    return await ask(store)
            except TimeoutError:
                return None

        return await asyncio.gather(*(bounded(store) for store in self._stores.values()))


_LEFT: set[asyncio.Task[None]] = set()  # tasks that nobody waits for are kept from being collected
