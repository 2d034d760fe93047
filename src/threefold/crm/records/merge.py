"""Two records that are one: found, merged, and parted again.

What goes gives everything that refers to it to what stays, fills the fields that are empty there, and goes to the
recycle bin; each value that changed is written down, so that parting them restores both. References made after the
merge stay with what stayed. Deleted records are moved as well: one that is restored later belongs to who is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from threefold.crm.clocks import case_clocks, case_states
from threefold.crm.desk import Change, Connection, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Conflict, Invalid
from threefold.crm.model.kinds import KINDS, MERGED, Kind, Type
from threefold.crm.records import edits
from threefold.crm.records.edits import Edit
from threefold.crm.sql import locks, repository
from threefold.kernel.errors import NotThere

_LINKS: Final = (("tasks", "record_id"), ("attachments", "record_id"), ("taggings", "record_id"))
# Who refers to a record of that kind; what refers by kind and id has ids that no other kind has.
REFERENCES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "contacts": (
        ("queries", "contact_id"),
        ("requests", "contact_id"),
        ("interactions", "contact_id"),
        ("affiliations", "contact_id"),
        ("deals", "contact_id"),
        ("users", "contact_id"),
        *_LINKS,
    ),
    "accounts": (
        ("contacts", "account_id"),
        ("queries", "account_id"),
        ("requests", "account_id"),
        ("interactions", "account_id"),
        ("affiliations", "account_id"),
        ("deals", "account_id"),
        *_LINKS,
    ),
    "queries": (("interactions", "query_id"), *_LINKS),
    "requests": (("interactions", "request_id"), *_LINKS),
}
_SAME: Final[Mapping[str, Mapping[str, str]]] = {
    "contacts": {
        "the same mail address": "crm.email_key(email)",
        "the same name and telephone number": "crm.person_key(full_name, phone)",
    },
    "accounts": {"the same name": "crm.name_key(name)"},
}


@dataclass(frozen=True, slots=True)
class Duplicates:
    """``rows``: the records that are probably one, the oldest first."""

    why: str
    rows: list[Row]


async def duplicates(connection: Connection, kind: Kind, limit: int = 50) -> list[Duplicates]:
    """Groups of records that share what only one should have; each group once."""
    _check_kind(kind)
    found: list[Duplicates] = []
    seen: set[frozenset[UUID]] = set()
    for why, key in _SAME[kind.name].items():
        more = " AND phone <> ''" if "phone" in key else ""
        groups = sql.SQL(
            "SELECT {key} AS key FROM {table} WHERE deleted_at IS NULL{more} GROUP BY {key}"
            " HAVING count(*) > 1 LIMIT %s"
        ).format(key=sql.SQL(key), table=repository.table(kind.name), more=sql.SQL(more))
        keys = [row["key"] for row in await (await connection.execute(groups, [limit])).fetchall()]
        members = sql.SQL(
            "SELECT {shown}, {key} AS _key FROM {table} WHERE deleted_at IS NULL{more} AND {key} = ANY(%s) ORDER BY id"
        ).format(
            shown=repository.selected(kind),
            key=sql.SQL(key),
            table=repository.table(kind.name),
            more=sql.SQL(more),
        )
        together: dict[int, list[Row]] = {}
        for row in await (await connection.execute(members, [keys])).fetchall():
            together.setdefault(row.pop("_key"), []).append(row)
        for rows in together.values():
            ids = frozenset(row["id"] for row in rows)
            if len(ids) > 1 and ids not in seen:
                seen.add(ids)
                found.append(Duplicates(why, rows))
    return found[:limit]


async def merge(tx: Tx, kind: Kind, keep: UUID, drop: UUID, choices: Mapping[str, str] | None = None) -> UUID:
    """``choices``: for a field, 'keep' or 'drop' says whose value stays; where nothing is said, keep's unless empty."""
    rules.check(tx.actor, rules.Operation.MERGE, kind.name)
    _check_kind(kind)
    kept, dropped = await _both(tx, kind, keep, drop)
    await _hold_around(tx, kind, drop)
    made: list[Edit] = []
    for name, column in REFERENCES[kind.name]:
        made += await _doubles(tx, name, column, keep, drop)
        made += await edits.move(tx, name, column, drop, keep)
    made += await edits.put(tx, kind.name, drop, {"deleted_at": tx.now.isoformat()})
    made += await edits.put(tx, kind.name, keep, _chosen(kind, kept, dropped, choices or {}))
    return await _record(tx, kind, keep, drop, made)


