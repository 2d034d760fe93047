"""A switch to our own site, from wherever it stands to its end. Reads as the procedure.

Every step is decided in the journal before the next one begins, and each may be done again by a fresh process: the
fence claims another epoch and finds the same end, the copy is complete already, the promotion has happened. The one
step that cannot be taken back is ``promoting``; it is won in the journal first.

Why two sites never acknowledge at once: when ``ordered`` stands on two stores, whoever claims an epoch afterwards
sees it and gives the epoch up before slot 0 (protect/leadership.py). Our fence claims an epoch and seals everything
below, and puts slot 0 there: the log ends at L for good, and no old leader can settle another byte. The copy ends at
the last whole record before L. Only then is it promoted, and only an epoch that continues its new timeline
acknowledges anything (protect/continuity.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol

from threefold.failover.journal import Journal
from threefold.failover.steps import Kind, Switch
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Fenced, NotThere, ThreefoldError, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.kernel.report import Report
from threefold.protect.beacon import read_leader
from threefold.quorum.claim import highest_claim
from threefold.quorum.driver import Driver
from threefold.quorum.lead import fence
from threefold.quorum.majority import QUORUM
from threefold.quorum.members import read_roll
from threefold.quorum.membership import MovedError, Named, ReplacedError
from threefold.quorum.notices import newest_notice
from threefold.quorum.objects import Codec
from threefold.quorum.reader import PATIENCE_S, agreed_format
from threefold.quorum.start import opening, start
from threefold.quorum.view import Scope
from threefold.recover.start import Promoted
from threefold.stores.store import ObjectStore

SYNCHRONOUS: Final = "ANY 1 (threefold)"
# How long a source may take to shut down cleanly: the last checkpoint writes what is in its buffers.
STOP_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.1
_AGAIN_S: Final = 1.0


class Copy(Protocol):
    """Our copy of the database (recover/standby.py), as far as a switch needs it."""

    async def complete(self, end: Lsn, timeline: int) -> None: ...
    async def promote(self, *, settings: Mapping[str, str]) -> Promoted: ...


@dataclass(frozen=True, slots=True)
class Hands:
    """What a switch works with."""

    stores: Mapping[str, ObjectStore]
    keyring: Keyring
    clock: Clock
    report: Report
    journal: Journal
    site: str  # ours
    dsn: str  # how others reach our PostgreSQL, without the password
    strict: bool
    ready: Callable[[], Awaitable[Copy]]  # the copy as a running standby, made from the stores where there is none
    surplus: Callable[[Lsn, int], Awaitable[bytes]]  # what the copy has of that timeline beyond the log's end
    promoted: Callable[[], Awaitable[Copy]]  # the copy behind ``promoting``: running, whatever it was doing
    secure: Callable[[], Awaitable[None]]  # where not strict: commits wait for protection from now on
    snapshot: Callable[[], Awaitable[str]]  # of our PostgreSQL, into the stores: its id
    heard: Callable[[Switch], None] = field(default=lambda _: None)  # after each step


class AbandonedError(Exception):
    """The switch ended before ``promoting``."""

    def __init__(self, switch: Switch) -> None:
        super().__init__(str(switch.last.facts.get("why", "")))
        self.switch = switch


async def run(hands: Hands, switch: Switch) -> Switch:
    """Carry it to ``protected``. Raises AbandonedError; Refused where a later switch took over.

    Stores or a primary that do not answer are waited for.
    """
    switch = await to_serving(hands, switch)
    return await to_protected(hands, switch)


async def to_serving(hands: Hands, switch: Switch) -> Switch:
    """From the order to a PostgreSQL that takes writes."""
    if not switch.took_over:
        preparing = asyncio.create_task(_prepare(hands))
        try:
            switch = await _stopped(hands, switch)
            switch = await _fenced(hands, switch)
            copy = await preparing
        finally:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)
        await _completed(hands, switch, copy)
        switch = await _step(hands, switch, Kind.PROMOTING, dsn=hands.dsn)
    if switch.step(Kind.SERVING) is None:
        switch = await _serving(hands, switch)
    return switch


async def to_protected(hands: Hands, switch: Switch) -> Switch:
    """Until the new timeline is protected, by an epoch and by a snapshot of its own."""
    if switch.last.kind is not Kind.SERVING:
        return switch
    epoch = await _streaming(hands, switch)
    if not hands.strict:
        await hands.secure()
    while True:
        try:
            snapshot = await hands.snapshot()
            break
        except ThreefoldError as error:
            hands.report("no snapshot yet", level="warning", reason=error.message, hint=error.hint)
            await hands.clock.sleep(_AGAIN_S)
            await hands.journal.propose(switch, Kind.SERVING)  # raises Refused where it has been overtaken
    return await _step(hands, switch, Kind.PROTECTED, epoch=epoch, snapshot=snapshot)


# --- one step each ---


async def _prepare(hands: Hands) -> Copy:
    """While the fence is set the copy is made ready; a cold one takes its time here."""
    while True:
        try:
            return await hands.ready()
        except Unavailable as error:
            hands.report("the copy is not ready yet", level="warning", reason=error.message)
            await hands.clock.sleep(_AGAIN_S)


async def _stopped(hands: Hands, switch: Switch) -> Switch:
    """Planned, and an agent at the source: it stops its server cleanly, so that not even an open commit is lost."""
    if not switch.planned or not switch.order.facts.get("agent") or switch.step(Kind.FENCED):
        return switch
    until = hands.clock.monotonic() + STOP_PATIENCE_S
    while switch.step(Kind.STOPPED) is None:
        if hands.clock.monotonic() > until:
            why = f"{switch.source} has not stopped within {STOP_PATIENCE_S:g} s"
            switch = await hands.journal.propose(switch, Kind.ABANDONED, why=why)
        else:
            await hands.clock.sleep(_POLL_S)
            switch = await _read_again(hands, switch)
        _check(switch)
    hands.heard(switch)
    return switch


async def _fenced(hands: Hands, switch: Switch) -> Switch:
    """Fix the log's end. Again until it is decided; every attempt finds the same end."""
    while switch.step(Kind.FENCED) is None:
        try:
            surplus = partial(_surplus, hands, switch)
            epoch, end, timeline = await set_fence(hands.stores, hands.keyring, hands.clock, surplus)
        except (Unavailable, Fenced) as error:
            hands.report("the fence is not set yet", level="warning", reason=error.message)
            await hands.clock.sleep(_POLL_S)
            switch = await _read_again(hands, switch)
            _check(switch)
            continue
        switch = await _step(hands, switch, Kind.FENCED, epoch=epoch, end=end, timeline=timeline)
    return switch


