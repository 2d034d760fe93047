"""How values look to people, and what a page says happens next."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from threefold.crm.model.actor import Actor, Role
from threefold.crm.model.kinds import QUERY_STATES, REQUEST_STATES
from threefold.crm.pages import words
from threefold.crm.pages.next_steps import next_step
from threefold.crm.pages.places import groups_of
from threefold.crm.pages.site import Site

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("1299.99", 129_999),
        ("1,299.99", 129_999),
        ("1.299,99", 129_999),
        ("1 299", 129_900),
        ("1'299.5", 129_950),
        ("1,299", 129_900),
        ("0.05", 5),
        (",5", 50),
        ("-3", -300),
        ("0", 0),
    ],
)
def test_money_as_people_type_it(typed: str, meant: int) -> None:
    assert words.cents(typed) == meant


@pytest.mark.parametrize("typed", ["", "abc", "1.2.3", "12,34,56", "1e5", "1.2345", "½", "12345,678", "--1"])
def test_what_is_no_amount_is_left_for_the_service_to_refuse(typed: str) -> None:
    assert words.cents(typed) == typed


@pytest.mark.parametrize("cents", [0, 1, 99, 100, -5, 129_999, 10**12])
def test_an_amount_is_read_back_as_it_was_written(cents: int) -> None:
    assert words.cents(words.amount(cents)) == cents


def test_money_times_and_names() -> None:
    assert words.money(129_999) == "€ 1,299.99"
    assert words.money(-5, "CHF") == "-CHF 0.05"
    assert words.money(None) == ""
    assert words.instant(NOW) == "2026-11-24T12:00:00Z"
    assert words.plain_time(date(2026, 1, 2)) == "2 Jan 2026"
    assert [words.initials(name) for name in ("Ada Lovelace", "ada", "", "(x) Y")] == ["AL", "A", "?", "Y"]
    assert [words.plural(n, "query", "queries") for n in (1, 2)] == ["1 query", "2 queries"]
    assert [words.bytes_size(n) for n in (999, 2_400_000)] == ["999 B", "2.4 MB"]
    assert words.sentence("it is late") == "It is late."


def case(**more: Any) -> dict[str, Any]:
    fields = dict.fromkeys(("first_responded_at", "first_response_due_at", "resolution_due_at", "satisfaction"))
    return {**fields, "status": "new", **more}


def test_no_promise_is_shown_that_is_broken_already() -> None:
    soon, late = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
    assert next_step(case(first_response_due_at=soon), NOW).at == soon
    assert next_step(case(first_response_due_at=late), NOW).at is None
    assert next_step(case(status="open", first_responded_at=late, resolution_due_at=late), NOW).at is None
    assert next_step(case(status="open", first_responded_at=late, resolution_due_at=soon), NOW).at == soon


def test_a_customer_is_told_when_it_is_its_turn() -> None:
    assert next_step(case(status="waiting"), NOW).yours
    assert next_step(case(status="done"), NOW).yours
    assert not next_step(case(status="done", satisfaction=4), NOW).yours
    assert all(next_step(case(status=status), NOW).text for status in {*QUERY_STATES, *REQUEST_STATES})


def test_the_banner_speaks_only_when_there_is_something_to_say() -> None:
    assert (Site("north", 7).state, Site("north", 7).line) == ("live", "")
    assert Site("north", 7).words == "north · epoch 7 · live"
    stale = Site("south", 8, age_seconds=200, writable=False, deferring=True)
    assert stale.words == "south · epoch 8 · as of 3 min ago"
    assert stale.line == (
        "You see what was known 3 min ago, from south; new issues and answers are kept safe and filed as soon "
        "as it can be; other changes wait."
    )
    assert Site("south", writable=False).line == "You can read, from south; changes wait."


def test_each_role_has_its_own_places_and_knows_where_it_is() -> None:
    def hrefs(role: Role, path: str = "/") -> dict[str, bool]:
        return {place.href: place.current for _, places in groups_of(Actor(role), path) for place in places}

    assert "/queue" not in hrefs(Role.CUSTOMER)
    assert "/admin/people" not in hrefs(Role.EMPLOYEE)
    assert "/admin/people" in hrefs(Role.ADMINISTRATOR)
    assert [href for href, here in hrefs(Role.EMPLOYEE, "/records/contacts/1").items() if here] == ["/records/contacts"]
    assert [href for href, here in hrefs(Role.CUSTOMER, "/products").items() if here] == ["/products"]