async def merge_cases(tx: Tx, kind: Kind, into: UUID, other: UUID) -> Row:
    """``other`` goes into ``into``, with all that was said; it stays readable, and says where it went."""
    rules.check(tx.actor, rules.Operation.WORK, kind.name)
    case, gone = await _both(tx, kind, into, other)
    for each in (case, gone):
        if each["merged_into_id"]:
            raise Conflict(f"the {kind.one} {each['id']} was merged already", hint="undo that merge first")
    if case["contact_id"] != gone["contact_id"]:
        raise Conflict(
            "the two are different customers'", hint="each customer sees only what is theirs: answer them one by one"
        )
    await _hold_around(tx, kind, other)
    made: list[Edit] = []
    for name, column in REFERENCES[kind.name]:
        made += await _doubles(tx, name, column, into, other)
        made += await edits.move(tx, name, column, other, into)
    watchers = list(dict.fromkeys([*case["watchers"], *gone["watchers"]]))[:50]
    responded = min(filter(None, (case["first_responded_at"], gone["first_responded_at"])), default=None)
    taken = {"watchers": [str(user) for user in watchers], "first_responded_at": _text(responded)}
    made += await edits.put(tx, kind.name, into, taken)
    over = {"status": case_states.MERGED[kind.name], "resolved_at": _text(gone["resolved_at"] or tx.now)}
    made += await edits.put(tx, kind.name, other, {**over, "paused_at": None, "merged_into_id": str(into)})
    await _record(tx, kind, into, other, made)
    return await case_clocks.lock(tx, kind, into)


async def undo(tx: Tx, merge_id: UUID) -> Row:
    """The merge, undone. Conflict, with what stands against it, where somebody changed what it had changed."""
    found = await tx.connection.execute("SELECT * FROM crm.merges WHERE id = %s", [merge_id])
    row = await found.fetchone()
    if row is None:
        raise NotThere("there is no such merge")
    kind = KINDS[row["kind"]]
    needs = rules.Operation.MERGE if kind.name in MERGED else rules.Operation.WORK
    rules.check(tx.actor, needs, kind.name)
    await edits.hold(tx, edits.loaded(row["edits"] or ()))
    found = await tx.connection.execute("SELECT * FROM crm.merges WHERE id = %s FOR UPDATE", [merge_id])
    row = (await found.fetchall())[0]  # which may have been undone by now
    if row["undone_at"]:
        raise Conflict("this merge was undone already")
    if row["edits"] is None:
        raise Conflict("a person in this merge was erased, so nobody knows any more what to restore")
    await edits.undo(tx, edits.loaded(row["edits"]))
    _note(tx, kind, row["kept_id"], row["dropped_id"])
    done = await tx.connection.execute(
        "UPDATE crm.merges SET undone_at = now(), undone_by = crm.acting('user') WHERE id = %s"
        " RETURNING id, kind, kept_id, dropped_id, at, by, undone_at, undone_by",
        [merge_id],
    )
    return (await done.fetchall())[0]


async def merges(connection: Connection, kind: Kind, limit: int = 50) -> list[Row]:
    """The newest first. ``undoable``: nobody undid it, and nobody in it was erased; what changed since shows then."""
    title = sql.Identifier(kind.title)
    statement = sql.SQL(
        "SELECT m.id, m.kind, kept_id, dropped_id, k.{title} AS kept, d.{title} AS dropped, at, by,"
        " u.full_name AS who, undone_at, undone_by, undone_at IS NULL AND edits IS NOT NULL AS undoable"
        " FROM crm.merges m LEFT JOIN {table} k ON k.id = kept_id LEFT JOIN {table} d ON d.id = dropped_id"
        " LEFT JOIN crm.users u ON u.id = m.by WHERE m.kind = %s ORDER BY at DESC, m.id DESC LIMIT %s"
    ).format(title=title, table=repository.table(kind.name))
    return await (await connection.execute(statement, [kind.name, limit])).fetchall()


async def _both(tx: Tx, kind: Kind, keep: UUID, drop: UUID) -> tuple[Row, Row]:
    """Locked in one order, whoever is kept, so that two merges of the same two wait for each other."""
    if keep == drop:
        raise Invalid(f"that is the same {kind.one} twice", {"other": f"has to be another {kind.one}"})
    accounts: set[UUID] = set()
    if kind.name == "contacts":  # what is merged may take over the account that the other is at
        found = await tx.connection.execute("SELECT account_id FROM crm.contacts WHERE id = ANY(%s)", [[keep, drop]])
        accounts = {row["account_id"] for row in await found.fetchall() if row["account_id"]}
        await locks.take(tx, [], shared=[("accounts", id_) for id_ in accounts])
    if kind.name in MERGED:
        rows = {id_: await _locked(tx, kind, id_) for id_ in sorted((keep, drop))}
        if kind.name == "contacts" and not {row["account_id"] for row in rows.values()} <= {*accounts, None}:
            raise Conflict("one of them moved to another account just now", hint="look at both again, and decide")
    else:
        pair = [(kind.name, keep), (kind.name, drop)]
        found = await tx.connection.execute(
            sql.SQL("SELECT account_id FROM {} WHERE id = ANY(%s)").format(repository.table(kind.name)), [[keep, drop]]
        )
        about = [("accounts", row["account_id"]) for row in await found.fetchall() if row["account_id"]]
        await locks.take(tx, pair, shared=about)
        rows = {id_: await case_clocks.lock(tx, kind, id_) for id_ in sorted((keep, drop))}
    return rows[keep], rows[drop]


