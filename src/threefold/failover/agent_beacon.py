"""The agent's beacon, ``beacons/agent-{site}``: how its site stands, overwritten every second in every store.

Liveness only (invariant 2). `threefold status`, the CRM's banner and the other site's agent read it; ``run`` and
``beat`` say whether it is alive, by whether they change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.stores.soon import answers_soon
from threefold.stores.store import ObjectStore

PREFIX: Final = "beacons/agent-"
PERIOD_S: Final = 1.0
SILENCE_S: Final = 6.0


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What the agent of a site says of itself. LSNs as text; ``at`` is its wall time, ISO 8601."""

    site: str
    run: str
    beat: int
    at: str
    host: str
    machine: str  # where `pid` means anything
    pid: int
    state: str  # of the system (states.py)
    role: str  # active, standby, preparing, switching, stopped
    active: str = ""
    switch: int = 0
    step: str = ""
    step_at: str = ""
    order_at: str = ""
    target: str = ""
    copy_ready: bool = False
    copy_why: str = ""
    position: Mapping[str, Any] = field(default_factory=dict)  # received, replayed, timeline, streaming, replay_age_s
    verdict: str = ""  # its kind
    sentence: str = ""
    evidence: Sequence[str] = ()  # what the verdict rests on
    verdict_s: float = 0.0
    give_up: bool = False
    advice: str = ""
    action: str = ""
    policy: str = ""
    deficiency: Mapping[str, Any] = field(default_factory=dict)  # lacks, count, total_s, spell_s


def key_of(site: str) -> str:
    return f"{PREFIX}{site}"


def encode(status: AgentStatus, keyring: Keyring, nonce: bytes) -> bytes:
    plain = json.dumps(asdict(status)).encode()
    return nonce + keyring.sealer("beacon").seal(plain, nonce=nonce, header=key_of(status.site).encode())


def decode(body: bytes, site: str, keyring: Keyring) -> AgentStatus:
    """Raises Damaged."""
    header = key_of(site).encode()
    plain = keyring.sealer("beacon").open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=header)
    try:
        return AgentStatus(**json.loads(plain))
    except (ValueError, TypeError) as error:
        raise Damaged("an agent's beacon is not readable", hint="another version wrote it") from error


async def write_agent(stores: Mapping[str, ObjectStore], status: AgentStatus, keyring: Keyring, clock: Clock) -> None:
    """To every store; one that does not take it soon is no matter."""
    body = encode(status, keyring, bytes.fromhex(clock.new_id())[:NONCE_BYTES])
    await answers_soon(stores, lambda store: store.write(key_of(status.site), body))


async def read_agent(stores: Mapping[str, ObjectStore], site: str, keyring: Keyring) -> AgentStatus | None:
    """The newest that any store gives, by its own wall time; None where none does."""
    answers = await answers_soon(stores, lambda store: store.read(key_of(site)))
    found: list[AgentStatus] = []
    for answer in answers.values():
        if isinstance(answer, bytes):
            try:
                found.append(decode(answer, site, keyring))
            except Damaged:
                continue
    return max(found, key=lambda each: (each.at, each.beat), default=None)


class Pulse:
    """Whether another's beacon changes, by our own clock: the first look proves nothing."""

    def __init__(self, clock: Clock, silence: float = SILENCE_S) -> None:
        self._clock = clock
        self._silence = silence
        self._seen: tuple[object, ...] | None = None
        self._changed_at: float | None = None
        self._began = clock.monotonic()

    def look(self, *mark: object) -> None:
        """``mark``: what changes with every beat."""
        if self._seen is not None and mark != self._seen:
            self._changed_at = self._clock.monotonic()
        self._seen = mark

    @property
    def watched_long_enough(self) -> bool:
        """Whether by now a living one would have been seen alive."""
        return self._clock.monotonic() - self._began > self._silence / 2

    @property
    def alive(self) -> bool:
        return self._changed_at is not None and self._clock.monotonic() - self._changed_at < self._silence


async def wait_for_pulse(
    stores: Mapping[str, ObjectStore], site: str, keyring: Keyring, clock: Clock, patience: float = 2.5 * PERIOD_S
) -> AgentStatus | None:
    """The agent's status if it is seen alive within ``patience``; None otherwise."""
    pulse, until = Pulse(clock), clock.monotonic() + patience
    while True:
        status = await read_agent(stores, site, keyring)
        if status is None:
            return None
        pulse.look(status.run, status.beat)
        if pulse.alive:
            return None if status.role == "stopped" else status
        if clock.monotonic() > until:
            return None
        await clock.sleep(PERIOD_S / 4)
