"""A plausible CRM, made from a seed: the same seed gives the same rows, byte for byte.

Skewed as real ones are: a few large accounts own most contacts and cases, a few products cause most trouble, old
cases are closed and recent ones open, and interactions gather where something is going on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import psycopg
from mimesis import Locale
from mimesis.providers import Address, Person
from psycopg import sql

from threefold.crm.model.uuid7 import uuid7
from threefold.crm.sql.migrate import migrate

Row = tuple[Any, ...]
T = TypeVar("T")

# The sample's own present: fixed, so that a seed says everything.
PRESENT = datetime(2026, 11, 1, 12, tzinfo=UTC)
YEARS_BACK = 4

_COUNTRIES = ("PK", "DE", "GB", "US", "AE", "FR", "NL", "TR", "IN", "SG")
_INDUSTRIES = ("Retail", "Manufacturing", "Health", "Logistics", "Education", "Finance", "Energy", "Food", "Travel")
_FORMS = ("Ltd", "GmbH", "Inc", "BV", "LLC", "SA")
_ROLES = ("Buyer", "Owner", "Office manager", "Engineer", "Accountant", "Director", "Support lead")
_CATEGORIES = ("Router", "Terminal", "Printer", "Scanner", "Licence", "Service plan", "Sensor", "Camera")
_CHANNELS = ("mail", "mail", "mail", "call", "call", "chat", "chat", "note", "visit")
_KINDS = ("repair", "repair", "delivery", "return", "change", "complaint")
_QUESTIONS = (
    "How do I move {p} to another office?",
    "{p}: which invoice address do you have for us?",
    "Is {p} compatible with what we bought last year?",
    "{p} shows a red light after the update",
    "What does it cost to add five users to {p}?",
    "When does our contract for {p} end?",
)
_CLOSINGS = ("Thank you in advance.", "It is rather urgent.", "Please call me back.", "A mail is enough.")
_REPLIES = (
    "Thank you, we are looking into it and will call you before noon.",
    "A colleague changed the setting; please try again and tell us.",
    "The part is on its way; the parcel number follows by mail.",
    "That fixed it, thank you. You may close this.",
    "We tried what you wrote, and it is still the same.",
    "Please find the offer attached; it is valid for thirty days.",
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows per table; the defaults are a company of middling size, 106,150 rows."""

    accounts: int = 4_000
    contacts: int = 16_000
    products: int = 150
    queries: int = 18_000
    requests: int = 14_000
    interactions: int = 54_000


@dataclass(frozen=True, slots=True)
class Table:
    name: LiteralString
    columns: tuple[LiteralString, ...]
    rows: Sequence[Row]


def load(
    connection: psycopg.Connection[Any],
    seed: int,
    sizes: Sizes | None = None,
    present: datetime = PRESENT,
    told: Callable[[Table], Table] = lambda table: table,
) -> dict[str, int]:
    """Create the schema and fill it, in one transaction: afterwards all of it is there, or none. Rows per table.

    ``told``: changes a table's rows before they are written, which is the last time that nobody logs it.
    """
    counts = {}
    with connection.transaction(), connection.cursor() as cursor:
        migrate(connection)
        # The search's words are sorted into their indexes once, at the end, and not a few at a time.
        cursor.execute("SET LOCAL gin_pending_list_limit = '256MB'; SET LOCAL maintenance_work_mem = '128MB'")
        for table in map(told, generate(seed, sizes or Sizes(), present)):
            names = sql.SQL(", ").join(sql.Identifier(column) for column in table.columns)
            target = sql.SQL("COPY {}.{} ({}) FROM STDIN").format(
                sql.Identifier("crm"), sql.Identifier(table.name), names
            )
            with cursor.copy(target) as copy:
                for row in table.rows:
                    copy.write_row(row)
            counts[str(table.name)] = len(table.rows)
        cursor.execute(
            "SELECT gin_clean_pending_list(c.oid) FROM pg_class c JOIN pg_am a ON a.oid = c.relam"
            " WHERE c.relnamespace = 'crm'::regnamespace AND a.amname = 'gin' AND c.relkind = 'i'"
        )
        cursor.execute("ANALYZE crm.accounts, crm.contacts, crm.products, crm.queries, crm.requests, crm.interactions")
    return counts


def generate(seed: int, sizes: Sizes, present: datetime = PRESENT) -> Iterator[Table]:
    """Tables in the order that their references allow."""
    make = _Maker(seed, present)
    accounts = [make.account() for _ in range(sizes.accounts)]
    yield Table("accounts", ("id", "name", "industry", "country", "city", "employees", *_TIMES), accounts)

    of_account = make.skewed([row[0] for row in accounts], 1.1)
    contacts = [make.contact(of_account()) for _ in range(sizes.contacts)]
    yield Table("contacts", ("id", "account_id", "full_name", "email", "phone", "role", *_TIMES), contacts)

    products = [make.product(number) for number in range(sizes.products)]
    yield Table("products", ("id", "sku", "name", "category", "price_cents", *_TIMES), products)

    of_contact = make.skewed([(row[1], row[0]) for row in contacts], 0.7)
    of_product = make.skewed([(row[0], row[2]) for row in products], 0.9)
    case = ("id", "account_id", "contact_id", "product_id")
    queries = [make.query(of_contact(), of_product()) for _ in range(sizes.queries)]
    yield Table("queries", (*case, "subject", "body", "status", "priority", *_TIMES), queries)

    requests = [make.request(of_contact(), of_product()) for _ in range(sizes.requests)]
    yield Table("requests", (*case, "kind", "subject", "body", "status", "priority", "due_at", *_TIMES), requests)

    of_case = make.skewed([(*q[:3], None) for q in queries] + [(None, *r[1:3], r[0]) for r in requests], 0.6)
    interactions = [make.interaction(of_case()) for _ in range(sizes.interactions)]
    about = ("id", "account_id", "contact_id", "query_id", "request_id")
    yield Table("interactions", (*about, "channel", "direction", "body", *_TIMES), interactions)


