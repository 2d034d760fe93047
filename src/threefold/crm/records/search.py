"""The search over all kinds: every word that was given has to be there, or begin one that is.

Accents and capitals do not matter. Each kind's words are in an index of its own; of what matches, a bounded number
of candidates is looked at, and those whose title begins as asked for come first, then what was changed last. So a word
that half of all records have costs no more than a rare one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from psycopg import sql

from threefold.crm.desk import Connection
from threefold.crm.model.actor import Actor
from threefold.crm.model.kinds import CUSTOMERS_READ, KINDS, Kind
from threefold.crm.sql import repository

_CANDIDATES = 200  # of each kind


@dataclass(frozen=True, slots=True)
class Hit:
    kind: str
    id: UUID
    title: str
    detail: str


async def search(connection: Connection, actor: Actor, text: str, limit: int = 20) -> list[Hit]:
    """Best first. Nothing for text without a letter or digit."""
    parts, params = [], []
    for kind in KINDS.values():
        if not kind.searched or (actor.is_customer and not kind.owner and kind.name not in CUSTOMERS_READ):
            continue
        scope = repository.scope(actor, kind)
        parts.append(_part(kind).format(scope=scope.text))
        params += [text, *scope.params, _CANDIDATES]
    statement = sql.SQL(
        "SELECT kind, id, title, detail FROM ({}) found"
        " ORDER BY starts_with(crm.plain(title), crm.plain(%s)) DESC, updated_at DESC, id LIMIT %s"
    ).format(sql.SQL(" UNION ALL ").join(parts))
    # Planned for these very words, each time: how common they are decides what is quick.
    cursor = await connection.execute(statement, [*params, text, limit], prepare=False)
    return [Hit(row["kind"], row["id"], row["title"], row["detail"]) for row in await cursor.fetchall()]


@lru_cache
def _part(kind: Kind) -> Any:
    details = {
        "accounts": "concat_ws(', ', nullif(city, ''), nullif(country, ''))",
        "contacts": "email",
        "products": "sku",
        "queries": "status",
        "requests": "status",
        "tasks": "CASE WHEN done_at IS NULL THEN 'to do' ELSE 'done' END",
        "deals": "stage",
    }
    return _Template(
        f"(SELECT '{kind.name}' AS kind, id, {kind.title} AS title, {details[kind.name]}::text AS detail, updated_at"  # noqa: S608 - our own names
        f" FROM crm.{kind.name} WHERE {{words}} @@ crm.asked_words(%s) AND deleted_at IS NULL AND {{scope}} LIMIT %s)",
        repository.words(kind),
    )


@dataclass(frozen=True, slots=True)
class _Template:
    text: str
    words: sql.Composable

    def format(self, *, scope: sql.Composable) -> sql.Composable:
        return sql.SQL(self.text).format(words=self.words, scope=scope)
