"""The demo's CRM: the same seed gives the same rows, and what refers to something finds it."""

from __future__ import annotations

from collections import Counter

from threefold.crm.model.uuid7 import uuid7
from threefold.crm.sample.sample import Sizes, generate

SMALL = Sizes(accounts=200, contacts=800, products=20, queries=500, requests=400, interactions=1500)


def test_a_seed_says_everything() -> None:
    assert list(generate(7, SMALL)) == list(generate(7, SMALL))
    assert list(generate(7, SMALL)) != list(generate(8, SMALL))


def test_the_default_is_a_hundred_thousand_rows() -> None:
    sizes = Sizes()
    total = sizes.accounts + sizes.contacts + sizes.products + sizes.queries + sizes.requests + sizes.interactions
    assert total >= 100_000


def test_references_find_their_rows_and_large_accounts_own_most() -> None:
    tables = {
        str(table.name): [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        for table in generate(1, SMALL)
    }
    ids = {name: {row["id"] for row in rows} for name, rows in tables.items()}
    assert {name: len(found) for name, found in ids.items()} == {name: len(rows) for name, rows in tables.items()}
    for rows in tables.values():
        for row in rows:
            assert row.get("account_id") is None or row["account_id"] in ids["accounts"]
            assert row.get("contact_id") is None or row["contact_id"] in ids["contacts"]
            assert row.get("query_id") is None or row["query_id"] in ids["queries"]
            assert row["updated_at"] >= row["created_at"]
    of_account = Counter(row["account_id"] for row in tables["contacts"])
    largest = sum(count for _, count in of_account.most_common(20))
    assert largest > len(tables["contacts"]) * 0.4


def test_uuid7_sorts_by_time_and_names_its_version() -> None:
    early, late = uuid7(1_000, (1 << 74) - 1), uuid7(1_001, 0)
    assert early < late
    assert (early.version, early.variant) == (7, "specified in RFC 4122")
    assert uuid7(5, 1) != uuid7(5, 2)
    assert uuid7(5, 1 << 62) != uuid7(5, 0)