async def _surplus(hands: Hands, switch: Switch, end: Lsn, timeline: int) -> bytes:
    """What our copy has beyond the log's end, asked between the take-over and slot 0.

    Nothing once a fence is decided, because somebody may promote at its end; nothing on a timeline that a switch has
    left, because the log may not go on there beyond the fork (tests/simulation/switching.py shows both).
    """
    switches = await hands.journal.read()
    now = next(each for each in switches.all if each.number == switch.number)
    won = next((each for each in reversed(switches.all) if each.took_over), None)
    serving = won.step(Kind.SERVING) if won else None
    left = won is not None and (serving is None or int(serving.facts["timeline"]) != timeline)
    if left or now.step(Kind.FENCED) is not None:
        return b""
    return await hands.surplus(end, timeline)


async def _end(hands: Hands, switch: Switch) -> tuple[Lsn, int]:
    """Where to promote: the decided fence's end and timeline, unless an epoch was claimed above it.

    Whoever claimed it before the fence was decided may yet put a surplus of his own into its slot 0. So we fence again,
    without one; who claims above us now sees that a fence is decided. Raises Unavailable, Fenced.
    """
    fenced = _of(switch, Kind.FENCED)
    driver = Driver(hands.stores, hands.clock)
    scope = Scope(tuple(hands.stores), Codec(hands.keyring, 0), hands.clock.new_id())
    if await driver.run(highest_claim(scope, decisive=1), patience=PATIENCE_S) == int(fenced.facts["epoch"]):
        return fenced.lsn("end"), int(fenced.facts["timeline"])
    _, end, timeline = await set_fence(hands.stores, hands.keyring, hands.clock, partial(_surplus, hands, switch))
    return end, timeline


