"""Moving to another store: filling the one that joins, and the two epochs that change who counts.

The order is the safety argument (docs/adr/0009-replace-a-store.md). Ahead of the change the bulk is copied, and what
was copied is read back, while the three of before count; what that misses is no harm. Then an epoch begins the middle,
its notice is put on both stores that stay, and a leader of the middle copies once more: only this pass is believed, for
only now nothing can settle that the two do not hold. Then the joining store gets its ``format``, and an epoch ends the
middle. Killed anywhere, it is gone on with by the next DRaaS server with these settings, from what the stores show.

What two stores decide without the log (the journal of switches, intakes) is copied in the last pass alone: ahead, a
copy of something begun and not decided yet could decide it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, NotThere, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.report import Report
from threefold.protect.fill import AHEAD, LAST, fill, listing, opens
from threefold.protect.founding import admit
from threefold.quorum import keys
from threefold.quorum.check import Counts
from threefold.quorum.driver import Driver
from threefold.quorum.lead import fence
from threefold.quorum.majority import QUORUM
from threefold.quorum.members import Format, read_roll
from threefold.quorum.membership import Membership
from threefold.quorum.notices import put_notice
from threefold.quorum.objects import Codec
from threefold.quorum.reader import PATIENCE_S, agreed_format
from threefold.quorum.reading import membership_now
from threefold.quorum.start import opening, start
from threefold.quorum.view import Scope
from threefold.stores.probe import probe
from threefold.stores.store import ABSENT, ObjectStore, Unknown

SWITCHES = "switches"
_VERIFIED_AT_ONCE = 4


async def change_membership(
    stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, before: Membership, after: Membership
) -> int:
    """Begin an epoch under ``after``, on both stores that stay; it appends nothing. Gives its number.

    Raises Unavailable where not both answer, Fenced, and MovedError where ``before`` is not in force any more.
    """
    both = (after if after.is_joint else before).stores
    driver = Driver({name: stores[name] for name in both}, clock)
    roll = await driver.run(read_roll(both), patience=PATIENCE_S)
    log = agreed_format(roll, keyring, QUORUM)
    scope = Scope(both, Codec(keyring, log.log), clock.new_id(), QUORUM, log.segment_bytes, membership=before)
    epoch, found = await driver.run(fence(scope), patience=PATIENCE_S)
    if found is None:
        raise NotThere("the log has not begun: there is nothing to move", hint="start `threefold protect` first")
    if before.generation:  # in force, as was just seen; the next notice is looked for behind it, on the same two
        await driver.run(put_notice(before, keyring, on=both), patience=PATIENCE_S)
    begin = replace(opening(found, found.timeline, found.end), membership=after)
    again = await driver.run(read_roll(both), patience=PATIENCE_S)
    for name, known in roll.members.items():
        now = again.members.get(name)
        if now is None or now.incarnation != known.incarnation:
            # What it said while we took over counts only if it had its memory then: so it has it now.
            raise Unavailable(f"{name} does not answer, or lost its memory meanwhile", hint="it is tried again")
    await driver.run(start(scope, epoch, begin), patience=PATIENCE_S)
    await driver.run(put_notice(after, keyring), patience=PATIENCE_S)
    return epoch


async def membership_in_log(
    stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, assumed: Membership
) -> Membership:
    """Which membership the newest epoch names; its notice may be missing. Asks ``stores``, chosen by ``assumed``.

    Raises Unavailable where fewer than two of them answer, NotThere where there is no log.
    """
    driver = Driver(stores, clock)
    roll = await driver.run(read_roll(tuple(stores)), patience=PATIENCE_S)
    log = agreed_format(roll, keyring, QUORUM)
    codec = Codec(keyring, log.log)
    scope = Scope(tuple(roll.members), codec, clock.new_id(), QUORUM, log.segment_bytes, membership=assumed)
    return await driver.run(membership_now(scope), patience=PATIENCE_S)


@dataclass(slots=True)
class Joining:
    """The store that joins, as one epoch's leader fills it. ``state`` and ``reason`` are for people."""

    name: str
    target: ObjectStore
    staying: Sequence[ObjectStore]
    leaving: ObjectStore | None  # asked ahead for what the other two have damaged; often it is gone
    membership: Membership  # the middle that it joins by
    log: Format
    keyring: Keyring
    codec: Codec
    clock: Clock
    report: Report
    copied: int = 0  # bytes, in this epoch
    reason: str = "waits to be filled"
    refused: bool = False  # not asked again in this epoch
    _probed: bool = False
    _verified: set[str] = field(default_factory=set)

    async def ahead(self, counts: Counts) -> bool:
        """The bulk, while nothing has changed yet: whether it is time for the change."""
        if self.refused or not await self._may_join() or not await self._can_tell():
            return False
        self.reason = "is being filled"
        if self.leaving is not None:
            await self._fill([*self.staying, self.leaving], AHEAD, counts)
        return await self._copy(AHEAD, counts) and await self._verify() and await self._can_tell()

    async def last(self, counts: Counts) -> bool:
        """In the middle: all that the two that stay hold. Then it carries the format, and may vote from the next epoch.

        Short, because commits need both of the two meanwhile: what was copied ahead was read back then.
        """
        self.reason = "gets what came while it was filled"
        if not await self._noticed():
            return False
        if doubt := await self._undecided():
            self._say(doubt)
            return False
        if not await self._copy(LAST, counts):
            return False
        found = await self.target.read(keys.FORMAT)
        if isinstance(found, bytes):
            theirs = Format.decode(found)
            return (theirs.log, theirs.key_id) == (self.log.log, self.log.key_id)
        if found is not ABSENT:
            return False
        try:
            await admit(self.target, self.log, self.clock)
        except Unavailable:
            return False
        return True

    async def _noticed(self) -> bool:
        """Whether both that stay have the notice (its author may have died): what has none yet, this pass may miss."""
        both = dict(zip(self.membership.stores, self.staying, strict=True))
        try:
            await Driver(both, self.clock).run(put_notice(self.membership, self.keyring), patience=PATIENCE_S)
        except Unavailable as error:
            self._say(error.message)
            return False
        return True

    async def _may_join(self) -> bool:
        """A store that was a member once holds what is not true any more; one that fails the probe cannot vote."""
        found = await self.target.read(keys.FORMAT)
        if isinstance(found, bytes):
            self.refused = True
            self._say("it holds a log's format object, so it was a member of one: empty it, or use a new prefix")
            return False
        if found is not ABSENT:
            self._say("it does not answer")
            return False
        if not self._probed:
            proof = await probe(self.target, self.clock)
            if not proof.passed:
                self.refused = proof.findings[0].passed  # it does answer
                self._say(proof.refusal)
                return False
            self._probed = True
        return True

    async def _copy(self, prefixes: Sequence[str], counts: Counts) -> bool:
        return await self._fill(self.staying, prefixes, counts)

    async def _fill(self, sources: Sequence[ObjectStore], prefixes: Sequence[str], counts: Counts) -> bool:
        def passed(size: int) -> None:
            self.copied += size

        done = await fill(
            self.target, sources, self.keyring, self.codec.fork(), counts, progress=passed, prefixes=prefixes
        )
        if done.damaged:
            self._say(f"whole on neither store that stays: {', '.join(done.damaged[:3])}; run `threefold store scrub`")
        return done.complete and not done.damaged

    async def _can_tell(self) -> bool:
        """Whether the two that stay hold every step alike: in the middle one that differs could never be told.

        It stays as it is (created once), and nobody leads who cannot read the journal: so no middle is begun.
        """
        differing = await self._differing()
        if differing is None:
            self._say("a store that stays does not tell its steps of switches")
        elif differing:
            first, second = self.membership.stores
            leaving = self.membership.leaving
            self._say(
                f"{min(differing)} is not the same on {first} and {second}: with these two alone nobody could tell "
                f"what was decided there, so {leaving} cannot be replaced; where it is the same on {leaving} and one "
                "of them, replace the other one"
            )
        return differing == {}

    async def _differing(self) -> dict[str, tuple[bytes, bytes]] | None:
        """The steps of switches that the two that stay hold differently; None where one of them does not tell."""
        mine: list[dict[str, bytes]] = []
        for store in self.staying:
            names = await listing(store, SWITCHES)
            if names is None:
                return None
            bodies = {key: await store.read(key) for key in sorted(names)}
            if any(isinstance(body, Unknown) for body in bodies.values()):
                return None
            mine.append({key: body for key, body in bodies.items() if isinstance(body, bytes)})
        first, second = mine
        return {key: (first[key], second[key]) for key in first.keys() & second.keys() if first[key] != second[key]}

    async def _undecided(self) -> str:
        """A step of a switch that the two that stay hold differently: only the third can say which one was decided."""
        differing = await self._differing()
        if differing is None:
            return "a store that stays does not tell its steps of switches"
        for key, both in differing.items():
            third = await self.leaving.read(key) if self.leaving is not None else None
            votes = Counter([*both, third])
            body, count = votes.most_common(1)[0]
            if count < QUORUM or not isinstance(body, bytes):
                return f"{key} differs between the two that stay, and the one that leaves does not say which one counts"
            await self.target.create(key, body)
        return ""

    async def _verify(self) -> bool:
        """What lies there is read back and opened, each object once; a damaged copy goes, and is made anew."""
        for prefix in AHEAD:
            names = await listing(self.target, prefix)
            if names is None:
                return False
            left = iter(sorted(names - self._verified))
            results = await asyncio.gather(*(self._verify_each(left) for _ in range(_VERIFIED_AT_ONCE)))
            if not all(results):
                return False
        return True

    async def _verify_each(self, left: object) -> bool:
        whole = True
        for key in left:  # type: ignore[attr-defined]
            body = await self.target.read(key)
            if body is ABSENT:
                continue
            if not isinstance(body, bytes):
                return False
            try:
                await asyncio.to_thread(opens, key, body, self.keyring, self.codec.fork())
            except Damaged as damage:
                # Asked again, so that nothing is deleted for a reading that was spoilt; and whether the store counts by
                # now: another leader may have ended the replacement while we stood still (invariant 4).
                if await self.target.read(keys.FORMAT) is not ABSENT:
                    return False
                if await self.target.read(key) == body:
                    self._say(f"{key} was spoilt on the way: {damage.message}; it is copied again")
                    await self.target.delete([key])
                else:
                    self._say(f"{key} does not read the same twice: {damage.message}; it is asked again")
                whole = False
                continue
            self._verified.add(key)
        return whole

    def _say(self, why: str) -> None:
        if why != self.reason:
            self.reason = why
            self.report("the store that joins has to wait", level="warning", store=self.name, reason=why)
