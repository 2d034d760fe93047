"""Whether the log has it, by the leader's beacon: for whoever may not count on an LSN before two stores have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.postgres.replication import Identity
from threefold.protect.beacon import SILENCE_S, read_leader
from threefold.stores.store import ObjectStore

_POLL_S: Final = 0.2


async def until_settled(
    stores: Mapping[str, ObjectStore], keyring: Keyring, clock: Clock, identity: Identity, lsn: Lsn
) -> None:
    """Wait for the leader's beacon to say so. Raises Unavailable where the beacon stands still.

    Refused where it speaks of another log: the same LSN of another cluster or timeline is not the snapshot's WAL.
    """
    beat, since = None, clock.monotonic()
    while True:
        leader = await read_leader(stores, keyring)
        if leader is not None and (leader.system_identifier, leader.timeline) != (
            identity.system_id,
            identity.timeline,
        ):
            raise Refused(
                f"the log is of system {leader.system_identifier}, timeline {leader.timeline}, and this PostgreSQL "
                f"of {identity.system_id}, {identity.timeline}: the snapshot would have no log",
                hint="see that [system] dsn names the PostgreSQL that `threefold protect` protects, and try again",
            )
        if leader is not None and leader.settled >= lsn:
            return
        if leader is not None and (leader.epoch, leader.beat) != beat:
            beat, since = (leader.epoch, leader.beat), clock.monotonic()
        elif clock.monotonic() - since > SILENCE_S:
            raise Unavailable(
                "the snapshot's log is not in the stores: no DRaaS server is at work",
                hint="start `threefold protect`, then take the snapshot again; what was sent is not sent twice",
            )
        await clock.sleep(_POLL_S)
