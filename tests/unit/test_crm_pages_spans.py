"""Lengths of time as administrators type them for service levels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threefold.crm.pages.spans import MOST, minutes_of, span


@given(st.integers(1, MOST))
def test_what_is_shown_is_understood(minutes: int) -> None:
    assert minutes_of(span(minutes)) == minutes


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("30 min", 30),
        ("30", 30),
        ("4h", 240),
        (" 1 D, 4 hours ", 1_680),
        ("2 days", 2_880),
        ("90 m", 90),
        ("1 hour 1 minute", 61),
        ("\u0664 h", 240),
    ],
)
def test_what_people_type(typed: str, meant: int) -> None:
    assert minutes_of(typed) == meant


@pytest.mark.parametrize("typed", ["", "soon", "0", "-4 h", "1.5 h", "4 hh", "4 s", "366 d", "h", "9" * 40])
def test_what_nobody_can_mean(typed: str) -> None:
    assert minutes_of(typed) is None