async def _locked(tx: Tx, kind: Kind, id_: UUID) -> Row:
    """Against references as well: whoever makes one holds what it refers to, shared."""
    statement = sql.SQL("SELECT {} FROM {} WHERE id = %s AND deleted_at IS NULL FOR UPDATE").format(
        repository.selected(kind), repository.table(kind.name)
    )
    row = await (await tx.connection.execute(statement, [id_])).fetchone()
    if row is None:
        raise NotThere(f"there is no such {kind.one}")
    return row


async def _hold_around(tx: Tx, kind: Kind, drop: UUID) -> None:
    """All that refers to what goes; deleted ones too."""
    wanted: list[locks.One] = []
    for name, column in REFERENCES[kind.name]:
        statement = sql.SQL("SELECT id FROM {} WHERE {} = %s").format(repository.table(name), sql.Identifier(column))
        rows = await (await tx.connection.execute(statement, [drop])).fetchall()
        wanted += [(name, row["id"]) for row in rows]
    await locks.take(tx, wanted)


async def _doubles(tx: Tx, name: str, column: str, keep: UUID, drop: UUID) -> list[Edit]:
    """What both have (the same tag, the same account) stays once: drop's goes to the recycle bin."""
    other = {"taggings": "tag_id", "affiliations": {"contact_id": "account_id"}.get(column, "contact_id")}.get(name)
    if other is None:
        return []
    statement = sql.SQL(
        "SELECT d.id FROM {table} d JOIN {table} k ON k.{other} = d.{other} AND k.{column} = %s"
        " WHERE d.{column} = %s AND d.deleted_at IS NULL AND k.deleted_at IS NULL ORDER BY d.id FOR UPDATE OF d"
    ).format(table=repository.table(name), other=sql.Identifier(other), column=sql.Identifier(column))
    rows = await (await tx.connection.execute(statement, [keep, drop])).fetchall()
    gone = {"deleted_at": tx.now.isoformat()}
    return [edit for row in rows for edit in await edits.put(tx, name, row["id"], gone)]


def _chosen(kind: Kind, kept: Row, dropped: Row, choices: Mapping[str, str]) -> dict[str, Any]:
    names = {field.name for field in kind.fields if not field.kept}
    wrong = {name: "there is no such field" for name in choices if name not in names}
    wrong |= {name: "has to be keep or drop" for name, which in choices.items() if which not in ("keep", "drop")}
    if wrong:
        raise Invalid("these choices cannot be", wrong)
    taken = {}
    for field in kind.fields:
        name = field.name
        if field.kept or choices.get(name) == "keep":
            continue
        empty = kept[name] in (None, "") and dropped[name] not in (None, "")
        # Whoever asked not to be contacted is not contacted, whichever of the two records they told.
        barred = name == "do_not_contact" and dropped[name]
        if choices.get(name) == "drop" or empty or barred:
            taken[name] = str(dropped[name]) if field.type is Type.ID and dropped[name] else dropped[name]
    return taken


async def _record(tx: Tx, kind: Kind, keep: UUID, drop: UUID, made: list[Edit]) -> UUID:
    merge_id = tx.new_id()
    await tx.connection.execute(
        "INSERT INTO crm.merges (id, kind, kept_id, dropped_id, edits) VALUES (%s, %s, %s, %s, %s)",
        [merge_id, kind.name, keep, drop, Jsonb([edit.stored() for edit in made])],
    )
    _note(tx, kind, keep, drop)
    return merge_id


def _note(tx: Tx, kind: Kind, *ids: UUID) -> None:
    tx.changed.update(Change(kind.name, id_) for id_ in ids)


def _check_kind(kind: Kind) -> None:
    if kind.name not in MERGED:
        raise Invalid(f"{kind.name} are not merged", {"kind": f"has to be one of {', '.join(MERGED)}"})


def _text(moment: Any) -> str | None:
    return moment.isoformat() if moment else None
