"""What the edge keeps of a person, gone with them: part of the CRM's erasure, in its transaction.

Kept answers (idempotency.py) may tell of the person, whoever asked for them: their contents go, and their keys stay,
so that a late repetition still changes nothing. The audit keeps that something happened, and loses what tells of whom.
"""

from __future__ import annotations

from typing import Final

from threefold.crm.desk import Tx
from threefold.crm.erasing.erasure import Erased

_OF_USERS: Final = (
    "DELETE FROM edge.sessions WHERE user_id = ANY(%(users)s)",
    "DELETE FROM edge.passkeys WHERE user_id = ANY(%(users)s)",
    "DELETE FROM edge.passwords WHERE user_id = ANY(%(users)s)",
    "DELETE FROM edge.invitations WHERE user_id = ANY(%(users)s)",
    """UPDATE edge.devices SET name = 'Erased device', revoked_at = coalesce(revoked_at, now())
       WHERE user_id = ANY(%(users)s)""",
    """UPDATE edge.audit SET address = '', detail = '{}'
       WHERE (user_id = ANY(%(users)s) OR record_id = ANY(%(ids)s)) AND (address <> '' OR detail <> '{}')""",
    """UPDATE edge.audit SET address = '', detail = '{}'
       WHERE what = 'exported' AND EXISTS (
           SELECT FROM unnest(%(words)s::text[]) word WHERE position(word IN lower(detail ->> 'query')) > 0)""",
    """UPDATE edge.intake SET title = '', link = '', sent = NULL,
           problem = CASE WHEN state = 'rejected' THEN '{}'::jsonb END
       WHERE user_id = ANY(%(users)s)""",
    """UPDATE edge.replies SET body = '{}', headers = '{}', media_type = 'application/json'
       WHERE user_id = ANY(%(users)s) OR about && %(records)s::uuid[]""",
)


async def forget(tx: Tx, erased: Erased) -> None:
    """A hook of `threefold.crm.erasing.erasure`."""
    values = {
        "users": list(erased.users),
        "ids": [*erased.contacts, *erased.users],
        "records": list(erased.records),
        "words": list(erased.words),
    }
    for statement in _OF_USERS:
        await tx.connection.execute(statement.encode(), values)
