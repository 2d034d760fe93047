"""Whether keys and openers do what they are kept for, store by store: without showing a byte of either.

Each wrapped copy is tried with the opener; then the keys are tried on real data of that store alone: the log as far as
it reaches, the newest manifest, and one chunk of a pack. What does not open is said to be damaged, or another key's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from threefold.kernel import wraps
from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, Damaged, NotThere, OtherKey, ThreefoldError
from threefold.kernel.keys import Keyring
from threefold.kernel.wraps import Opener
from threefold.quorum.reader import read_extent
from threefold.stores.store import ObjectStore
from threefold.upkeep.wrapped import Copy, copies_on
from threefold.vault.chunk_store import Vault


class Found(StrEnum):
    OPENS = "opens"
    OTHER = "another key"  # whole, and not opened by what we have
    REPLACED = "replaced"  # by a newer copy; a retention lock keeps it, or it could not be removed yet
    NOT_CHECKED = "not checked"  # nothing that was given tells whether it is whole
    DAMAGED = "damaged"
    ABSENT = "nothing there yet"
    UNKNOWN = "unknown"  # the store did not answer


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was tried on one store."""

    store: str
    what: str
    found: Found
    detail: str = ""


@dataclass(slots=True)
class Proofs:
    """All of them."""

    proofs: list[Proof] = field(default_factory=list)

    @property
    def good(self) -> bool:
        fine = {Found.OPENS, Found.ABSENT, Found.REPLACED, Found.NOT_CHECKED}
        return all(each.found in fine for each in self.proofs)

    @property
    def complete(self) -> bool:
        """Whether all was tried."""
        return not any(each.found is Found.NOT_CHECKED for each in self.proofs)


async def prove(stores: Mapping[str, ObjectStore], clock: Clock, keyring: Keyring, opener: Opener | None) -> Proofs:
    """``opener`` is tried on every wrapped copy of its kind; ``keyring`` on the data."""
    done = Proofs()
    for found in await asyncio.gather(*(_on(store, clock, keyring, opener) for store in stores.values())):
        done.proofs += found
    return done


async def _on(store: ObjectStore, clock: Clock, keyring: Keyring, opener: Opener | None) -> list[Proof]:
    found = await _wraps(store, keyring, opener)
    for what, trial in (("log", _log), ("newest manifest and a pack", _vault)):
        try:
            found.append(Proof(store.name, what, Found.OPENS, await trial(store, clock, keyring)))
        except ThreefoldError as error:
            found.append(Proof(store.name, what, _kind(error), error.message))
    return found


async def _wraps(store: ObjectStore, keyring: Keyring, opener: Opener | None) -> list[Proof]:
    try:
        there = await copies_on(store, keyring)
    except ThreefoldError as error:
        return [Proof(store.name, "wrapped keys", Found.UNKNOWN, error.message)]
    if not there:
        return [Proof(store.name, "wrapped keys", Found.ABSENT, "no passphrase and no shares open anything here")]
    proofs = []
    for copy in there:
        if copy.replaced:
            proofs.append(Proof(store.name, copy.key, Found.REPLACED, "it opens the old way until it is removed"))
        elif isinstance(copy.said, Damaged):
            proofs.append(Proof(store.name, copy.key, Found.DAMAGED, copy.said.message))
        elif opener is None or wraps.suits(copy.said, opener):
            proofs.append(await asyncio.to_thread(_wrap, copy, keyring, opener))
    if opener is not None and not any(proof.found not in {Found.DAMAGED, Found.REPLACED} for proof in proofs):
        proofs.append(Proof(store.name, "wrapped keys", Found.OTHER, "there is none that this kind of secret opens"))
    return proofs


def _wrap(copy: Copy, keyring: Keyring, opener: Opener | None) -> Proof:
    assert not isinstance(copy.said, Damaged)  # noqa: S101 - told apart by the caller
    if opener is None and copy.said.first:
        how = "as the first version wrote it: only the passphrase tells whether it is whole"
        return Proof(copy.store, copy.key, Found.NOT_CHECKED, how)
    if opener is None and copy.said.key_id in keyring.ids and not wraps.vouched(copy.body, keyring):
        return Proof(copy.store, copy.key, Found.DAMAGED, "the key that it names did not make it: damaged, or forged")
    lacking = [key_id for key_id in keyring.ids if key_id not in copy.said.keys]
    if lacking:
        return Proof(copy.store, copy.key, Found.OTHER, f"it lacks the newer key {lacking[-1]}")
    if opener is None and copy.said.key_id not in keyring.ids:
        return Proof(copy.store, copy.key, Found.OTHER, f"it is of key {copy.said.key_id}, which we do not have")
    if opener is None:
        return Proof(copy.store, copy.key, Found.OPENS, f"whole; not tried: it is opened by {copy.said.words}")
    try:
        opened = wraps.unwrap(copy.body, opener)
    except ThreefoldError as error:
        return Proof(copy.store, copy.key, _kind(error), error.message)
    same = opened.masters()[: len(keyring.ids)] == keyring.masters()
    return Proof(copy.store, copy.key, Found.OPENS if same else Found.OTHER, f"opened by {copy.said.words}")


async def _log(store: ObjectStore, clock: Clock, keyring: Keyring) -> str:
    extent = await read_extent({store.name: store}, keyring, clock)
    return f"opened up to {extent.end}, epoch {extent.epoch}"


async def _vault(store: ObjectStore, clock: Clock, keyring: Keyring) -> str:
    vault = Vault({store.name: store}, keyring, clock)
    catalogue = await vault.catalogue()
    there = [*(summary.id for summary in catalogue.summaries), *catalogue.damaged]
    if not there:
        raise NotThere("no snapshot yet")
    manifest = await vault.manifest(max(there))  # the newest, and no older one where that is damaged
    if manifest.places:
        await vault.chunks([(manifest.names[-1], manifest.places[-1])])
    return f"snapshot {manifest.summary.id}"


def _kind(error: ThreefoldError) -> Found:
    if isinstance(error, OtherKey | BadInput):
        return Found.OTHER
    if isinstance(error, Damaged):
        return Found.DAMAGED
    return Found.ABSENT if isinstance(error, NotThere) else Found.UNKNOWN