async def set_fence(
    stores: Mapping[str, ObjectStore],
    keyring: Keyring,
    clock: Clock,
    surplus: Callable[[Lsn, int], Awaitable[bytes]],
) -> tuple[int, Lsn, int]:
    """Claim an epoch, end all lower ones, and put slot 0: (epoch, end of the log, its timeline).

    Slot 0 carries what the take-over found on one store only, so that whoever reads two stores finds the log to end
    exactly there. It also carries what our copy has received from the source beyond that: a copy streams ahead of the
    stores by some milliseconds, and what it has replayed cannot be taken back. Nobody was told "saved" for it, and the
    source wrote it behind these very bytes, so the log may as well have it.

    Raises Unavailable, Fenced (somebody else fenced us: ask the journal), NotThere.
    """
    driver = Driver(stores, clock)
    membership = await driver.run(newest_notice(tuple(stores), keyring), patience=PATIENCE_S)
    voters = Named(tuple(stores)).known(membership) if membership.generation else tuple(stores)
    before = await driver.run(read_roll(voters), patience=PATIENCE_S)
    log = agreed_format(before, keyring, QUORUM)
    scope = Scope(
        tuple(before.members),
        Codec(keyring, log.log),
        clock.new_id(),
        QUORUM,
        log.segment_bytes,
        membership=membership,
    )
    try:
        epoch, found = await driver.run(fence(scope), patience=PATIENCE_S)
    except MovedError as moved:
        raise ReplacedError(moved.membership) from None
    if found is None:
        raise NotThere("the log has not begun: nothing was protected yet", hint="start `threefold protect`")
    begin = opening(found, found.timeline, found.end)
    begin = replace(begin, wal=begin.wal + await surplus(found.end, found.timeline))
    await driver.run(start(scope, epoch, begin), patience=PATIENCE_S)
    after = await driver.run(read_roll(scope.stores), patience=PATIENCE_S)
    for name, known in before.members.items():
        now = after.members.get(name)
        if name in after.strangers or (now is not None and now.incarnation != known.incarnation):
            # What it said while we took over counts only if it had its memory then: so it has it now.
            raise Unavailable(f"{name} lost its memory while the log was fenced", hint="it is tried again")
    return epoch, begin.end, found.timeline


async def _completed(hands: Hands, switch: Switch, copy: Copy) -> None:
    until = hands.clock.monotonic() + STOP_PATIENCE_S
    while True:
        try:
            end, timeline = await _end(hands, switch)
            await copy.complete(end, timeline)
        except (Unavailable, Fenced) as error:
            hands.report("the copy is not complete yet", level="warning", reason=error.message)
            if switch.planned and hands.clock.monotonic() > until:
                # The source could serve, and nobody else can.
                why = f"the copy cannot be completed: {error.message}"
                switch = await hands.journal.propose(switch, Kind.ABANDONED, why=why)
                _check(switch)
            await hands.clock.sleep(_POLL_S)
            switch = await _read_again(hands, switch)
            _check(switch)
        else:
            hands.report("copy complete", switch=switch.number, end=str(end))
            return


async def _serving(hands: Hands, switch: Switch) -> Switch:
    """Promote. In strict mode no commit is confirmed until a DRaaS server is back: from the first moment on."""
    copy = await hands.promoted()
    settings = {"synchronous_standby_names": SYNCHRONOUS if hands.strict else ""}
    promoted = await copy.promote(settings=settings)
    return await _step(
        hands, switch, Kind.SERVING, timeline=promoted.timeline, at=promoted.at, dsn=hands.dsn, site=hands.site
    )


async def _streaming(hands: Hands, switch: Switch) -> int:
    """Until a DRaaS server leads for our timeline: its epoch."""
    timeline, told = int(_of(switch, Kind.SERVING).facts["timeline"]), False
    began = hands.clock.monotonic()
    while True:
        leader = await read_leader(hands.stores, hands.keyring)
        if leader is not None and leader.timeline == timeline and leader.state == "streaming":
            return leader.epoch
        if not told and hands.clock.monotonic() - began > PATIENCE_S:
            told = True
            hands.report("no DRaaS server protects this site yet: start `threefold protect`", level="error")
        await hands.clock.sleep(_POLL_S)
        with suppress(Unavailable):
            await hands.journal.propose(switch, Kind.SERVING)  # raises Refused where it has been overtaken


# --- the journal ---


async def _step(hands: Hands, switch: Switch, kind: Kind, **facts: Any) -> Switch:
    """Decide a step; stores that do not answer are asked again. Raises AbandonedError."""
    while True:
        try:
            switch = await hands.journal.propose(switch, kind, **facts)
            break
        except Unavailable as error:
            hands.report(f"{kind.value} is not decided yet", level="warning", reason=error.message)
            await hands.clock.sleep(_POLL_S)
    _check(switch)
    last = switch.last
    hands.report(f"switch: {kind.value}", switch=switch.number, seconds=last.seconds, **dict(last.facts))
    hands.heard(switch)
    return switch


async def _read_again(hands: Hands, switch: Switch) -> Switch:
    try:
        switches = await hands.journal.read()
    except Unavailable:
        return switch
    return next(each for each in switches.all if each.number == switch.number)


def _of(switch: Switch, kind: Kind) -> Any:
    step = switch.step(kind)
    if step is None:
        raise Unavailable(f"switch {switch.number} has no {kind.value} step")
    return step


def _check(switch: Switch) -> None:
    if switch.abandoned:
        raise AbandonedError(switch)
