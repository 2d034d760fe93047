"""Going back from a replacement, by what the log says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from threefold.bootstrap import Parts
from threefold.cli import store_replace
from threefold.cli.output import Output
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.protect.replacing import change_membership
from threefold.quorum import keys
from threefold.quorum.driver import Driver
from threefold.quorum.lead import fence
from threefold.quorum.members import Format
from threefold.quorum.membership import FOUNDED, Membership, Named
from threefold.quorum.notices import newest_notice
from threefold.quorum.objects import Codec
from threefold.quorum.start import opening, start
from threefold.quorum.view import Scope
from threefold.settings import Settings
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Unknown

KEYRING, CLOCK = Keyring(bytes(32)), SystemClock()
JOINT = Membership(1, ("S1", "S2"), "S3", "S4")
NAMED = Named(("S1", "S2", "S3", "S4"), "S3", "S4")


class _Store(MemoryStore):
    silent = False

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        return Unknown("silent") if self.silent else await super().read(key, start=start, length=length)


async def _log() -> dict[str, _Store]:
    """With one epoch, on the old three."""
    stores = {name: _Store(name) for name in NAMED.stores}
    three = ("S1", "S2", "S3")
    for name in three:
        stores[name].objects[keys.FORMAT] = Format(7, KEYRING.key_id, name).encode()
    driver, scope = Driver(stores, CLOCK), Scope(three, Codec(KEYRING, 7), CLOCK.new_id())
    epoch, found = await driver.run(fence(scope), patience=5.0)
    await driver.run(start(scope, epoch, opening(found, 1, Lsn(0))), patience=5.0)
    return stores


async def _abandon(stores: dict[str, _Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """With what `open_parts` gives where no store has a notice."""

    @asynccontextmanager
    async def opened(*_: Any, **__: Any) -> AsyncIterator[Parts]:
        three = {name: stores[name] for name in ("S1", "S2", "S3")}
        yield Parts(*cast("Any", (None, CLOCK, three, None, KEYRING, None)), FOUNDED, cast("Any", stores))

    monkeypatch.setattr(store_replace, "open_parts", opened)
    await store_replace._abandon(cast("Settings", None), NAMED, Output(True, False), None)


def _lose_notices(stores: dict[str, _Store]) -> None:
    for store in stores.values():
        for key in [key for key in store.objects if key.startswith(keys.MEMBERS)]:
            del store.objects[key]


async def test_where_nothing_has_changed_nothing_is_gone_back_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = await _log()
    before = {name: dict(store.objects) for name, store in stores.items()}
    await _abandon(stores, monkeypatch)
    assert json.loads(capsys.readouterr().out)["stage"] == "filling"
    assert {name: store.objects for name, store in stores.items()} == before


async def test_a_change_without_a_notice_is_gone_back_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its author died in between; whoever took S4 out of the settings then would be refused."""
    stores = await _log()
    await change_membership(stores, KEYRING, CLOCK, FOUNDED, JOINT)
    _lose_notices(stores)
    await _abandon(stores, monkeypatch)
    assert json.loads(capsys.readouterr().out)["stage"] == "abandoned"
    # Both notices: who has settings of before finds the second one behind the first.
    asking = newest_notice(("S1", "S2", "S3"), KEYRING)
    assert await Driver(stores, CLOCK).run(asking, patience=5.0) == JOINT.abandoned()


async def test_what_was_completed_without_a_notice_is_not_gone_back_from(monkeypatch: pytest.MonkeyPatch) -> None:
    stores = await _log()
    await change_membership(stores, KEYRING, CLOCK, FOUNDED, JOINT)
    await change_membership(stores, KEYRING, CLOCK, JOINT, JOINT.completed())
    _lose_notices(stores)
    with pytest.raises(Refused, match="has taken the place"):
        await _abandon(stores, monkeypatch)


async def test_nothing_is_said_of_a_log_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    stores = await _log()
    stores["S1"].silent = stores["S2"].silent = True
    with pytest.raises(Unavailable):
        await _abandon(stores, monkeypatch)
