"""What may be written, asked for and walked back to: decided without a database."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threefold.crm.datalog import history
from threefold.crm.model.asking import Asked, Filter, parse
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import COMMON, KINDS, Field, Kind, Type
from threefold.crm.model.paging import Place, place
from threefold.crm.model.validating import changed_values, from_text, new_values, nullable, value_of
from threefold.kernel.errors import BadInput, Damaged, NotThere

AN_ID = "0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11"
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30) | st.floats() | st.uuids() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(KINDS.values())), st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_is_given_is_clean_or_refused_by_field(kind: Any, data: st.DataObject) -> None:
    names = st.sampled_from([*(field.name for field in (*kind.fields, *COMMON)), "nonsense"])
    given_ = data.draw(st.dictionaries(names, ANYTHING, max_size=5))
    try:
        clean = new_values(kind, given_)
    except Invalid as refused:
        named = bool(refused.fields)
    else:
        named = True
        _is_whole(kind, clean)
    assert named


def _is_whole(kind: Kind, clean: dict[str, Any]) -> None:
    assert {field.name for field in kind.fields if not field.kept} <= clean.keys()
    for field in kind.fields:
        if field.name in clean and clean[field.name] is None:
            assert nullable(field)


@given(st.sampled_from(list(KINDS.values())), st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_is_asked_is_read_or_refused(kind: Any, data: st.DataObject) -> None:
    names = [*(field.name for field in (*kind.fields, *COMMON)), "sort", "after", "limit", "q", "deleted", "nonsense"]
    ops = ["", "", ".eq", ".ne", ".lt", ".ge", ".in", ".contains", ".starts", ".empty", ".x", "..", ".a.b"]
    name = st.builds(str.__add__, st.sampled_from(names), st.sampled_from(ops))
    params = data.draw(
        st.lists(st.tuples(name, st.text(max_size=20) | st.sampled_from(["true", AN_ID, "1"])), max_size=4)
    )
    try:
        asked = parse(kind, params)
    except BadInput:
        return
    assert 1 <= asked.limit <= 200
    assert kind.field(asked.sort.removeprefix("-")) is not None


def test_a_query_string_is_read() -> None:
    contacts = KINDS["queries"]
    asked = parse(
        contacts,
        [
            ("status", "open"),
            ("priority.le", "2"),
            ("assignee_id.empty", "true"),
            ("contact_id.in", f"{AN_ID},{AN_ID}"),
            ("watchers.contains", AN_ID),
            ("sort", "-priority"),
            ("limit", "7"),
            ("q", " red light "),
        ],
    )
    assert asked == Asked(
        (
            Filter("status", "eq", "open"),
            Filter("priority", "le", 2),
            Filter("assignee_id", "empty", True),
            Filter("contact_id", "in", (UUID(AN_ID), UUID(AN_ID))),
            Filter("watchers", "contains", UUID(AN_ID)),
        ),
        "-priority",
        None,
        7,
        text="red light",
    )
    with pytest.raises(Invalid) as refused:
        parse(
            contacts,
            [("status", "x"), ("limit", "0"), ("sort", "body"), ("nope", "1"), ("limit", "9"), ("body.lt", "")],
        )
    assert set(refused.value.fields) == {"status", "limit", "sort", "nope", "body.lt"}


@given(st.text(max_size=50))
def test_a_place_is_ours_or_refused(text: str) -> None:
    with pytest.raises(BadInput):
        place(text, "name")


@given(
    st.none() | st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.uuids(),
    st.booleans(),
)
def test_a_place_comes_back(value: str | None, id_: UUID, at: bool) -> None:
    there = Place("-name", value, id_, at)
    assert place(there.encoded(), "-name") == there
    with pytest.raises(BadInput, match="sorted by"):
        place(there.encoded(), "name")


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (Type.CENTS, "12.5", 1250),
        (Type.CENTS, "12,05", 1205),
        (Type.INTEGER, "7", 7),
        (Type.BOOLEAN, "Yes", True),
        (Type.BOOLEAN, "", False),
        (Type.DATE, "2026-02-03", date(2026, 2, 3)),
        (Type.TIME, "2026-02-03T04:05:06+02:00", datetime(2026, 2, 3, 2, 5, 6, tzinfo=UTC)),
        (Type.IDS, f"{AN_ID}; {AN_ID}", [UUID(AN_ID)]),
        (Type.EMAIL, " A@Example.com ", "a@example.com"),
        (Type.TEXT, " x ", "x"),
        (Type.LONG, " x\n", " x\n"),
        (Type.ID, "", None),
    ],
)
def test_text_becomes_a_value(type_: Type, text: str, value: object) -> None:
    assert from_text(Field("x", type_, most=10_000), text) == value


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Type.TEXT, "a\0"),
        (Type.TEXT, "a\nb"),
        (Type.TEXT, "\ud800"),
        (Type.TEXT, "x" * 201),
        (Type.TEXT, 5),
        (Type.INTEGER, True),
        (Type.INTEGER, 1.0),
        (Type.INTEGER, 201),
        (Type.CENTS, -1),
        (Type.BOOLEAN, "true"),
        (Type.EMAIL, "a@b"),
        (Type.EMAIL, "a b@example.com"),
        (Type.ID, AN_ID.replace("-", "")),
        (Type.TIME, "2026-02-03T04:05:06"),
        (Type.TIME, "yesterday"),
        (Type.DATE, "2026-02-30"),
        (Type.CHOICE, "other"),
        (Type.IDS, [1]),
    ],
)
def test_what_cannot_be_meant_is_refused(type_: Type, value: object) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        value_of(Field("x", type_, choices=("one",)), value)


def test_fields_that_only_make_sense_together() -> None:
    task = {"subject": "x", "record_kind": "queries"}
    with pytest.raises(Invalid) as refused:
        new_values(KINDS["tasks"], task)
    assert "record_id" in refused.value.fields
    with pytest.raises(Invalid):
        new_values(KINDS["users"], {"full_name": "x", "email": "a@example.com", "role": "customer"})
    with pytest.raises(Invalid):
        changed_values(KINDS["interactions"], {"request_id": AN_ID}, {"query_id": UUID(AN_ID)})


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.none() | st.integers() | st.text()), max_size=8))
def test_a_record_is_walked_back_to_each_of_its_states(changes: list[dict[str, Any]]) -> None:
    states: list[dict[str, Any]] = [{"a": 0, "b": None, "c": "x", "version": 1}]
    entries: list[dict[str, Any]] = []
    for change in changes:
        before = states[-1]
        states.append({**before, **change, "version": before["version"] + 1})
        told = {name: [before[name], value] for name, value in change.items() if before[name] != value}
        entries.insert(0, {"version": states[-1]["version"], "op": "update", "changes": told})
    now = states[-1]
    for state in states:
        assert history.at_version(now, entries, state["version"]) == state
    if entries and entries[0]["changes"]:
        name = next(iter(entries[0]["changes"]))
        with pytest.raises(Damaged):
            history.walk_back({**now, name: "something else"}, entries[0])
    if entries:
        with pytest.raises(NotThere):
            history.walk_back(now, {**entries[0], "changes": None})


def test_a_creation_is_known_without_the_columns_that_came_later() -> None:
    texts = list(history.created_texts({"id": "1", "a": None, "b": "ä", "c": None, "d": None}))
    assert [list(json.loads(text)) for text in texts] == [["id", *"abcd"[:n]] for n in (4, 3, 2)]
