"""Founding a log, and finding it again: the ``format`` object on each store, and the wrapped key beside it.

A new log is begun only when all three stores answer, carry nothing yet, and have passed the probe: a store that is
silent now could hold an older log of the same name. Founding may be interrupted and is then completed, as long as no
epoch was ever claimed; after that a store without ``format`` has lost its memory, or is new, and has to be filled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from threefold.kernel import wraps
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged, Refused, Unavailable
from threefold.kernel.keys import Keyring
from threefold.kernel.report import Report
from threefold.quorum import keys
from threefold.quorum.driver import Driver
from threefold.quorum.majority import QUORUM
from threefold.quorum.members import Format, Roll, read_roll
from threefold.quorum.membership import FOUNDED, Membership
from threefold.quorum.reader import agreed_format
from threefold.stores.confirm import create_confirmed
from threefold.stores.probe import probe
from threefold.stores.store import ObjectStore, Page, Unknown

_LEFT_BEHIND = (keys.WAL, "snapshots", "packs", keys.TIMELINES, "switches", keys.MEMBERS)


@dataclass(frozen=True, slots=True)
class Log:
    """A log that exists: its format, the stores that vote, and those that are silent."""

    format: Format
    members: tuple[str, ...]
    silent: Mapping[str, str]
    incarnations: Mapping[str, str]  # of the members, as they were when we came
    membership: Membership = FOUNDED  # by which the stores were chosen


async def find_or_found(
    stores: Mapping[str, ObjectStore],
    keyring: Keyring,
    clock: Clock,
    report: Report,
    *,
    system_identifier: int,
    wal_segment_bytes: int,
    wrapped_key: bytes | None,
    membership: Membership = FOUNDED,
    found: bool = True,
) -> Log:
    """Raises Refused, Unavailable, BadInput (another key). ``found``: a log that is not there is begun."""
    driver = Driver(stores, clock)
    roll = await driver.run(read_roll(tuple(stores)))
    if found and len(roll.members) < QUORUM and await _unborn(stores, roll):
        await _found(stores, roll, keyring, clock, report, system_identifier, wal_segment_bytes, wrapped_key)
        roll = await driver.run(read_roll(tuple(stores)))
    agreed = agreed_format(roll, keyring, QUORUM)
    await _key_can_be_recovered(stores, keyring)
    incarnations = {name: each.incarnation for name, each in roll.members.items()}
    return Log(agreed, tuple(roll.members), roll.silent, incarnations, membership)


async def _key_can_be_recovered(stores: Mapping[str, ObjectStore], keyring: Keyring) -> None:
    """No epoch begins under a new master key before two stores hold it wrapped: the key file may burn with this host.

    Raises Refused, Unavailable.
    """
    if keyring.key_id == keyring.founding:
        return  # whether that one lies in the stores is said by the settings, and was warned of
    found = await asyncio.gather(*(_wraps(store, keyring) for store in stores.values()))
    each = [bodies for bodies in found if bodies is not None]
    # A key that we do not hold yet cannot vouch: its copies are believed where two stores hold them alike.
    alike = {body for bodies in each for body in bodies if sum(body in others for others in each) >= QUORUM}
    sure = [any(body in alike or wraps.vouched(body, keyring) for body in bodies) for bodies in each]
    if sure.count(True) >= QUORUM:
        return
    if None in found:
        raise Unavailable(f"whether two stores hold key {keyring.key_id} wrapped is not known: too few answer")
    raise Refused(
        f"fewer than two stores hold the master key {keyring.key_id} wrapped: with this host it would be lost",
        hint="threefold keys rotate --passphrase puts it there, under a new passphrase",
    )


async def _wraps(store: ObjectStore, keyring: Keyring) -> set[bytes] | None:
    """The wrapped copies there that hold the key in force, or say so under a later key than we have; None: unknown."""
    page = await store.list(keys.WRAPPED)
    if not isinstance(page, Page):
        return None
    held: set[bytes] = set()
    for listed in page.objects:
        body = await store.read(listed.key)
        if isinstance(body, Unknown):
            return None
        with suppress(Damaged):
            if isinstance(body, bytes):
                said = wraps.describe(body)
                later = said.key_id not in keyring.ids and keyring.key_id in said.keys
                if later or wraps.holds(body, keyring, keyring.key_id):
                    held.add(body)
    return held


async def _unborn(stores: Mapping[str, ObjectStore], roll: Roll) -> bool:
    """No store is silent, and none has ever seen a claim. Raises Refused where one has what only a log leaves behind.

    A thief, or a wrong rule, deletes what is not locked: formats and claims. A new log over the rest would hide it from
    every recovery.
    """
    if roll.silent:
        if not roll.members and roll.strangers:
            silent = "; ".join(f"{name}: {why}" for name, why in roll.silent.items())
            raise Unavailable(
                f"{' and '.join(roll.strangers)} hold no log yet, and a new one needs all three stores ({silent})",
                hint="check that store's url, bucket and keys: `threefold check`",
            )
        return False
    claimed = False
    for name, store in stores.items():
        for prefix in (keys.EPOCHS, *_LEFT_BEHIND):
            page = await store.list(prefix, limit=1)
            if isinstance(page, Unknown):
                raise Unavailable(f"{name} does not answer: {page.reason}", hint="a new log needs all three stores")
            if page.objects and prefix != keys.EPOCHS and not roll.members:
                raise Refused(
                    f"{name} holds {prefix}/ of a log, and no store holds its format: it was damaged, or robbed",
                    hint="nothing was touched; `threefold recover` says what can be had; protect under another prefix",
                )
            claimed = claimed or bool(page.objects)
    return not claimed


async def _found(
    stores: Mapping[str, ObjectStore],
    roll: Roll,
    keyring: Keyring,
    clock: Clock,
    report: Report,
    system_identifier: int,
    wal_segment_bytes: int,
    wrapped_key: bytes | None,
) -> None:
    for name in roll.strangers:
        proof = await probe(stores[name], clock)
        if not proof.passed:
            failed = next(finding for finding in proof.findings if not finding.passed)
            raise Refused(f"{name} may not vote: {failed.name}: {failed.detail}", hint=failed.hint)
        report("store probed", store=name, create_p50_ms=round(proof.create_p50 * 1000, 1))
    ours = next(
        iter(roll.members.values()),
        Format(system_identifier, keyring.founding, clock.new_id(), wal_segment_bytes=wal_segment_bytes),
    )
    for name in roll.strangers:
        if wrapped_key is not None:
            await create_confirmed(stores[name], keys.wrapped_key_key(wraps.describe(wrapped_key).key_id), wrapped_key)
        await admit(stores[name], ours, clock)
    report("log founded", system_identifier=ours.log, stores=", ".join(stores))


async def admit(store: ObjectStore, log: Format, clock: Clock) -> None:
    """Make the store a member, from the next epoch on. Raises Unavailable."""
    body = replace(log, incarnation=clock.new_id()).encode()
    answer = await create_confirmed(store, keys.FORMAT, body)
    if isinstance(answer, Unknown):
        raise Unavailable(f"{store.name} did not take the format object: {answer.reason}", hint="it is tried again")
