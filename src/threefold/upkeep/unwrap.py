"""The keys out of the wrapped copies in the stores, of which one may lie, and another may be silent.

No copy can be believed before it opens: with the wrong passphrase, a forged copy and a right one look alike. So every
store's copy is tried, those that two stores hold alike first, and "it does not open" is said only of what two stores
hold alike, or of what every store that answers has said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from threefold.kernel import wraps
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, NotThere, ThreefoldError, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.wraps import Opener, UnsuitedOpener, WrongOpener
from threefold.quorum.keys import WRAPPED
from threefold.quorum.majority import QUORUM
from threefold.stores.store import Gone, ObjectStore, Page, Unknown

_PATIENCE_S: Final = 60.0
_SOME_PATIENCE_S: Final = 5.0  # where something was tried already, and a silent store may have a better copy
_PAUSE_S: Final = 0.2
_AT_ONCE: Final = 8
_LONE_MOST: Final = 32  # a third of a second each: one store could keep us busy for ever


async def unwrap_from_stores(stores: Mapping[str, ObjectStore], clock: Clock, opener: Opener) -> Keyring:
    """The keys from the wrapped copies in the stores: all that open, the copy that holds the most of them first.

    (Two rotations that were begun at the same time leave two copies with a new key each; data may be under either.)

    Raises WrongOpener (BadInput) where none opens, Damaged, NotThere, Unavailable.
    """
    pages = await asyncio.gather(*(store.list(WRAPPED) for store in stores.values()))
    keys = {listed.key for page in pages if isinstance(page, Page) for listed in page.objects}
    silent = {page.reason for page in pages if isinstance(page, Unknown)}
    if not keys and silent:
        raise Unavailable(
            f"the stores that answer have no wrapped master key ({'; '.join(sorted(silent))})",
            hint="wait for a store, or use the key file: [keys] master in threefold.toml",
        )
    if not keys:
        raise NotThere("no store has a wrapped master key", hint="use the key file: [keys] master in threefold.toml")
    # A store that did not list is not waited for again before the others were tried.
    unlisted = {name: page for name, page in zip(stores, pages, strict=True) if isinstance(page, Unknown)}
    trial = _Trial(stores, opener, {key: dict(unlisted) for key in sorted(keys)})
    await trial.ask([name for name in stores if name not in unlisted])
    began, pause = clock.monotonic(), _PAUSE_S
    while True:
        await trial.open()
        waited = clock.monotonic() + pause - began
        if trial.done or waited > (_SOME_PATIENCE_S if trial.tried else _PATIENCE_S):
            return trial.result()
        await clock.sleep(pause * (0.5 + clock.random()))
        pause *= 2
        await trial.ask(list(stores))


@dataclass(slots=True)
class _Trial:
    stores: Mapping[str, ObjectStore]
    opener: Opener
    answers: dict[str, dict[str, bytes | Gone | Unknown]]  # key, store
    tried: dict[bytes, Keyring | ThreefoldError] = field(default_factory=dict)

    async def ask(self, names: Sequence[str]) -> None:
        """Each of these stores for each copy that it has not said anything of."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def read(key: str, name: str) -> None:
            async with gate:
                self.answers[key][name] = await self.stores[name].read(key)

        await asyncio.gather(
            *(
                read(key, name)
                for key, said in self.answers.items()
                for name in names
                if isinstance(said.get(name, Unknown("")), Unknown)
            )
        )

    async def open(self) -> None:
        """What was not tried yet, one at a time (128 MiB each); what two stores hold alike first."""
        lone = 0
        for holders, body in sorted(self._bodies(), key=lambda each: -each[0]):
            if body not in self.tried and (holders >= QUORUM or lone < _LONE_MOST):
                try:
                    self.tried[body] = await asyncio.to_thread(wraps.unwrap, body, self.opener)
                except ThreefoldError as error:
                    self.tried[body] = error
            said = self.tried.get(body)
            lone += holders < QUORUM and isinstance(said, WrongOpener) and not isinstance(said, UnsuitedOpener)

    def _bodies(self) -> Iterator[tuple[int, bytes]]:
        for said in self.answers.values():
            there = [body for body in said.values() if isinstance(body, bytes)]
            yield from ((there.count(body), body) for body in dict.fromkeys(there))

    @property
    def _opened(self) -> list[Keyring]:
        return [each for each in self.tried.values() if isinstance(each, Keyring)]

    @property
    def done(self) -> bool:
        """Whether no store that is silent could change anything."""
        if self._opened:
            return all(
                any(isinstance(body, bytes) for body in said.values()) or not _silent(said)
                for said in self.answers.values()
            )
        return all(self._refused(said) or not _silent(said) for said in self.answers.values())

    def _refused(self, said: Mapping[str, bytes | Gone | Unknown]) -> WrongOpener | None:
        """What is said of a copy that two stores hold alike, and that this does not open."""
        there = [body for body in said.values() if isinstance(body, bytes)]
        for body in there:
            answer = self.tried.get(body)
            if isinstance(answer, WrongOpener) and there.count(body) >= QUORUM:
                return answer
        return None

    def result(self) -> Keyring:
        if found := self._opened:
            found.sort(key=lambda ring: (-len(ring.ids), ring.ids))
            return Keyring(*dict.fromkeys(master for ring in found for master in ring.masters()))
        failed = [error for key, said in self.answers.items() for error in self._why(key, said)]
        # What is damaged may be the one that this opens: say that first, and never that the passphrase is wrong.
        graver = [error for error in failed if isinstance(error, Damaged | Unavailable)]
        tried = [error for error in failed if not isinstance(error, UnsuitedOpener)]
        raise (graver or tried or failed)[0]

    def _why(self, key: str, said: Mapping[str, bytes | Gone | Unknown]) -> Iterator[ThreefoldError]:
        if refused := self._refused(said):
            yield refused
            return
        errors = [self.tried.get(body) for body in said.values() if isinstance(body, bytes)]
        silent, damaged = _silent(said), [error for error in errors if isinstance(error, Damaged)]
        why = "; ".join(f"{name}: {reason}" for name, reason in sorted(silent.items()))
        for wrong in (error for error in errors if isinstance(error, WrongOpener)):
            if silent and not isinstance(wrong, UnsuitedOpener):
                yield WrongOpener(
                    wrong.message,
                    hint=f"check it; or the copy is bad, and stores that are silent have a good one ({why})",
                )
            else:
                yield wrong
        if damaged:
            yield Damaged(f"{key}: {damaged[0].message}", hint="use the key file, or shares, or the passphrase")
        elif not errors and silent:
            yield Unavailable(f"{key} cannot be read now ({why})", hint="when a store is back, run the command again")
        elif not errors:
            yield NotThere(f"{key} is not there any more", hint="run the command again")


def _silent(said: Mapping[str, bytes | Gone | Unknown]) -> dict[str, str]:
    return {name: answer.reason for name, answer in said.items() if isinstance(answer, Unknown)}
