"""A record at any of its versions, from what it is now and what its log says was changed.

The log keeps of a change what was there before, so a record is walked back from its last state, one entry at a time,
to the one it was created with. Along the way each entry's new value must be what is there: where it is not, somebody
changed the record, or the log, by hand.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

from threefold.crm.model.kinds import COMMON, Kind, Type
from threefold.kernel.errors import Damaged, NotThere

Values = dict[str, Any]  # as JSON has them
Entry = Mapping[str, Any]  # a row of crm.log; `changes` decoded

_UNSAID = {field.name for field in COMMON} - {"deleted_at"}  # the entry's own columns say these


def last_state(columns: Sequence[str], row: Mapping[str, Any] | None, entries: Sequence[Entry]) -> Values:
    """What to begin with: the row, or what its deletion found. ``entries`` are newest first."""
    if row is not None:
        return {name: row[name] for name in columns}
    if not entries or entries[0]["op"] != "delete":
        raise Damaged("the record is gone, and its log does not say that it was deleted")
    return {**dict.fromkeys(columns), "version": entries[0]["version"]}


def walk_back(state: Mapping[str, Any], entry: Entry) -> Values:
    """The state before ``entry``, which led to ``state``."""
    if state["version"] != entry["version"]:
        raise Damaged(f"the record is at version {state['version']}, and its log at {entry['version']}")
    if entry["changes"] is None:
        raise NotThere("what was there before was erased")
    before = dict(state)
    for name, (old, new) in entry["changes"].items():
        if state.get(name) != new:
            raise Damaged(f"{name} is not what version {entry['version']} made it")
        before[name] = old
    before["version"] = entry["version"] - 1
    return before


def at_version(state: Mapping[str, Any], entries: Iterable[Entry], version: int) -> Values:
    """``entries`` newest first, down to ``version`` and not further needed."""
    found = dict(state)
    for entry in entries:
        if entry["version"] <= version:
            break
        found = walk_back(found, entry)
    return found


def created_texts(created: Mapping[str, Any]) -> Iterable[str]:
    """What a create entry's digest may be of: the record as row_to_json writes it.

    Or the same without some columns at the end: those were added since, and are null.
    """
    values = dict(created)
    while True:
        yield json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        last = next(reversed(values), None)
        if last is None or values.pop(last) is not None:
            return


def told(kind: Kind, entry: Entry, created: Mapping[str, Any] | None) -> dict[str, list[Any]] | None:
    """An entry's changes as a person reads them; ``created``: the first state, for the entry that made it."""
    if entry["op"] == "create":
        if created is None:
            return None
        defaults = {field.name: field.default for field in kind.fields}
        return {
            name: [None, value]
            for name, value in created.items()
            if name in defaults and value not in (None, "", [], defaults[name])
        }
    if entry["changes"] is None:
        return None
    return {name: list(change) for name, change in entry["changes"].items() if name not in _UNSAID}


def typed(kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's values as psycopg gives a row's."""
    types = {field.name: field.type for field in (*COMMON, *kind.fields)}
    return {name: _typed(types[name], value) for name, value in values.items() if name in types}


def _typed(kind: Type, value: Any) -> Any:
    if value is None:
        return None
    if kind is Type.ID:
        return UUID(value)
    if kind is Type.IDS:
        return [UUID(each) for each in value]
    if kind is Type.TIME:
        return datetime.fromisoformat(value)
    if kind is Type.DATE:
        return date.fromisoformat(value)
    return value
