"""The journal of switches: what was ordered, how far it came, and which site is active. (Steps: steps.py, deciding.py.)

Nothing here is a lease: what the journal says stays true, or is overtaken by a newer switch. Who cannot see two
stores gets Unavailable, and does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeVar

from threefold.failover.deciding import Decided, Desk, Void, decide, read_switches
from threefold.failover.steps import Active, Kind, Step, Switch, Switches, encode, key_of, may_follow
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Refused, Unavailable
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.quorum.driver import Driver
from threefold.quorum.membership import FOUNDED, Membership
from threefold.quorum.requests import Procedure
from threefold.stores.store import ObjectStore

PATIENCE_S: Final = 10.0

T = TypeVar("T")


class Journal:
    """Of one system. Cheap to ask again: what is decided is remembered, only what may follow is read."""

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        keyring: Keyring,
        clock: Clock,
        *,
        primary_site: str,
        by: str = "",
        patience: float = PATIENCE_S,
        membership: Membership = FOUNDED,
    ) -> None:
        """``primary_site`` is active before the first switch; ``by`` signs what is proposed.

        ``membership``: by which ``stores`` were chosen.
        """
        self._desk = Desk(tuple(stores), keyring, membership.generation)
        self._membership = membership
        self._driver = Driver(stores, clock)
        self._keyring = keyring
        self._clock = clock
        self.primary_site = primary_site
        self._by = by
        self._patience = patience
        self._known = Switches()

    async def read(self) -> Switches:
        """Raises Unavailable where two stores do not answer: then nothing is known, and nothing may be done.

        Raises ReplacedError where other stores are members by now.
        """
        found = await self._run(read_switches(self._desk, self._known))
        self._known = found
        return found

    async def active(self) -> Active:
        """Which site is active, and whether a switch is under way. Raises Unavailable."""
        return (await self.read()).active(self.primary_site)

    async def order(
        self,
        *,
        to: str,
        reason: str,
        evidence: tuple[str, ...] = (),
        planned: bool = False,
        **more: Any,
    ) -> Switch:
        """Order the next switch, or join the one to the same site that is under way.

        Raises Refused where another is under way, or ``to`` is active; Unavailable.
        """
        while True:
            switches = await self.read()
            active = switches.active(self.primary_site)
            if active.under_way and active.switch is not None:
                if active.switch.target == to:
                    return active.switch
                raise Refused(
                    f"switch {active.switch_number} to {active.switch.target} is under way ({active.step})",
                    hint="wait for it, or abandon it: threefold failover --abandon",
                )
            if active.site == to:
                raise Refused(f"{to} is the active site already", hint="see `threefold status`")
            facts = {
                "to": to,
                "source": active.site,
                "reason": reason,
                "evidence": list(evidence),
                "planned": planned,
                **more,
            }
            number, k = active.switch_number + 1, 0
            step = self._step(Kind.ORDERED, 0.0, facts)
            while (decided := await self._decide(number, k, step)) is None:
                k += 1
            if decided:
                return await self._again(number)

    async def propose(self, switch: Switch, kind: Kind, **facts: Any) -> Switch:
        """Put the next step of ``switch``; what stands there then, ours or a rival's, is in what is returned.

        The caller looks at ``returned.last``: an ``abandoned`` that came first ends it. Raises Unavailable, and Refused
        where a later switch has taken over.
        """
        while True:
            current = await self._again(switch.number)
            later = next((each for each in self._known.all if each.number > current.number and each.took_over), None)
            if later is not None:
                raise Refused(
                    f"switch {later.number} to {later.target} came after switch {current.number}",
                    hint="see `threefold status`",
                )
            if current.step(kind) is not None or kind not in may_follow(current.last.kind):
                return current
            step = self._step(kind, self._since(current), facts)
            await self._decide(current.number, current.next_k, step)

    async def abandon(self, number: int, why: str) -> Switch:
        """End a switch that has not reached ``promoting``. Raises Refused where it has."""
        current = await self.propose(await self._again(number), Kind.ABANDONED, why=why)
        if not current.abandoned:
            raise Refused(
                f"switch {number} cannot be abandoned any more: {current.target} is active",
                hint="let it end, and switch back: threefold failback",
            )
        return current

    async def _again(self, number: int) -> Switch:
        switches = await self.read()
        found = next((each for each in switches.all if each.number == number), None)
        if found is None:
            raise Refused(f"there is no switch {number}", hint="see `threefold status`")
        return found

    async def _decide(self, number: int, k: int, step: Step) -> bool | None:
        """Whether ``step`` is what was decided under that key; None: the key is void."""
        key = key_of(number, k)
        body = encode(step, key, self._keyring, bytes.fromhex(self._clock.new_id())[:NONCE_BYTES])
        match await self._run(decide(self._desk, key, body)):
            case Decided(decided):
                return decided == body
            case Void():
                return None

    async def _run(self, procedure: Procedure[T]) -> T:
        try:
            return await self._driver.run(procedure, patience=self._patience)
        except Unavailable as error:
            if not self._membership.is_joint:
                raise
            raise Unavailable(
                error.message,
                hint="a store is being replaced, and both that stay are needed; if both answer "
                "(threefold store status) and this goes on, they differ: go back with "
                f"`threefold store replace {self._membership.leaving} --abandon`",
            ) from None

    def _step(self, kind: Kind, seconds: float, facts: Mapping[str, Any]) -> Step:
        at = self._clock.now().isoformat(timespec="milliseconds")
        made = Step(kind, self._by, at, round(seconds, 3), {})
        # As it reads back, so that it can be compared with what stands in the stores.
        return replace(made, facts={name: _plain(value) for name, value in facts.items() if value is not None})

    def _since(self, switch: Switch) -> float:
        """By wall clocks, of two machines perhaps: for people, never for a decision."""
        return max(0.0, (self._clock.now() - datetime.fromisoformat(switch.order.at)).total_seconds())


def _plain(value: Any) -> Any:
    if isinstance(value, bool | float | str) or value is None:
        return value
    if type(value) is int:
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value)
