"""A sample company, for whoever looks at the CRM for the first time: small, alive, and of today.

What sample.py makes, as if it had happened up to now, and around it what a team has: people and teams, service levels,
clocks that run, deals, tasks and tags. Loaded into an empty CRM only, in one transaction.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg

from threefold.crm.clocks import case_states
from threefold.crm.clocks.policies import DEFAULTS
from threefold.crm.model.kinds import STAGES
from threefold.crm.model.uuid7 import uuid7
from threefold.crm.sample.sample import Sizes, Table, load
from threefold.kernel.errors import Refused

SMALL: Final = Sizes(accounts=120, contacts=400, products=40, queries=420, requests=280, interactions=1_500)
ADMINISTRATOR: Final = ("Ada Okafor", "ada@threefold.example")
_EMPLOYEES: Final = (
    ("Bilal Siddiqui", "bilal@threefold.example", "Support"),
    ("Carla Moreno", "carla@threefold.example", "Support"),
    ("Dilnoza Karimova", "dilnoza@threefold.example", "Field service"),
    ("Emil Lindqvist", "emil@threefold.example", "Sales"),
)
_TEAMS: Final = ("Support", "Field service", "Sales")
_TAGS: Final = (("key account", "violet"), ("renewal", "blue"), ("at risk", "red"), ("partner", "green"))
_TASKS: Final = ("Call back about the offer", "Send the contract", "Ask for a reference", "Check the delivery date")
_TEAM_OF: Final = {"queries": "Support", "requests": "Field service"}
_ENDED: Final = frozenset({*case_states.ENDED["queries"], *case_states.ENDED["requests"]})
_CLOCK: Final[tuple[LiteralString, ...]] = (
    *("first_response_due_at", "first_responded_at", "resolution_due_at", "resolved_at", "paused_at"),
    *("assignee_id", "team_id"),
)


@dataclass(frozen=True, slots=True)
class Company:
    """``customer``: a contact with something to look at; both people still have to be invited."""

    rows: dict[str, int]
    administrator: str
    administrator_email: str
    customer: UUID


def load_company(connection: psycopg.Connection[Any], seed: int, now: datetime) -> Company:
    """Raises Refused where the CRM holds accounts already."""
    with connection.transaction(), connection.cursor() as cursor:
        if cursor.execute("SELECT 1 FROM crm.accounts LIMIT 1").fetchone():
            raise Refused("this CRM is not empty", hint="a sample company goes into a new one only")
        made = _Around(cursor, seed, now)
        rows = load(connection, seed, SMALL, now, made.lately)
        rows |= {"teams": made.teams(), "users": made.users(), "policies": made.policies()}
        rows |= {"deals": made.deals(), "tasks": made.tasks(), "taggings": made.tags()}
        return Company(rows, *ADMINISTRATOR, made.customer())


class _Around:
    """What a team has around its customers."""

    def __init__(self, cursor: psycopg.Cursor[Any], seed: int, now: datetime) -> None:
        self._cursor = cursor
        self._chance = random.Random(seed)
        self._now = now
        self._teams = {name: self._key() for name in _TEAMS}
        self._people = [(self._key(), team) for _, _, team in _EMPLOYEES]
        self._cases: dict[UUID, tuple[datetime, datetime]] = {}  # from when until when each was worked on

    def lately(self, table: Table) -> Table:
        """Open cases were reported lately, most are somebody's, a few are late; what was said was said meanwhile."""
        made = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        if table.name in _TEAM_OF:
            made = [case | self._clock(case, _TEAM_OF[table.name]) for case in made]
            self._cases |= {case["id"]: (case["created_at"], case["updated_at"]) for case in made}
        elif table.name == "interactions":
            for said in made:
                began, until = self._cases[said["query_id"] or said["request_id"]]
                said["created_at"] = said["updated_at"] = began + (until - began) * self._chance.random()
        columns = (*table.columns, *(name for name in _CLOCK if table.name in _TEAM_OF))
        return Table(table.name, columns, [tuple(row[name] for name in columns) for row in made])

    def teams(self) -> int:
        return self._insert("teams", "id, name", [(key, name) for name, key in self._teams.items()])

    def users(self) -> int:
        rows: list[tuple[Any, ...]] = [(self._key(), *ADMINISTRATOR, "administrator", None)]
        for (key, team), (name, email, _) in zip(self._people, _EMPLOYEES, strict=True):
            rows.append((key, name, email, "employee", self._teams[team]))
        return self._insert("users", "id, full_name, email, role, team_id", rows)

    def policies(self) -> int:
        rows = [
            (
                self._key(),
                f"{kind.capitalize()}, priority {priority}",
                kind,
                priority,
                first,
                whole,
                self._teams["Support"],
            )
            for kind in ("queries", "requests")
            for priority, (first, whole) in DEFAULTS.items()
        ]
        columns = "id, name, record_kind, priority, first_response_minutes, resolution_minutes, escalate_to_id"
        return self._insert("policies", columns, rows)

    def _clock(self, case: Mapping[str, Any], team: str) -> dict[str, Any]:
        first, whole = (timedelta(minutes=minutes) for minutes in DEFAULTS[case["priority"]])
        status, ended = case["status"], case["status"] in _ENDED
        created, updated = case["created_at"], case["updated_at"]
        if not ended:
            age = (first if status == "new" else whole) * (self._chance.random() ** 0.8 * 1.15)
            created, updated = self._now - age, self._now - age / 3
        staff = [key for key, of in self._people if of == team]
        return {
            "created_at": created,
            "updated_at": updated,
            "first_response_due_at": created + first,
            "first_responded_at": None
            if status == "new"
            else created + min(first, updated - created) * self._chance.random(),
            "resolution_due_at": created + whole,
            "resolved_at": updated if ended else None,
            "paused_at": updated if status == "waiting" else None,
            "assignee_id": None if status == "new" else self._chance.choice(staff),
            "team_id": self._teams[team],
        }

    def deals(self) -> int:
        accounts = self._ids("SELECT id, name FROM crm.accounts ORDER BY id LIMIT 60")
        sales = [key for key, team in self._people if team == "Sales"]
        rows = []
        for id_, name in self._chance.sample(accounts, 36):
            stage = self._chance.choice(STAGES)
            value = int(self._chance.lognormvariate(13.5, 0.9)) // 10_000 * 10_000
            what = f"{name}: {self._chance.choice(('renewal', 'new branch', 'upgrade', 'pilot'))}"
            rows.append((self._key(), what, id_, stage, value, self._day(stage), self._chance.choice(sales)))
        return self._insert("deals", "id, name, account_id, stage, value_cents, close_on, owner_id", rows)

    def _day(self, stage: str) -> date:
        days = self._chance.randrange(3, 120)
        return (self._now + timedelta(days=-days if stage in {"won", "lost"} else days)).date()

    def tasks(self) -> int:
        accounts = self._ids("SELECT id, name FROM crm.accounts ORDER BY id LIMIT 60")
        rows = []
        for id_, _ in self._chance.sample(accounts, 18):
            due = self._now + timedelta(hours=self._chance.randrange(-20, 200))
            who = self._chance.choice(self._people)[0]
            rows.append((self._key(), self._chance.choice(_TASKS), due, who, "accounts", id_))
        return self._insert("tasks", "id, subject, due_at, assignee_id, record_kind, record_id", rows)

    def tags(self) -> int:
        tags = [(self._key(), name, colour) for name, colour in _TAGS]
        self._insert("tags", "id, name, colour", tags)
        accounts = self._ids("SELECT id, name FROM crm.accounts ORDER BY id LIMIT 60")
        rows = [(self._key(), self._chance.choice(tags)[0], "accounts", id_) for id_, _ in accounts[:30]]
        return self._insert("taggings", "id, tag_id, record_kind, record_id", rows)

    def customer(self) -> UUID:
        """The one with most to look at, something open among it."""
        self._cursor.execute(
            "SELECT contact_id FROM crm.queries GROUP BY contact_id"
            " HAVING bool_or(status IN ('new', 'open', 'waiting')) ORDER BY count(*) DESC, contact_id LIMIT 1"
        )
        row = self._cursor.fetchone()
        if row is None:
            raise Refused("this seed makes no customer with an open query", hint="take another seed")
        return UUID(str(row[0]))

    def _ids(self, query: str) -> list[tuple[UUID, str]]:
        return list(self._cursor.execute(query.encode()).fetchall())

    def _insert(self, table: str, columns: str, rows: list[tuple[Any, ...]]) -> int:
        places = ", ".join(["%s"] * len(rows[0]))
        statement = f"INSERT INTO crm.{table} ({columns}) VALUES ({places})"  # noqa: S608 - words of this file
        self._cursor.executemany(statement.encode(), rows)
        return len(rows)

    def _key(self) -> UUID:
        return uuid7(int(self._now.timestamp() * 1000), self._chance.getrandbits(74))
