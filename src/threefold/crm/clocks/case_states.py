"""The states of a case: which may follow which, and what each does to its clocks.

    query    new, open, waiting, answered, closed
    request  new, assigned, in progress, waiting, done, cancelled

Somebody owes something while a case is new or being worked on: its clocks run. They stand while it waits for the
customer, and once it has ended; when it goes on, what is due has moved by the time that they stood. So a case that is
opened again has as much time left as when it ended.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from threefold.crm.clocks import sla
from threefold.crm.model.errors import Conflict, Invalid

WAITING: Final = "waiting"
ENDED: Final = {"queries": ("answered", "closed"), "requests": ("done", "cancelled")}
RESOLVED: Final = {"queries": ("answered", "closed"), "requests": ("done",)}  # may be rated
REOPENED: Final = {"queries": "open", "requests": "in progress"}
ASSIGNED: Final = {"queries": "open", "requests": "assigned"}  # a new case with an assignee is one being worked on
MERGED: Final = {"queries": "closed", "requests": "cancelled"}

FOLLOWS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "queries": {
        "new": ("open", "waiting", "answered", "closed"),
        "open": ("waiting", "answered", "closed"),
        "waiting": ("open", "answered", "closed"),
        "answered": ("open", "waiting", "closed"),
        "closed": ("open",),
    },
    "requests": {
        "new": ("assigned", "in progress", "waiting", "done", "cancelled"),
        "assigned": ("in progress", "waiting", "done", "cancelled"),
        "in progress": ("assigned", "waiting", "done", "cancelled"),
        "waiting": ("assigned", "in progress", "done", "cancelled"),
        "done": ("in progress",),
        "cancelled": ("in progress",),
    },
}


def check(kind: str, old: str, new: str) -> None:
    """Raises Conflict where ``new`` may not follow ``old``, naming what may."""
    follows = FOLLOWS[kind]
    if new not in follows:
        raise Invalid(f"there is no status '{new}'", {"status": f"has to be one of {', '.join(follows)}"})
    if new != old and new not in follows[old]:
        raise Conflict(
            f"a case that is {old} cannot become {new}", hint=f"from there it may become {_either(follows[old])}"
        )


def stands(kind: str, status: str) -> bool:
    """Whether the clocks stand in that state."""
    return status == WAITING or status in ENDED[kind]


def running(kind: str) -> tuple[str, ...]:
    """The states in which the clocks run; as the indexes of 010-cases.sql have them."""
    return tuple(status for status in FOLLOWS[kind] if not stands(kind, status))


def become(kind: str, old: Mapping[str, Any], status: str, now: datetime, office: sla.Office | None) -> dict[str, Any]:
    """Everything that changes with the status, the clocks included. ``old``: the case as it is."""
    check(kind, old["status"], status)
    if status == old["status"]:
        return {}
    changes: dict[str, Any] = {"status": status}
    stood_since = old["paused_at"] or old["resolved_at"]
    ended = status in ENDED[kind]
    if ended and old["resolved_at"]:  # answered, then closed: it ended when it was answered
        return changes
    if stood_since:
        changes["paused_seconds"] = old["paused_seconds"] + sla.between(stood_since, now, office)
        changes["paused_at"] = changes["resolved_at"] = None
        if old["resolution_due_at"]:
            changes["resolution_due_at"] = sla.moved(old["resolution_due_at"], stood_since, now, office)
        if old["first_response_due_at"] and not old["first_responded_at"]:
            changes["first_response_due_at"] = sla.moved(old["first_response_due_at"], stood_since, now, office)
    if ended:
        changes["resolved_at"] = now
    elif status == WAITING:
        changes["paused_at"] = now
    return {name: value for name, value in changes.items() if value != old[name]}


def _either(states: tuple[str, ...]) -> str:
    *most, last = states
    return f"{', '.join(most)} or {last}" if most else last
