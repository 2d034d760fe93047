"""One change to many records: all of them or none, and taken back where nobody has changed them since.

Each record goes the same way as a single change does (clocks, checks, data log), at the version that its editor saw.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model import rules
from threefold.crm.model.errors import Conflict, Invalid, Stale
from threefold.crm.model.kinds import KINDS, LINKED, MERGED, Kind
from threefold.crm.records import records
from threefold.crm.records.edits import Edit, undo_one
from threefold.crm.records.recycling import with_all_below, with_all_deleted_with
from threefold.crm.sql import locks, repository
from threefold.kernel.errors import NotThere, ThreefoldError

MOST: Final = 1_000
Items = Sequence[tuple[UUID, int | None]]
_SHOWN: Final = "id, kind, what, changes, records, at, by, undone_at, undone_by, left_over"
_OURS: Final = ("version", "updated_at", "updated_by", "updated_on")
_One = Callable[[UUID, int | None], Coroutine[Any, Any, dict[str, Any] | None]]


async def apply(tx: Tx, kind: Kind, items: Items, changes: Mapping[str, Any]) -> Row:
    """Set the same fields of all. The batch; Invalid or Stale says of each record that stands against it why."""
    rules.check(tx.actor, rules.Operation.BULK, kind.name)
    if not changes:
        raise Invalid("nothing is to be changed", hint="name at least one field")

    async def one(id_: UUID, version: int | None) -> dict[str, Any] | None:
        before = await _json(tx, kind, id_)
        await records.update(tx, kind, id_, changes, version)
        return _item(kind.name, before, await _json(tx, kind, id_))

    await locks.take(tx, _named(kind, items), shared=locks.referred(kind.name, changes))
    return await _all(tx, kind, "set", items, changes, one)


async def tag(tx: Tx, kind: Kind, items: Items, tag_id: UUID, *, remove: bool = False) -> Row:
    """Put a tag on all, or take it off; on whom it is (or is not) already, nothing happens."""
    rules.check(tx.actor, rules.Operation.BULK, kind.name)
    if kind.name not in LINKED:
        raise Invalid(f"{kind.name} carry no tags", {"kind": f"has to be one of {', '.join(LINKED)}"})
    taggings = KINDS["taggings"]

    async def one(id_: UUID, version: int | None) -> dict[str, Any] | None:
        row = await records.get(tx.connection, tx.actor, kind, id_)
        if version is not None and row["version"] != version:
            raise records.stale(kind, row["version"], version)
        cursor = await tx.connection.execute(
            "SELECT id FROM crm.taggings WHERE record_id = %s AND tag_id = %s AND deleted_at IS NULL", [id_, tag_id]
        )
        there = await cursor.fetchone()
        if (there is None) == remove:
            return None
        if there is not None:
            before = await _json(tx, taggings, there["id"])
            await repository.change(tx, taggings, there["id"], {"deleted_at": tx.now}, None)
            return _item("taggings", before, await _json(tx, taggings, there["id"]))
        made = await records.create(tx, taggings, {"tag_id": tag_id, "record_kind": kind.name, "record_id": id_})
        after = await _json(tx, taggings, made["id"])
        return _item("taggings", {**after, "deleted_at": tx.now.isoformat()}, after)

    found = await tx.connection.execute(
        "SELECT id FROM crm.taggings WHERE record_id = ANY(%s) AND tag_id = %s", [[id_ for id_, _ in items], tag_id]
    )
    there_already = [("taggings", row["id"]) for row in await found.fetchall()]
    await locks.take(tx, there_already, shared=[one for one in _named(kind, items) if kind.name in MERGED])
    return await _all(tx, kind, "untag" if remove else "tag", items, {"tag_id": str(tag_id)}, one)


async def delete(tx: Tx, kind: Kind, items: Items) -> Row:
    """To the recycle bin, each with what hangs on it."""
    rules.check(tx.actor, rules.Operation.BULK, kind.name)

    async def one(id_: UUID, version: int | None) -> dict[str, Any] | None:
        before = await _json(tx, kind, id_)
        await records.delete(tx, kind, id_, version, held=True)
        return _item(kind.name, before, await _json(tx, kind, id_))

    await locks.take(tx, await with_all_below(tx, kind, [id_ for id_, _ in items]))
    return await _all(tx, kind, "delete", items, {}, one)


async def undo(tx: Tx, batch_id: UUID) -> Row:
    """What nobody changed since is as it was; ``left_over`` says of the others what stands against it."""
    found = await tx.connection.execute("SELECT kind, what, items FROM crm.batches WHERE id = %s", [batch_id])
    batch = await found.fetchone()
    if batch is None:
        raise NotThere("there is no such batch")
    rules.check(tx.actor, rules.Operation.BULK, batch["kind"])
    await _hold(tx, batch)
    found = await tx.connection.execute("SELECT * FROM crm.batches WHERE id = %s FOR UPDATE", [batch_id])
    batch = (await found.fetchall())[0]
    if batch["undone_at"]:
        raise Conflict("this batch was undone already")
    if batch["items"] is None:
        raise Conflict("a person in this batch was erased, so nobody knows any more what to restore")
    left = [
        {"kind": item["kind"], "id": item["id"], "why": why}
        for item in reversed(batch["items"])
        if (why := await _undo_one(tx, batch["what"], item))
    ]
    done = await tx.connection.execute(
        f"UPDATE crm.batches SET undone_at = now(), undone_by = crm.acting('user'), left_over = %s"  # noqa: S608 - ours
        f" WHERE id = %s RETURNING {_SHOWN}",
        [Jsonb(left), batch_id],
    )
    return (await done.fetchall())[0]


async def _hold(tx: Tx, batch: Row) -> None:
    """All that undoing it may touch; the batch itself is locked afterwards (locks.py), and may be undone by then."""
    items = batch["items"] or ()
    wanted: list[locks.One] = [(item["kind"], UUID(item["id"])) for item in items]
    if batch["what"] == "delete":
        wanted += await with_all_deleted_with(tx, KINDS[batch["kind"]], [id_ for _, id_ in wanted])
    shared = [one for item in items for one in locks.referred(item["kind"], item["old"])]
    await locks.take(tx, wanted, shared=shared)


def _named(kind: Kind, items: Items) -> list[locks.One]:
    return [(kind.name, id_) for id_, _ in items]


async def batches(connection: Connection, limit: int = 50) -> list[Row]:
    """The newest first, with who made them."""
    cursor = await connection.execute(
        """
        SELECT b.id, kind, what, changes, records, at, by, undone_at, undone_by, left_over, u.full_name AS who,
               undone_at IS NULL AND items IS NOT NULL AS undoable
        FROM crm.batches b LEFT JOIN crm.users u ON u.id = b.by ORDER BY at DESC, b.id DESC LIMIT %s
        """,
        [limit],
    )
    return await cursor.fetchall()


async def _all(tx: Tx, kind: Kind, what: str, items: Items, changes: Mapping[str, Any], one: _One) -> Row:
    if not 0 < len(items) <= MOST:
        raise Invalid(f"a batch has from 1 to {MOST} records", {"items": f"has {len(items)}"})
    if len({id_ for id_, _ in items}) < len(items):
        raise Invalid("a record is in the batch twice", {"items": "name each once"})
    done: list[dict[str, Any]] = []
    against: dict[str, ThreefoldError] = {}
    for id_, version in sorted(items, key=lambda item: item[0]):
        try:
            item = await one(id_, version)
            if item:
                done.append(item)
        except (Invalid, Stale, Conflict, NotThere) as error:
            against[str(id_)] = error
    if against:
        raise _refused(against, len(items))
    cursor = await tx.connection.execute(
        f"INSERT INTO crm.batches (id, kind, what, changes, records, items)"  # noqa: S608 - the columns are ours
        f" VALUES (%s, %s, %s, %s, %s, %s) RETURNING {_SHOWN}",
        [tx.new_id(), kind.name, what, Jsonb(_plain(changes)), len(items), Jsonb(done)],
    )
    return (await cursor.fetchall())[0]


def _refused(against: Mapping[str, ThreefoldError], many: int) -> ThreefoldError:
    """Nothing was changed. The kind of the error is that of them all, if they have one."""
    why = {id_: _reason(error) for id_, error in against.items()}
    message = f"{len(against)} of {many} records stand against it, so none was changed"
    hint = "see the records; leave them out, or read them again"
    if all(isinstance(error, Stale) for error in against.values()):
        return Stale(f"{message}: they were changed meanwhile ({', '.join(list(why)[:5])})", why, hint=hint)
    if all(isinstance(error, (Conflict, NotThere)) for error in against.values()):
        return Conflict(message, why, hint=hint)
    return Invalid(message, why, hint=hint)


def _reason(error: ThreefoldError) -> str:
    fields = error.fields if isinstance(error, Invalid) else {}
    return "; ".join(f"{name}: {what}" for name, what in fields.items()) or error.message


async def _undo_one(tx: Tx, what: str, item: Mapping[str, Any]) -> str:
    """Why it cannot be; empty if it was."""
    kind, id_ = KINDS[item["kind"]], UUID(item["id"])
    statement = sql.SQL("SELECT version FROM {} WHERE id = %s").format(repository.table(kind.name))
    row = await (await tx.connection.execute(statement, [id_])).fetchone()
    if row is None:
        return "it is gone for good"
    if row["version"] != item["version"]:
        return f"it was changed since: it is at version {row['version']}"
    try:
        async with tx.connection.transaction():
            if what == "delete":
                await records.restore(tx, kind, id_, held=True)
            else:
                await undo_one(tx, Edit(kind.name, (id_,), item["old"], item["new"]))
    except (Conflict, NotThere) as error:
        return error.message
    repository.note(tx, kind, await repository.one(tx.connection, tx.actor, kind, id_, deleted=True))
    return ""


async def _json(tx: Tx, kind: Kind, id_: UUID) -> dict[str, Any]:
    statement = sql.SQL("SELECT to_jsonb(t) AS row FROM {} t WHERE id = %s").format(repository.table(kind.name))
    row = await (await tx.connection.execute(statement, [id_])).fetchone()
    if row is None:
        raise NotThere(f"there is no such {kind.one}")
    found: dict[str, Any] = row["row"]
    return found


def _item(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    changed = [name for name in after if name not in _OURS and before[name] != after[name]]
    if not changed:
        return None
    return {
        "kind": kind,
        "id": after["id"],
        "version": after["version"],
        "old": {name: before[name] for name in changed},
        "new": {name: after[name] for name in changed},
    }


def _plain(value: Any) -> Any:
    """For JSON."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (int, type(None))) else str(value)