_TIMES: tuple[LiteralString, LiteralString] = ("created_at", "updated_at")


class _Maker:
    """One row at a time, all chance from one seed."""

    def __init__(self, seed: int, present: datetime) -> None:
        self._chance = random.Random(seed)
        self._present = present
        self._person = Person(Locale.EN, seed=seed)
        self._address = Address(Locale.EN, seed=seed)

    def skewed(self, things: Sequence[T], power: float) -> Callable[[], T]:
        """Draws the first ones far more often: weight 1/rank^power (Zipf), the ranks dealt out at random."""
        ranked = self._chance.sample(things, len(things))
        bounds = list(accumulate(1 / rank**power for rank in range(1, len(ranked) + 1)))
        return lambda: self._chance.choices(ranked, cum_weights=bounds)[0]

    def account(self) -> Row:
        created, updated = self._times(recent=0.5)
        staff = max(1, int(self._chance.lognormvariate(3.2, 1.4)))
        place = (self._one(_COUNTRIES), self._address.city())
        field = self._one(_INDUSTRIES)
        middle = self._one((field, field, "Group", "Brothers", "Trading"))
        name = f"{self._person.last_name()} {middle} {self._one(_FORMS)}"
        return (self._key(created), name, field, *place, staff, created, updated)

    def contact(self, account: UUID) -> Row:
        created, updated = self._times(recent=0.7)
        first, last = self._person.first_name(), self._person.last_name()
        mail = f"{first}.{last}{self._chance.randrange(100)}@example.com".lower().replace(" ", "")
        phone = f"+{self._chance.randrange(1, 99)} {self._chance.randrange(10**8, 10**9)}"
        return (self._key(created), account, f"{first} {last}", mail, phone, self._one(_ROLES), created, updated)

    def product(self, number: int) -> Row:
        created, updated = self._times(recent=0.3)
        category = self._one(_CATEGORIES)
        name = f"{category} {self._one('ABCDEFGHKLMN')}{self._chance.randrange(10, 99)}"
        cents = int(self._chance.lognormvariate(9.5, 1.2)) // 100 * 100 + 99
        return (self._key(created), f"{category[:3].upper()}-{number:04}", name, category, cents, created, updated)

    def query(self, contact: tuple[UUID, UUID], product: tuple[UUID, str]) -> Row:
        created, updated = self._times(recent=1.2)
        status = self._state(created, ("new", "open", "waiting"), ("answered", "closed", "closed"))
        subject = self._one(_QUESTIONS).format(p=product[1])
        body = f"Good day, we have a question. {subject} {self._one(_CLOSINGS)}"
        priority = self._chance.choices((1, 2, 3, 4), (1, 4, 10, 5))[0]
        case = (self._key(created), *contact, product[0])
        return (*case, subject, body, status, priority, created, updated)

    def request(self, contact: tuple[UUID, UUID], product: tuple[UUID, str]) -> Row:
        created, updated = self._times(recent=1.2)
        status = self._state(created, ("new", "assigned", "in progress"), ("done", "done", "cancelled"))
        kind = self._one(_KINDS)
        due = created + timedelta(days=self._chance.randrange(1, 30))
        subject = f"{kind.capitalize()}: {product[1]}"
        body = f"{subject}, as agreed on the telephone. {self._one(_CLOSINGS)}"
        priority = self._chance.choices((1, 2, 3, 4), (1, 4, 10, 5))[0]
        case = (self._key(created), *contact, product[0])
        return (*case, kind, subject, body, status, priority, due, created, updated)

    def interaction(self, case: tuple[UUID | None, UUID, UUID, UUID | None]) -> Row:
        query, account, contact, request = case
        created, _ = self._times(recent=1.2)
        said = (self._one(_CHANNELS), self._one(("in", "out")), self._one(_REPLIES))
        return (self._key(created), account, contact, query, request, *said, created, created)

    def _one(self, choices: Sequence[T]) -> T:
        return self._chance.choice(choices)

    def _times(self, *, recent: float) -> tuple[datetime, datetime]:
        """Created and last changed; ``recent`` above 1 gathers rows near the present."""
        age = self._chance.random() ** recent * YEARS_BACK * 365 * 86400
        created = self._present - timedelta(seconds=int(age))
        return created, created + timedelta(seconds=int(self._chance.random() ** 4 * age))

    def _state(self, created: datetime, living: Sequence[str], settled: Sequence[str]) -> str:
        days = (self._present - created).days
        return self._one(living if self._chance.random() < 1 / (1 + days / 10) else settled)

    def _key(self, created: datetime) -> UUID:
        return uuid7(int(created.timestamp() * 1000), self._chance.getrandbits(74))
