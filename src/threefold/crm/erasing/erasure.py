"""Erasing a person for good (a customer's right), and keeping them erased through every recovery.

What remains is that there was a customer, and when what happened; who it was and what was said is gone: from the
records, from the data log's contents (its hashes stay, so the chains still prove themselves), from what merges and
batches kept to be undone, from the files, and from views that were saved to find them. The erasure ledger is written
before the database commits (erasure_ledger.py), and replayed after every recovery.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from threefold.crm.desk import Change, Row, Tx
from threefold.crm.erasing.erasure_ledger import ErasureLedger
from threefold.crm.model import rules
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.errors import Conflict
from threefold.crm.sql.database import Database
from threefold.kernel.errors import NotThere

NAME: Final = "Erased person"
TEXT: Final = "[erased]"


@dataclass(frozen=True, slots=True)
class Erased:
    """Whose data went: the contact and those that had been merged into it, and their users.

    ``records``: these and all else that lost something by it. ``words``: what one would look for them by.
    """

    contacts: tuple[UUID, ...]
    users: tuple[UUID, ...]
    records: tuple[UUID, ...]
    words: tuple[str, ...]


# What others keep of a person (sessions, devices, stored replies) goes in the same transaction.
Hook = Callable[[Tx, Erased], Awaitable[None]]


async def erase(tx: Tx, contact_id: UUID, reason: str, ledger: ErasureLedger, hooks: Sequence[Hook] = ()) -> Row:
    """The entry of crm.erasures. ``reason`` is kept: it names the demand, never the person."""
    rules.check(tx.actor, rules.Operation.ERASE)
    known = await tx.connection.execute("SELECT id FROM crm.contacts WHERE id = %s FOR UPDATE", [contact_id])
    if await known.fetchone() is None:
        raise NotThere("there is no such contact")
    merged = await tx.connection.execute(
        "SELECT kept_id FROM crm.merges WHERE dropped_id = %s AND kind = 'contacts' AND undone_at IS NULL",
        [contact_id],
    )
    if into := await merged.fetchone():
        raise Conflict(f"this contact was merged into {into['kept_id']}", hint="erase that one: both go")
    erased, records = await _erase(tx, contact_id, hooks)
    row = await _write_down(tx, erased, reason[:200], records)
    await ledger.append(erased.contacts, tx.now.isoformat())
    return row


async def replay(database: Database, ledger: ErasureLedger, hooks: Sequence[Hook] = ()) -> list[UUID]:
    """Erase whoever is in the ledger and not erased here: after a recovery to an earlier time. Whom it erased now.

    One transaction for each, so that it goes on where it was broken off.
    """
    wanted = ledger.read()
    async with database.read() as connection:
        found = await connection.execute("SELECT contact_id FROM crm.erasures WHERE contact_id = ANY(%s)", [wanted])
        done = {row["contact_id"] for row in await found.fetchall()}
    again = [contact for contact in wanted if contact not in done]
    for contact in again:
        async with database.write(SYSTEM) as tx:
            erased, records = await _erase(tx, contact, hooks)
            await _write_down(tx, erased, "replayed after a recovery", records)
    return again


async def _erase(tx: Tx, contact_id: UUID, hooks: Sequence[Hook]) -> tuple[Erased, int]:
    await tx.connection.execute("SELECT set_config('crm.reason', 'erasure', true)")
    persons = await _ids(tx, _PERSONS, {"contact": contact_id})
    about: dict[str, Any] = {"persons": persons, "name": NAME, "text": TEXT}
    words = await _words(tx, persons)
    for person in persons:
        await tx.connection.execute(
            _CONTACT, {"id": person, "name": NAME, "email": f"erased-{person.hex[-12:]}@invalid.example"}
        )
    queries = await _ids(tx, _QUERIES, about)
    requests = await _ids(tx, _REQUESTS, about)
    about |= {"queries": queries, "requests": requests, "records": [*persons, *queries, *requests]}
    # Kind by kind in the order of locks.py.
    others = [each for text in (_INTERACTIONS, _AFFILIATIONS) for each in await _ids(tx, text, about)]
    users = await _ids(tx, _USERS, about)
    tasks = await _ids(tx, _TASKS, about)
    about |= {"records": [*about["records"], *tasks], "words": words}
    others += [each for text in (_FILES, _UPLOADS, _VIEWS) for each in await _ids(tx, text, about)]
    await tx.connection.execute(_BLOBS)
    everything = [*about["records"], *users, *others]
    for text in (_LOG, _MERGES, _BATCHES):
        await tx.connection.execute(text, {"ids": everything})
    erased = Erased(tuple(persons), tuple(users), tuple(everything), tuple(words))
    for hook in hooks:
        await hook(tx, erased)
    tx.changed.update(Change("contacts", person) for person in persons)
    return erased, len(everything)


async def _words(tx: Tx, persons: list[UUID]) -> list[str]:
    """In lower case; what is shorter could be anybody's."""
    cursor = await tx.connection.execute(_NAMES, {"persons": persons})
    said = {str(row["word"]).strip().lower() for row in await cursor.fetchall()}
    return sorted(
        word for word in said if len(word) >= 5 and word != NAME.lower() and not word.endswith("@invalid.example")
    )


