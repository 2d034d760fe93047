"""What happens next with a case, in a sentence for the customer who waits for it.

Pure. Times stay values: the template shows them in the reader's own zone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

_LIVING: Final = ("new", "open", "assigned", "in progress")
ENDED: Final = ("answered", "closed", "done", "cancelled")


@dataclass(frozen=True, slots=True)
class Step:
    """``text`` is followed by ``at``, where there is one. ``yours``: the customer is the one to act."""

    text: str
    at: datetime | None = None
    yours: bool = False


def next_step(case: Mapping[str, Any], now: datetime) -> Step:
    """Never a promise that is broken already: what is overdue is said without its time."""
    status = case["status"]
    if status in _LIVING:
        if case["first_responded_at"] is None:
            due = case["first_response_due_at"]
            if due is not None and due > now:
                return Step("We answer by", due)
            return Step(
                "We have it, and answer as soon as we can."
                if due is None
                else "You should have heard from us. We are on it."
            )
        due = case["resolution_due_at"]
        if due is not None and due > now:
            return Step("We are working on it, and mean to be done by", due)
        return Step("We are working on it.")
    if status == "waiting":
        return Step("We wait for your answer.", yours=True)
    if status in ("answered", "done"):
        rated = case["satisfaction"] is not None
        return Step(
            "Nothing more to do. Write if it did not help." if rated else "Did it help? Tell us, or write again.",
            yours=not rated,
        )
    if status == "cancelled":
        return Step("Called off. Write again if you need it after all.")
    return Step("Closed. Write again if it comes back.")
