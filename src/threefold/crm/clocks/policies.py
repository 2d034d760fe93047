"""Which service level a case has: the policy of its kind and priority, or the house's default, and office hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from threefold.crm.clocks.sla import Office, Reading, read
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model.errors import Forbidden, Stale

# Minutes to the first answer and to the resolution, by priority, where nobody made a policy.
DEFAULTS: Final = {1: (60, 480), 2: (240, 1_440), 3: (480, 4_320), 4: (1_440, 10_080)}


@dataclass(frozen=True, slots=True)
class Policy:
    """``office``: None where the clock runs day and night."""

    first_response: int
    resolution: int
    office: Office | None = None
    escalate_to: UUID | None = None


async def policy_of(connection: Connection, kind: str, priority: int) -> Policy:
    cursor = await connection.execute(
        """
        SELECT first_response_minutes, resolution_minutes, office_hours, escalate_to_id, zone, opens, closes, days
        FROM (SELECT) AS always
        LEFT JOIN crm.policies p ON record_kind = %s AND priority = %s AND deleted_at IS NULL
        CROSS JOIN crm.office o
        """,
        [kind, priority],
    )
    row = (await cursor.fetchall())[0]
    if row["first_response_minutes"] is None:
        return Policy(*DEFAULTS[priority])
    office = _office(row) if row["office_hours"] else None
    return Policy(row["first_response_minutes"], row["resolution_minutes"], office, row["escalate_to_id"])


async def offices(connection: Connection) -> Mapping[tuple[str, int], Office]:
    """By kind and priority, where the clocks count office hours only."""
    cursor = await connection.execute(
        """
        SELECT record_kind, priority, zone, opens, closes, days FROM crm.policies p CROSS JOIN crm.office o
        WHERE record_kind IN ('queries', 'requests') AND deleted_at IS NULL AND office_hours
        """
    )
    return {(row["record_kind"], row["priority"]): _office(row) for row in await cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class OfficeHours:
    """The hours that somebody is there, as they are set: with their version, to base a change on."""

    office: Office
    version: int


async def office_of(connection: Connection) -> Office:
    """The hours that somebody is there."""
    return (await office_hours(connection)).office


async def office_hours(connection: Connection) -> OfficeHours:
    rows = await (await connection.execute("SELECT zone, opens, closes, days, version FROM crm.office")).fetchall()
    return OfficeHours(_office(rows[0]), rows[0]["version"])


async def set_office(tx: Tx, office: Office, version: int) -> OfficeHours:
    """What is due already stays due when it was; a pause that ends later counts by the new hours.

    ``version``: what the change is based on; Stale if somebody was faster.
    """
    if not tx.actor.is_administrator:
        raise Forbidden("office hours are for administrators", hint="ask one of your administrators to do it")
    cursor = await tx.connection.execute(
        "UPDATE crm.office SET zone = %s, opens = %s, closes = %s, days = %s WHERE version = %s RETURNING version",
        [office.zone, office.opens, office.closes, sorted(set(office.days)), version],
    )
    row = await cursor.fetchone()
    if row is None:
        raise Stale(
            f"the office hours were changed meanwhile: your change is based on version {version}",
            hint="read them again and decide whether the change still holds",
        )
    return OfficeHours(office, row["version"])


async def clocks(connection: Connection, kind: str, case: Row) -> dict[str, Reading]:
    """For its page: ``first_response`` and ``resolution``, where the case has them."""
    policy = await policy_of(connection, kind, case["priority"])
    now = (await (await connection.execute("SELECT now() AS now")).fetchall())[0]["now"]
    found = {}
    for name, met in (("first_response", "first_responded_at"), ("resolution", "resolved_at")):
        due_at = case[f"{name}_due_at"]
        if due_at is not None:
            found[name] = read(
                now,
                start=case["created_at"],
                due_at=due_at,
                met_at=case[met],
                paused_at=case["paused_at"],
                paused_seconds=case["paused_seconds"],
                office=policy.office,
            )
    return found


def _office(row: Row) -> Office:
    return Office(row["zone"], row["opens"], row["closes"], tuple(row["days"]))
