"""Waiting for one's turn to lead: looks again and again, and lets turn.py conclude."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Self

import psutil

from threefold.kernel.errors import ThreefoldError
from threefold.postgres.sql import SqlLink, reading
from threefold.protect import beacon
from threefold.protect.beacon import LeaderStatus
from threefold.protect.leader import Deployment
from threefold.protect.turn import Patience, Seen, Turn
from threefold.protect.where import Primary, Where
from threefold.quorum import keys
from threefold.stores.soon import answers_soon
from threefold.stores.store import Page

_LOOK_S = 0.5
_SQL_PATIENCE_S = 2.0
_PRIMARY = """
SELECT NOT pg_is_in_recovery() AS production,
       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s AND active) AS streams
"""


async def wait_for_turn(with_: Deployment, here: Where, primary: Primary, patience: Patience, *, fenced: bool) -> bool:
    """Returns when we should lead: whether that had to be waited for.

    ``fenced``: another DRaaS server ended our epoch. While the newest beacon is still ours, that one is about to lead.
    """
    clock = with_.clock
    turn = Turn(patience, here.switch, clock.monotonic())
    told = False
    async with _PrimaryView(primary) as view:
        while True:
            leader = await beacon.read_leader(with_.stores, with_.keyring)
            ours = leader is not None and leader.machine == with_.machine and leader.pid == os.getpid()
            if ours and not fenced:
                return told
            production, streams = await view.look() if patience.cut_off is not None else (False, False)
            gone = leader is not None and leader.machine == with_.machine and not psutil.pid_exists(leader.pid)
            claimed = await _claimed(with_, leader) if production and not streams else 0
            seen = Seen(leader, gone, claimed, production, streams)
            why = turn.come(seen, clock.monotonic())
            if why:
                if told:
                    with_.report("taking over", reason=why)
                return told
            if not told and leader is not None:
                told = True
                with_.report("waiting: a leader may be alive", epoch=leader.epoch, host=leader.host, pid=leader.pid)
            await clock.sleep(_LOOK_S)


async def _claimed(with_: Deployment, leader: LeaderStatus | None) -> int:
    """The highest epoch above the leader's that a store lists: somebody else may be on its way."""
    after = keys.epoch_key(leader.epoch) if leader else ""
    pages = await answers_soon(with_.stores, lambda store: store.list(keys.EPOCHS, after=after))
    listed = (keys.last_number(each.key) for page in pages.values() if isinstance(page, Page) for each in page.objects)
    return max((number for number in listed if number is not None), default=0)


class _PrimaryView:
    """One session on the primary, opened anew when it breaks."""

    def __init__(self, primary: Primary) -> None:
        self._primary = primary
        self._stack = AsyncExitStack()
        self._link: SqlLink | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def look(self) -> tuple[bool, bool]:
        """Whether it takes writes, and whether somebody streams from it; (False, False) where it does not answer."""
        try:
            if self._link is None:
                opening = reading(self._primary.dsn, application_name="threefold wait", timeout_s=_SQL_PATIENCE_S)
                self._link = await self._stack.enter_async_context(opening)
            (row,) = await self._link.rows(_PRIMARY, self._primary.slot)
        except ThreefoldError:
            self._link = None
            await self._stack.aclose()
            return False, False
        return bool(row["production"]), bool(row["streams"])
