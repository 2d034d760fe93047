"""Claims and membership, broken on purpose: numbers skipped, deleted, used again; a store without memory votes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tests.simulation.broken.patching import patched
from tests.simulation.leader import Client
from tests.simulation.world import STORES
from threefold.kernel.errors import Unavailable
from threefold.quorum import claim, keys, lead, members, trim
from threefold.quorum.membership import FOUNDED
from threefold.quorum.requests import Ask, Create, Delete, Pause
from threefold.stores.store import Made


@contextmanager
def deletes_seals() -> Any:
    """Tidies up all of an epoch that is over, the seals behind its last slot included."""

    def make(trim_epoch: Any) -> Any:
        def everything(store: str, epoch: int, first: int, below: int) -> Any:
            return trim_epoch(store, epoch, first, below + 100)

        return everything

    with patch.object(trim, "SEAL_BYTES", 0), patched(trim, "_trim_epoch", make):
        yield


def skips_epoch_numbers() -> Any:
    def skipping(scope: Any) -> Any:
        body = scope.writer.encode()
        beaten = 0
        while True:
            highest = yield from claim.highest_claim(scope, decisive=2)
            number = max(highest, beaten) + 2
            answers = yield Ask(tuple(Create(store, keys.epoch_key(number), body) for store in scope.stores))
            if sum(answer is Made.CREATED for answer in answers.values()) >= 2:
                return number
            beaten = number
            yield Pause(0.3)

    return patch.object(lead, "claim", skipping)


def deletes_claims() -> Any:
    def make(trimmed: Any) -> Any:
        def tidy(scope: Any, spans: Any, epoch: int, covered: Any) -> Any:
            asked = yield from trimmed(scope, spans, epoch, covered)
            old = tuple(keys.epoch_key(span.epoch) for span in spans[:-1])
            if old:
                yield Ask(tuple(Delete(store, old) for store in scope.stores))
            return asked

        return tidy

    return patched(trim, "trim", make)


def counts_an_amnesiac_store() -> Any:
    """Who answers votes, with or without its format object."""

    def meet(self: Client, stores: tuple[str, ...] | None = None, membership: Any = FOUNDED) -> Any:
        for _ in range(200):
            roll = yield from members.read_roll(stores or STORES)
            there = [*roll.members, *roll.strangers]
            if len(there) >= 2:
                for store in there:
                    found = roll.members.get(store)
                    self.pins[store] = int(found.incarnation) if found else self.world.stores[store].incarnation
                return self.run.scope(tuple(sorted(there)), self.writer, membership)
            yield Pause(0.5)
        raise Unavailable("fewer than two answer")

    return patch.object(Client, "meet", meet)


def reuses_an_epoch() -> Any:
    """A restarted instance goes on with the newest epoch instead of claiming one."""

    def make(claimed: Any) -> Any:
        def reusing(scope: Any) -> Any:
            highest = yield from claim.highest_claim(scope, decisive=2)
            return highest or (yield from claimed(scope))

        return reusing

    return patched(lead, "claim", make)
