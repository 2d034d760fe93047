"""The leader's beacon: what it is doing, overwritten in every store that takes it.

Every two seconds, and when a WAL segment's end was settled, but not more than once a second
where the stores answer.

It serves liveness only (invariant 2): whoever waits watches whether it *changes*, by a clock of its own; whether the
leader may still write is decided by seals alone. It is sealed like everything else at a provider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, OtherKey
from threefold.kernel.keys import NONCE_BYTES, Keyring, goes_on_under_another
from threefold.kernel.lsn import Lsn
from threefold.quorum.majority import QUORUM
from threefold.stores.soon import answers_soon
from threefold.stores.store import ObjectStore

LEADER = "beacons/leader"
PERIOD_S = 2.0
# A leader whose beacon has not changed for that long, watched by the waiter's own clock, is taken for gone.
SILENCE_S = 10.0
# By who does nothing but wait for it (``protect --wait``): two beats and a half.
SILENCE_WAITING_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreLine:
    """One store as the leader sees it."""

    name: str
    state: str  # voting, behind, filling, lost, silent
    waiting_bytes: int
    missing: int
    p50_ms: float
    p99_ms: float
    reason: str


@dataclass(frozen=True, slots=True)
class LeaderStatus:
    """What the leader says of itself. ``settled`` is what the primary was told; times are ISO 8601, UTC."""

    epoch: int
    writer: str
    host: str
    machine: str  # host, boot and process-number space: only there does ``pid`` mean anything
    pid: int
    beat: int
    at: str
    state: str  # streaming, waiting-for-stores, spooling, waiting-for-primary
    reason: str
    system_identifier: int
    timeline: int
    settled: Lsn
    received: Lsn
    durability: str
    rpo_seconds: float  # age of the oldest change that is not on two stores yet; 0 when all are
    puts_per_store: Mapping[str, int] = field(default_factory=dict)
    stores: tuple[StoreLine, ...] = ()
    memory_bytes: int = 0
    site: str = ""  # whose PostgreSQL it leads for
    switch: int = 0  # the number of the switch that made that site active
    spool_bytes: int = 0  # confirmed, and on the DRaaS server's own disk alone; the spool's size


def encode(status: LeaderStatus, keyring: Keyring, nonce: bytes) -> bytes:
    record = asdict(status) | {"settled": str(status.settled), "received": str(status.received)}
    return nonce + keyring.sealer("beacon").seal(json.dumps(record).encode(), nonce=nonce, header=LEADER.encode())


def decode(body: bytes, keyring: Keyring) -> LeaderStatus:
    """Raises Damaged."""
    plain = keyring.sealer("beacon").open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=LEADER.encode())
    try:
        record: dict[str, Any] = json.loads(plain)
        stores = tuple(StoreLine(**line) for line in record.pop("stores"))
        settled, received = Lsn.parse(record.pop("settled")), Lsn.parse(record.pop("received"))
        return LeaderStatus(**record, stores=stores, settled=settled, received=received)
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged("the leader's beacon is not readable", hint="another version wrote it") from error


async def write_leader(stores: Mapping[str, ObjectStore], status: LeaderStatus, keyring: Keyring, clock: Clock) -> None:
    """To every store; one that does not take it soon is no matter."""
    body = encode(status, keyring, bytes.fromhex(clock.new_id())[:NONCE_BYTES])
    await answers_soon(stores, lambda store: store.write(LEADER, body))


async def read_leader(stores: Mapping[str, ObjectStore], keyring: Keyring) -> LeaderStatus | None:
    """The newest beacon that any store gives; None where none does."""
    return max(await read_leaders(stores, keyring), key=lambda each: (each.epoch, each.beat), default=None)


async def read_leaders(stores: Mapping[str, ObjectStore], keyring: Keyring) -> list[LeaderStatus]:
    """Each store's beacon, of those that give one soon. Raises BadInput where two are under a key that is not ours."""
    found: list[LeaderStatus] = []
    others: list[OtherKey] = []
    answers = await answers_soon(stores, lambda store: store.read(LEADER))
    for answer in answers.values():
        if not isinstance(answer, bytes):
            continue
        try:
            found.append(decode(answer, keyring))
        except OtherKey as other:
            others.append(other)
        except Damaged:
            continue
    if len(others) >= min(QUORUM, len(stores)):
        raise goes_on_under_another(others[0].key_id, keyring)
    return found
