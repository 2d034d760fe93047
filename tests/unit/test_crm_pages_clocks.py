"""A case's clock looks in the queue and on the board as it does on the case's own page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from threefold.crm.clocks import sla
from threefold.crm.pages.clocks import next_clock

MONDAY = datetime(2026, 11, 23, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOURS = sla.Office()


@pytest.mark.parametrize(
    ("office", "now", "due_at", "paused_at", "paused_seconds", "state", "due"),
    [
        # On Tuesday at ten 7 of 16 office hours are left; by the wall's clock, 7 of 32.
        (HOURS, MONDAY + 25 * HOUR, MONDAY + 32 * HOUR, None, 0, "green", MONDAY + 32 * HOUR),
        # A pause of 36 h moved what is due after 4 h: 2 h left of 4 is no hurry.
        (None, MONDAY + 38 * HOUR, MONDAY + 40 * HOUR, None, 36 * 3600, "green", MONDAY + 40 * HOUR),
        # While it waits, what is due goes along with the time.
        (None, MONDAY + 9 * HOUR, MONDAY + 4 * HOUR, MONDAY + HOUR, 0, "paused", MONDAY + 12 * HOUR),
    ],
)
def test_a_clock(
    office: sla.Office | None,
    now: datetime,
    due_at: datetime,
    paused_at: datetime | None,
    paused_seconds: int,
    state: str,
    due: datetime,
) -> None:
    row = {
        "priority": 2,
        "created_at": MONDAY,
        "first_responded_at": None,
        "first_response_due_at": due_at,
        "resolution_due_at": None,
        "paused_at": paused_at,
        "paused_seconds": paused_seconds,
    }
    offices = {("queries", 2): office} if office else {}
    clock = next_clock("queries", row, now, offices)
    assert clock is not None
    assert (clock.what, clock.state, clock.due) == ("Answer", state, due)
