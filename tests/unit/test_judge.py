"""What a recovered row may look like, given what was promised of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from threefold.demo.judge import judge_row, promises
from threefold.demo.ledger import GONE, Ack, Ledger, Row

KEY = ("contacts", "1")
T0, T1, T2 = (datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC) for second in (0, 1, 2))


def at(version: int, phone: str = "") -> dict[str, Any]:
    return {"id": "1", "version": version, "phone": phone or str(version)}


def row(version: int) -> Row:
    return Row(*KEY, version, {} if version == GONE else at(version))


def ledger(acked: list[int], tried: list[int] | None = None) -> Ledger:
    names = {f"a{version}": row(version) for version in acked} | {
        f"t{version}": row(version) for version in tried or []
    }
    return Ledger({name: (found,) for name, found in names.items()}, {f"a{v}": Ack(T1, 1.0) for v in acked})


def verdict(given: Ledger, found: dict[str, Any] | None, until: datetime | None = None) -> str | None:
    problem = judge_row(KEY, promises(given, until)[KEY], found)
    return problem and problem[0]


@pytest.mark.parametrize(
    ("acked", "tried", "found", "expected"),
    [
        ([2, 3], [], at(3), None),
        ([3, 2], [], at(3), None),  # acks written down in another order than the commits
        ([2, 3], [], at(2), "lost"),
        ([2, 3], [], None, "lost"),
        ([2], [], at(2, "other"), "altered"),
        ([2], [3], at(3), None),  # its reply was lost, not the change
        ([2], [3], at(3, "other"), "unexplained"),
        ([2], [3], at(2), None),
        ([2], [], at(3), "unexplained"),
        ([2, GONE], [], None, None),
        ([2, GONE], [], at(2), "lost"),
        ([2], [GONE], None, None),
        ([], [2], at(1), None),
        ([], [2], at(4), "unexplained"),
        ([], [1], None, None),
        ([], [1], at(1), None),
    ],
)
def test_a_row(acked: list[int], tried: list[int], found: dict[str, Any] | None, expected: str | None) -> None:
    assert verdict(ledger(acked, tried), found) == expected


def test_what_was_acknowledged_after_the_moment_is_not_asked_for() -> None:
    given = ledger([2])
    assert verdict(given, at(1), until=T0) is None
    assert verdict(given, at(2), until=T0) is None
    assert verdict(given, at(1), until=T2) == "lost"