async def _ids(tx: Tx, statement: str, params: Mapping[str, Any]) -> list[UUID]:
    cursor = await tx.connection.execute(statement.encode(), params)
    return [row["id"] for row in await cursor.fetchall()]


async def _write_down(tx: Tx, erased: Erased, reason: str, records: int) -> Row:
    """One entry for each contact: any of them may be there alone in an earlier state of the database."""
    rows = []
    for contact in erased.contacts:
        cursor = await tx.connection.execute(
            "INSERT INTO crm.erasures (contact_id, reason, records) VALUES (%s, %s, %s)"
            " ON CONFLICT (contact_id) DO UPDATE SET at = now(), records = erasures.records + excluded.records"
            " RETURNING contact_id, at, by, reason, records",
            [contact, reason, records],
        )
        rows += await cursor.fetchall()
    return rows[0]


_PERSONS: Final = """
    WITH RECURSIVE persons AS (
        SELECT %(contact)s::uuid AS id
        UNION SELECT dropped_id FROM crm.merges m JOIN persons p ON m.kept_id = p.id
              WHERE m.kind = 'contacts' AND m.undone_at IS NULL
    ) SELECT id FROM persons ORDER BY id <> %(contact)s, id
"""
_CONTACT: Final = """
    UPDATE crm.contacts SET full_name = %(name)s, email = %(email)s, phone = '', role = '', language = 'en',
        do_not_contact = true, consent_mail = false, consent_phone = false WHERE id = %(id)s
"""
_QUERIES: Final = """
    UPDATE crm.queries SET subject = %(text)s, body = %(text)s WHERE contact_id = ANY(%(persons)s) RETURNING id
"""
_REQUESTS: Final = """
    UPDATE crm.requests SET subject = %(text)s, body = %(text)s WHERE contact_id = ANY(%(persons)s) RETURNING id
"""
_INTERACTIONS: Final = """
    UPDATE crm.interactions SET body = %(text)s WHERE contact_id = ANY(%(persons)s)
        OR query_id = ANY(%(queries)s) OR request_id = ANY(%(requests)s) RETURNING id
"""
_NAMES: Final = """
    SELECT unnest(ARRAY[full_name, email, phone]) AS word FROM crm.contacts WHERE id = ANY(%(persons)s)
    UNION SELECT unnest(ARRAY[full_name, email]) FROM crm.users WHERE contact_id = ANY(%(persons)s)
"""
# A task may be about a task.
_TASKS: Final = """
    WITH RECURSIVE tasks AS (
        SELECT id FROM crm.tasks WHERE record_id = ANY(%(records)s)
        UNION SELECT t.id FROM crm.tasks t JOIN tasks o ON t.record_id = o.id
    ) UPDATE crm.tasks SET subject = %(text)s, body = '' WHERE id IN (SELECT id FROM tasks) RETURNING id
"""
_AFFILIATIONS: Final = """
    UPDATE crm.affiliations SET role = '' WHERE contact_id = ANY(%(persons)s) RETURNING id
"""
_USERS: Final = """
    UPDATE crm.users SET full_name = %(name)s, active = false,
        email = 'erased-' || right(replace(id::text, '-', ''), 12) || '@invalid.example'
    WHERE contact_id = ANY(%(persons)s) RETURNING id
"""
_FILES: Final = "DELETE FROM crm.attachments WHERE record_id = ANY(%(records)s) RETURNING id"
_BLOBS: Final = """
    DELETE FROM crm.blobs b WHERE NOT EXISTS (SELECT FROM crm.attachments a WHERE a.sha256 = b.sha256)
"""
# Whom a file names cannot be told before it is read; who uploaded it can do so again. Its header is a person's row
# where somebody forgot it. One that says it is running may have been broken off; one that runs has been read already.
_UPLOADS: Final = """
    UPDATE crm.imports SET status = 'cancelled', data = NULL, header = '{}', mapping = '{}', finished_at = now()
    WHERE data IS NOT NULL RETURNING id
"""
# Their addresses spell @ and blanks as URLs do.
_VIEWS: Final = """
    DELETE FROM crm.views v USING unnest(%(words)s::text[]) word
    WHERE position(word IN lower(v.name)) > 0
       OR position(word IN replace(replace(lower(v.asked), '%%40', '@'), '+', ' ')) > 0
    RETURNING v.id
"""
_LOG: Final = """
    UPDATE crm.log SET changes = NULL, salt = NULL WHERE record_id = ANY(%(ids)s) AND salt IS NOT NULL
"""
_MERGES: Final = "UPDATE crm.merges SET edits = NULL WHERE kept_id = ANY(%(ids)s) OR dropped_id = ANY(%(ids)s)"
_BATCHES: Final = """
    UPDATE crm.batches SET items = NULL, changes = '{}' WHERE items IS NOT NULL AND EXISTS (
        SELECT FROM jsonb_array_elements(items) item WHERE (item ->> 'id')::uuid = ANY(%(ids)s))
"""
