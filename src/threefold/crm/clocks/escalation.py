"""Cases that nobody answered or resolved in time go to whoever the policy names, one priority higher. Once each."""

from __future__ import annotations

import logging
from typing import Final

from psycopg import sql

from threefold.crm.clocks import case_states
from threefold.crm.clocks.policies import policy_of
from threefold.crm.desk import Row, Tx
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.kinds import CASES, KINDS
from threefold.crm.sql import repository
from threefold.crm.sql.database import Database
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable

_AT_ONCE: Final = 100
EVERY_S: Final = 30.0
_log = logging.getLogger(__name__)


async def escalate_due(tx: Tx, limit: int = _AT_ONCE) -> list[Row]:
    """The cases as they are now. Several may do this at once: what another has in hand is passed over.

    What was due stays due when it was: a higher priority does not make it later, and it is late already.
    """
    escalated = []
    for name in CASES:
        kind = KINDS[name]
        statement = sql.SQL(
            "SELECT id, priority, team_id FROM {} WHERE status IN ({}) AND escalated_at IS NULL AND deleted_at IS NULL"
            " AND crm.next_due(first_responded_at, first_response_due_at, resolution_due_at) <= now()"
            " ORDER BY crm.next_due(first_responded_at, first_response_due_at, resolution_due_at)"
            " LIMIT %s FOR UPDATE SKIP LOCKED"
        ).format(repository.table(name), sql.SQL(", ").join(map(sql.Literal, case_states.running(name))))
        for case in await (await tx.connection.execute(statement, [limit])).fetchall():
            policy = await policy_of(tx.connection, name, case["priority"])
            changes = {
                "escalated_at": tx.now,
                "priority": max(1, case["priority"] - 1),
                "team_id": policy.escalate_to or case["team_id"],
            }
            row = await repository.change(tx, kind, case["id"], changes, None)
            if row is not None:
                escalated.append(row)
    return escalated


async def escalation(database: Database, clock: Clock, every: float = EVERY_S) -> None:
    """Goes on until it is cancelled. While the database is away it waits: late is late by the database's own time."""
    while True:
        try:
            async with database.write(SYSTEM, "overdue") as tx:
                found = await escalate_due(tx)
            if found:
                _log.info("%d cases were escalated", len(found))
        except Unavailable as error:
            _log.info("the escalation of cases waits: %s", error)
            found = []
        if len(found) < _AT_ONCE:
            await clock.sleep(every)
