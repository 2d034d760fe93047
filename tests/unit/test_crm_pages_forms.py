"""Forms of records and the addresses of lists: pure, so tried without a page."""

from __future__ import annotations

from uuid import UUID

import pytest

from threefold.crm.model import asking
from threefold.crm.model.errors import Invalid
from threefold.crm.model.kinds import KINDS, Kind
from threefold.crm.pages import listing, record_forms


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_what_a_form_shows_means_the_same_when_it_comes_back(kind: Kind) -> None:
    """For every kind: a record's texts, sent as they stand, are no change; typed again they are its values."""
    fields = record_forms.editable(kind)
    row = {field.name: field.default for field in fields}
    texts = record_forms.texts_of(fields, row)
    assert record_forms.changed(fields, texts, record_forms.unpacked(record_forms.packed(texts))) == []
    given = [field for field in fields if not field.required]
    assert record_forms.values_of(given, texts) == {field.name: row[field.name] for field in given}


def test_only_what_somebody_changed_counts_and_line_ends_do_not() -> None:
    fields = record_forms.editable(KINDS["tasks"])
    was = {"subject": "Call", "body": "one\ntwo"}
    typed = {"subject": "Call back", "body": "one\r\ntwo"}
    assert [field.name for field in record_forms.changed(fields, typed, was)] == ["subject"]


def test_money_is_typed_as_people_write_it() -> None:
    value = KINDS["deals"].field("value_cents")
    assert record_forms.value_of(value, "1.299,50") == record_forms.value_of(value, "1299.5") == 129_950
    with pytest.raises(ValueError, match="amount"):
        record_forms.value_of(value, "a lot")


def test_every_wrong_field_is_said_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        record_forms.values_of(KINDS["deals"].fields, {"name": "", "value_cents": "x", "close_on": "soon"})
    assert caught.value.fields.keys() >= {"name", "value_cents", "close_on", "account_id"}


def test_a_forms_memory_that_somebody_tampered_with_is_nothing() -> None:
    assert record_forms.unpacked("[1]") == record_forms.unpacked("{") == record_forms.unpacked("") == {}


def test_a_filter_forms_fields_become_what_a_list_understands() -> None:
    kind = KINDS["queries"]
    given = [
        ("q", ""), ("status.in", "new"), ("status.in", "open"), ("assignee_id", "none"), ("team_id", ""),
        ("ff", "subject"), ("fo", "contains"), ("fv", " red "), ("view", "x"), ("after", "y"),
    ]  # fmt: skip
    pairs = listing.pairs_of(given)
    assert pairs == [("status.in", "new,open"), ("assignee_id.empty", "true"), ("subject.contains", "red")]
    assert len(asking.parse(kind, pairs).filters) == 3
    assert listing.pairs_of(pairs) == pairs, "an address that is read again says the same"
    texts = [chip.text for chip in listing.chips(kind, "/l", pairs, {})]
    assert texts == ["Status is new or open", "Assignee is empty", "Subject contains red"]
    assert "status" not in listing.chips(kind, "/l", pairs, {})[0].without


def test_what_can_be_sorted_by_is_a_field_and_has_an_order() -> None:
    for name, columns in listing.SORTED.items():
        for column in columns:
            assert asking.unsortable(KINDS[name], column) == ""


def test_every_preset_can_be_asked_for() -> None:
    me = UUID(int=1)
    for kind in KINDS.values():
        for _, pairs in listing.presets(kind, me):
            assert asking.parse(kind, pairs).filters
    assert [name for name, _ in listing.presets(KINDS["tasks"], None)] == ["To do"]
