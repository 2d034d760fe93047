"""Create, and find out whose object stands there when the reply does not say.

"Exists" may be our own object from a lost reply, and after an error it may or may not have landed. Bodies carry
their writer's id, so reading back and comparing bytes decides; what cannot be read back stays unknown.

Counting a body that was read back as stored rests on what probe.py asks of a store: what a read shows is durable.
"""

from __future__ import annotations

from dataclasses import dataclass

from threefold.stores.store import Gone, Made, ObjectStore, Unknown


@dataclass(frozen=True, slots=True)
class Stored:
    """Our bytes are there, durably: by this request, or by an earlier one of ours whose reply was lost."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Other bytes are there, and stay."""

    existing: bytes


async def create_confirmed(store: ObjectStore, key: str, body: bytes) -> Stored | Taken | Unknown:
    """Two requests at the most. After Unknown the create may still land: ask again with the same bytes."""
    answer = await store.create(key, body)
    if answer is Made.CREATED:
        return Stored()
    existing = await store.read(key)
    if isinstance(existing, Unknown):
        return existing
    if isinstance(existing, Gone):
        return answer if isinstance(answer, Unknown) else Unknown(f"{store.name} says both exists and absent")
    return Stored() if existing == body else Taken(existing)
