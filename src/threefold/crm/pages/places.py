"""Where one can go: the navigation of each role. The paths themselves are the routes' own.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from threefold.crm.model.actor import Actor, Role


@dataclass(frozen=True, slots=True)
class Place:
    """``current``: the page that is shown lies here. ``alone``: what lies under it has places of its own."""

    label: str
    href: str
    icon: str
    current: bool = False
    alone: bool = False

    def seen_from(self, path: str) -> Place:
        under = self.href != "/" and not self.alone and path.startswith(self.href + "/")
        return replace(self, current=path == self.href or under)


_CUSTOMER = (
    Place("My issues", "/", "home"),
    Place("Report", "/report", "plus"),
    Place("Products", "/products", "box"),
    Place("Me", "/me", "user"),
)
_EMPLOYEE = (
    (
        "",
        (
            Place("Queue", "/queue", "inbox"),
            Place("Board", "/board", "board"),
            Place("Tasks", "/records/tasks", "task"),
        ),
    ),
    (
        "Records",
        (
            Place("Contacts", "/records/contacts", "people"),
            Place("Accounts", "/records/accounts", "building"),
            Place("Queries", "/records/queries", "question"),
            Place("Requests", "/records/requests", "wrench"),
            Place("Deals", "/records/deals", "deal"),
            Place("Products", "/records/products", "box"),
        ),
    ),
    (
        "Tools",
        (
            Place("Import", "/import", "import"),
            Place("Duplicates", "/duplicates", "merge"),
            Place("Recycle bin", "/bin", "trash"),
            Place("Intake", "/intake", "clock"),
        ),
    ),
)
_ADMINISTRATOR = (
    (
        "Administration",
        (
            Place("Overview", "/admin", "settings", alone=True),
            Place("People", "/admin/people", "user"),
            Place("Teams", "/admin/teams", "people"),
            Place("Service levels", "/admin/policies", "clock"),
            Place("Webhooks", "/admin/webhooks", "hook"),
            Place("Settings", "/admin/settings", "settings"),
            Place("Audit", "/admin/audit", "shield"),
            Place("Read-only", "/admin/read-only", "eye"),
        ),
    ),
)


def groups_of(actor: Actor, path: str) -> list[tuple[str, list[Place]]]:
    """The navigation in its groups, with where one is marked."""
    if actor.role is Role.CUSTOMER:
        groups: tuple[tuple[str, tuple[Place, ...]], ...] = (("", _CUSTOMER),)
    else:
        groups = _EMPLOYEE + (_ADMINISTRATOR if actor.is_administrator else ())
    return [(title, [place.seen_from(path) for place in places]) for title, places in groups]
