"""`threefold protect`: the DRaaS server, for as long as it runs.

It keeps no state of its own that matters. It asks which site is active, and leads the log for that site's primary
(leading.py). A switch to another site fences it like anything else; then it goes on, and leads for that site as soon as
it serves. It ends when it is told to, when another DRaaS server fences it, or when going on would not be safe.
"""

from __future__ import annotations

import asyncio

from threefold.kernel.errors import Fenced, Refused, Unavailable
from threefold.protect import beacon
from threefold.protect.leader import Deployment
from threefold.protect.leading import RECONNECT_S, Leading, cancelled
from threefold.protect.turn import Patience
from threefold.protect.where import AsksWhere, ElsewhereError, Primary, Where
from threefold.quorum.driver import Driver
from threefold.quorum.members import read_roll

# How often it is asked which site is active: while a switch is under way; while the primary is away; while all is well.
_SWITCHING_S = 0.15
_DISCONNECTED_S = 0.5
_STREAMING_S = 2.0


# Who was sent to wait (``--wait``) takes over sooner, and also when the leader is cut off from the primary. Nobody else
# does: it could end a good leader's epoch just by being started.
_ONCE = Patience(beacon.SILENCE_S)
_WAITING = Patience(beacon.SILENCE_WAITING_S, cut_off=2.0)


async def protect(
    with_: Deployment,
    where: AsksWhere,
    *,
    wrapped_key: bytes | None,
    take_over: bool,
    waits: bool,
    stop: asyncio.Event,
) -> None:
    """Protect until ``stop`` is set.

    ``take_over``: end a living leader's epoch instead of waiting for its silence. ``waits``: wait again when another
    DRaaS server fences us, instead of ending. Raises Fenced, Refused, BadInput. A primary or stores that do not answer
    are waited for.
    """
    server = _Server(with_, where, wrapped_key, waits=waits)
    work = asyncio.create_task(server.run(take_over=take_over))
    told = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
    finally:
        told.cancel()
        work.cancel()
        await asyncio.gather(work, told, return_exceptions=True)


class _Server:
    def __init__(self, with_: Deployment, where: AsksWhere, wrapped_key: bytes | None, *, waits: bool) -> None:
        self._with = with_
        self._where = where
        self._wrapped_key = wrapped_key
        self._waits = waits
        self._fenced = 0  # times in a row, without having led in between
        self._by_another = False

    async def run(self, *, take_over: bool) -> None:
        while True:
            here, primary = await self._serving()
            leading = Leading(self._with, here, primary, self._where, self._wrapped_key)
            try:
                await self._until_elsewhere(here, leading, our_turn=take_over)
            except ElsewhereError:
                continue
            except (Fenced, Refused) as error:
                # A server that is on its way from one role to the other may also be one that nobody should protect.
                if await self._by_a_switch(here):
                    self._with.report("ended by a switch", site=here.site, reason=error.message)
                    self._by_another = False
                    continue
                if not self._waits or isinstance(error, Refused):
                    raise
                self._with.report("another DRaaS server leads: waiting again", reason=error.message)
                self._fenced = 0 if leading.has_streamed else self._fenced + 1
                self._by_another = True
                take_over = False

    async def _serving(self) -> tuple[Where, Primary]:
        """The active site, once no switch is under way."""
        told: Where | None = None
        while True:
            now = await self._ask()
            if not now.under_way and now.primary is not None:
                return now, now.primary
            if now != told:
                told = now
                if now.under_way:
                    self._with.report("waiting: a switch is under way", switch=now.newest, active=now.site)
                else:
                    self._with.report("no address is known of the active site", level="error", site=now.site)
            await self._with.clock.sleep(_SWITCHING_S)

    async def _ask(self) -> Where:
        """Asked until the stores tell."""
        told = ""
        while True:
            try:
                return await self._where()
            except Unavailable as error:
                if error.message != told:
                    told = error.message
                    self._with.report(
                        "which site is active is not known yet",
                        level="warning",
                        reason=error.message,
                        hint=await self._hint(error),
                    )
            await self._with.clock.sleep(RECONNECT_S)

    async def _hint(self, error: Unavailable) -> str:
        """Two stores tell which site is active; that there is no log yet, and so no switch, takes all three."""
        if self._with.membership.is_joint:
            return error.hint
        driver = Driver(self._with.stores, self._with.clock)
        seen = await driver.run(read_roll(tuple(self._with.stores)))
        if seen.members or not seen.silent or not seen.strangers:
            return error.hint
        empty, silent = " and ".join(seen.strangers), " and ".join(seen.silent)
        return f"{empty} hold no log, and a new one needs all three stores; what {silent} lacks: threefold check"

    async def _by_a_switch(self, here: Where) -> bool:
        now = await self._ask()
        return now.newest != here.newest or not now.is_still(here)

    async def _until_elsewhere(self, here: Where, leading: Leading, *, our_turn: bool) -> None:
        """Lead for ``here`` until it is over. Raises ElsewhereError once another site is active, or what ended it."""
        patience = (_WAITING if self._waits else _ONCE).times(self._fenced)
        work = asyncio.create_task(leading.run(our_turn=our_turn, patience=patience, fenced=self._by_another))
        watch = asyncio.create_task(self._watch(here, leading))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
            leading.left = True
            await watch
        finally:
            await cancelled(work)
            await cancelled(watch)

    async def _watch(self, here: Where, leading: Leading) -> None:
        """Raises ElsewhereError once this site is left.

        A switch that was only ordered does not end an epoch: a planned one has the last changes pass through it. What
        ends it then is the fence. Who does not lead yet leaves at once, and does not begin meanwhile.
        """
        while True:
            await self._with.clock.sleep(_STREAMING_S if leading.streams else _DISCONNECTED_S)
            try:
                now = await self._where()
            except Unavailable:
                continue  # safety does not rest on this: the seals tell who leads
            if (now.site, now.switch) != (here.site, here.switch) or (now.under_way and not leading.leads):
                self._with.report("this site is left", site=here.site, switch=now.newest, active=now.site)
                raise ElsewhereError
