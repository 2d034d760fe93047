"""The checker sees each kind of breach that it is there for, and nothing in a good run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.scenarios.checker import Found, Ledger, check


def _ledger(*lines: dict[str, Any]) -> Ledger:
    ledger = Ledger()
    ledger.add("".join(json.dumps(line) + "\n" for line in lines))
    return ledger


def _append(item: str, at: float, position: int, *, key: int = 1, timeline: int = 1, acked: bool = True) -> list[dict]:
    lines = [{"try": item, "kind": "append", "to": key, "at": at}]
    if acked:
        lines.append({"ack": item, "position": position, "timeline": timeline, "site": f"site{timeline}", "at": at + 1})
    return lines


GOOD = [
    *_append("a-1", 1, 1),
    *_append("a-2", 3, 2),
    *_append("a-3", 5, 3, acked=False),
    *_append("a-4", 10, 4, timeline=2),
    {"try": "a-5", "kind": "transfer", "to": [1, 2, 30], "at": 12},
    {"ack": "a-5", "position": 0, "timeline": 2, "site": "site2", "at": 13},
]
ENTRIES = [(1, 1, "a-1"), (1, 2, "a-2"), (1, 3, "a-3"), (1, 4, "a-4")]
TRANSFERS = [("a-5", 1, 2, 30)]
BALANCES = {1: 70, 2: 130}


def test_a_good_run_is_good() -> None:
    assert check(_ledger(*GOOD), Found(ENTRIES, TRANSFERS, BALANCES), balance=100) == []


def test_a_torn_last_line_was_promised_to_nobody() -> None:
    ledger = _ledger(*GOOD)
    ledger.add('{"ack": "a-9", "posi')
    assert "a-9" not in ledger.acked


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (Found([e for e in ENTRIES if e[2] != "a-2"], TRANSFERS, BALANCES), "lost"),
        (Found(ENTRIES, [], {1: 100, 2: 100}), "lost"),
        (Found([*ENTRIES, (1, 5, "a-1")], TRANSFERS, BALANCES), "twice"),
        (Found(ENTRIES, TRANSFERS * 2, {1: 40, 2: 160}), "twice"),
        (Found([*ENTRIES, (1, 5, "b-1")], TRANSFERS, BALANCES), "nobody tried"),
        (Found([(1, 1, "a-2"), (1, 2, "a-1"), *ENTRIES[2:]], TRANSFERS, BALANCES), "not where"),
        (Found([*ENTRIES[:3], (2, 4, "a-4")], TRANSFERS, BALANCES), "not where"),
        (Found(ENTRIES, TRANSFERS, {1: 100, 2: 130}), "accounts"),
    ],
)
def test_each_breach_is_seen(found: Found, word: str) -> None:
    assert any(word in said for said in check(_ledger(*GOOD), found, balance=100))


def test_an_entry_behind_a_younger_one_is_seen() -> None:
    ledger = _ledger(*_append("a-1", 1, 2), *_append("b-1", 5, 1, acked=False))
    assert any("behind" in said for said in check(ledger, Found([(1, 1, "b-1"), (1, 2, "a-1")], [], {}), balance=0))


def test_two_sites_at_once_are_seen_though_nothing_is_lost() -> None:
    ledger = _ledger(*_append("a-1", 1, 1, timeline=2), *_append("b-1", 5, 1, key=2))
    found = Found([(1, 1, "a-1"), (2, 1, "b-1")], [], {})
    assert any("two sites" in said for said in check(ledger, found, balance=0))


def test_a_reply_that_was_long_under_way_is_no_second_site() -> None:
    ledger = _ledger(*_append("a-1", 3, 1, timeline=2), *_append("b-1", 3.5, 1, key=2))
    assert check(ledger, Found([(1, 1, "a-1"), (2, 1, "b-1")], [], {}), balance=0) == []
