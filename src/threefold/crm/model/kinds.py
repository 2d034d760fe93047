"""What the CRM keeps: every kind of record and its fields, in one table.

The API's models, its filters and sorting, the lists, forms and columns of the pages, CSV import and the search all
follow from it; the tables themselves are plain SQL in schema/ (a test holds the two against each other). Every record
also has the columns of `COMMON`, which the repository keeps and nobody sends.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Type(StrEnum):
    """How a field's value looks; JSON has text, numbers, booleans, and ISO 8601 for times."""

    TEXT = "text"  # one line
    LONG = "long"  # several lines
    EMAIL = "email"
    INTEGER = "integer"
    CENTS = "cents"  # money, in hundredths of the record's currency
    BOOLEAN = "boolean"
    ID = "id"  # of another record: see `refers`
    IDS = "ids"  # of several
    CHOICE = "choice"
    TIME = "time"  # an instant, UTC
    DATE = "date"


@dataclass(frozen=True, slots=True)
class Field:
    """One field. ``most``: characters for text, the largest value for numbers, the most entries for ids."""

    name: str
    type: Type = Type.TEXT
    label: str = ""  # for people; empty: the name with spaces
    required: bool = False
    refers: str = ""  # the kind that an ID is of
    choices: tuple[str, ...] = ()
    default: object = None
    most: int = 200
    least: int = 0
    kept: bool = False  # by the service alone: read, filtered and sorted by, never sent
    customers_write: bool = False  # a customer may give it when reporting an issue

    @property
    def title(self) -> str:
        return self.label or self.name.removesuffix("_id").replace("_", " ").capitalize()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record: the table crm.``name``, and /api/v1/``name``.

    ``columns``: of lists, in order; the first is the record's title. ``searched``: what the global search looks into.
    ``owner``: the column that says whose contact a record is, which is how customers are scoped; empty: not for
    customers, except kinds in `CUSTOMERS_READ`.
    """

    name: str
    one: str
    fields: tuple[Field, ...]
    columns: tuple[str, ...]
    searched: tuple[str, ...] = ()
    owner: str = ""
    sort: str = "-updated_at"
    administrators_only: bool = False

    @property
    def title(self) -> str:
        return self.columns[0]

    def field(self, name: str) -> Field | None:
        return next((field for field in (*self.fields, *COMMON) if field.name == name), None)


COMMON: Final = (
    Field("id", Type.ID, kept=True),
    Field("version", Type.INTEGER, kept=True),
    Field("created_at", Type.TIME, kept=True),
    Field("created_by", Type.ID, refers="users", kept=True),
    Field("created_on", Type.ID, refers="devices", kept=True),
    Field("updated_at", Type.TIME, kept=True),
    Field("updated_by", Type.ID, refers="users", kept=True),
    Field("updated_on", Type.ID, refers="devices", kept=True),
    Field("deleted_at", Type.TIME, kept=True),
)

QUERY_STATES: Final = ("new", "open", "waiting", "answered", "closed")
REQUEST_STATES: Final = ("new", "assigned", "in progress", "waiting", "done", "cancelled")
REQUEST_KINDS: Final = ("repair", "delivery", "return", "change", "complaint")
CHANNELS: Final = ("mail", "call", "chat", "visit", "note")
STAGES: Final = ("lead", "qualified", "proposal", "negotiation", "won", "lost")
PRIORITIES: Final = {1: "urgent", 2: "high", 3: "normal", 4: "low"}
LINKED: Final = ("accounts", "contacts", "products", "queries", "requests", "deals", "tasks")  # may carry tags, files

# The case: what a query and a request have in common.
_CASE: Final = (
    Field("account_id", Type.ID, refers="accounts"),
    Field("contact_id", Type.ID, label="Customer", refers="contacts", required=True),
    Field("product_id", Type.ID, refers="products", customers_write=True),
    Field("priority", Type.INTEGER, default=3, least=1, most=4),
    Field("assignee_id", Type.ID, refers="users"),
    Field("team_id", Type.ID, refers="teams"),
    Field("watchers", Type.IDS, refers="users", default=(), most=50),
    Field("first_response_due_at", Type.TIME, label="Answer due", kept=True),
    Field("first_responded_at", Type.TIME, label="First answered", kept=True),
    Field("resolution_due_at", Type.TIME, label="Resolution due", kept=True),
    Field("resolved_at", Type.TIME, label="Resolved", kept=True),
    Field("paused_at", Type.TIME, label="Clock paused", kept=True),
    Field("paused_seconds", Type.INTEGER, kept=True, most=2**31 - 1),
    Field("escalated_at", Type.TIME, label="Escalated", kept=True),
    Field("merged_into_id", Type.ID, label="Merged into", kept=True),
    Field("satisfaction", Type.INTEGER, least=1, most=5, customers_write=True),
)

_KINDS: Final = (
    Kind(
        "accounts",
        "account",
        (
            Field("name", required=True),
            Field("industry", default=""),
            Field("country", default="", most=2),
            Field("city", default=""),
            Field("employees", Type.INTEGER, least=1, most=10_000_000),
            Field("website", default=""),
            Field("owner_id", Type.ID, refers="users"),
        ),
        columns=("name", "industry", "city", "country", "employees", "updated_at"),
        searched=("name", "city"),
    ),
    Kind(
        "contacts",
        "contact",
        (
            Field("full_name", label="Name", required=True),
            Field("email", Type.EMAIL, required=True),
            Field("phone", default="", most=40),
            Field("role", default=""),
            Field("language", default="en", most=10),
            Field("account_id", Type.ID, refers="accounts"),
            Field("do_not_contact", Type.BOOLEAN, default=False),
            Field("consent_mail", Type.BOOLEAN, label="Consents to mail", default=False),
            Field("consent_phone", Type.BOOLEAN, label="Consents to calls", default=False),
        ),
        columns=("full_name", "email", "phone", "role", "account_id", "updated_at"),
        searched=("full_name", "email", "phone"),
        owner="id",
    ),
    Kind(  # contacts and accounts, N:M
        "affiliations",
        "affiliation",
        (
            Field("contact_id", Type.ID, refers="contacts", required=True),
            Field("account_id", Type.ID, refers="accounts", required=True),
            Field("role", default=""),
        ),
        columns=("contact_id", "account_id", "role", "updated_at"),
    ),
    Kind(
        "products",
        "product",
        (
            Field("sku", label="SKU", required=True, most=60),
            Field("name", required=True),
            Field("category", default=""),
            Field("description", Type.LONG, default="", most=10_000),
            Field("price_cents", Type.CENTS, label="Price", required=True, most=10**12),
            Field("currency", default="EUR", most=3, least=3),
        ),
        columns=("name", "sku", "category", "price_cents", "updated_at"),
        searched=("name", "sku"),
    ),
    Kind(  # a product's other prices: by currency, from a day on
        "prices",
        "price",
        (
            Field("product_id", Type.ID, refers="products", required=True),
            Field("currency", required=True, most=3, least=3),
            Field("price_cents", Type.CENTS, label="Price", required=True, most=10**12),
            Field("valid_from", Type.DATE, required=True),
        ),
        columns=("product_id", "currency", "price_cents", "valid_from"),
        sort="-valid_from",
    ),
    Kind(
        "queries",
        "query",
        (
            Field("subject", required=True, customers_write=True),
            Field("body", Type.LONG, default="", most=20_000, customers_write=True),
            Field("status", Type.CHOICE, choices=QUERY_STATES, default="new"),
            *_CASE,
        ),
        columns=("subject", "contact_id", "status", "priority", "assignee_id", "resolution_due_at", "updated_at"),
        searched=("subject",),
        owner="contact_id",
    ),
    Kind(
        "requests",
        "request",
        (
            Field("subject", required=True, customers_write=True),
            Field("body", Type.LONG, default="", most=20_000, customers_write=True),
            Field("kind", Type.CHOICE, choices=REQUEST_KINDS, required=True, customers_write=True),
            Field("status", Type.CHOICE, choices=REQUEST_STATES, default="new"),
            Field("due_at", Type.TIME),
            *_CASE,
        ),
        columns=(
            "subject",
            "kind",
            "contact_id",
            "status",
            "priority",
            "assignee_id",
            "resolution_due_at",
            "updated_at",
        ),
        searched=("subject",),
        owner="contact_id",
    ),
    Kind(
        "interactions",
        "interaction",
        (
            Field("contact_id", Type.ID, refers="contacts", required=True),
            Field("account_id", Type.ID, refers="accounts"),
            Field("query_id", Type.ID, refers="queries"),
            Field("request_id", Type.ID, refers="requests"),
            Field("channel", Type.CHOICE, choices=CHANNELS, default="note"),
            Field("direction", Type.CHOICE, choices=("in", "out"), default="out"),
            Field("internal", Type.BOOLEAN, label="For employees only", default=False),
            Field("body", Type.LONG, required=True, most=20_000),
        ),
        columns=("body", "channel", "direction", "contact_id", "created_at"),
        owner="contact_id",
        sort="-created_at",
    ),
    Kind(
        "tasks",
        "task",
        (
            Field("subject", required=True),
            Field("body", Type.LONG, default="", most=20_000),
            Field("due_at", Type.TIME),
            Field("done_at", Type.TIME),
            Field("assignee_id", Type.ID, refers="users"),
            Field("record_kind", Type.CHOICE, choices=LINKED),
            Field("record_id", Type.ID),
        ),
        columns=("subject", "assignee_id", "due_at", "done_at", "updated_at"),
        searched=("subject",),
    ),
    Kind(
        "deals",
        "deal",
        (
            Field("name", required=True),
            Field("account_id", Type.ID, refers="accounts", required=True),
            Field("contact_id", Type.ID, refers="contacts"),
            Field("stage", Type.CHOICE, choices=STAGES, default="lead"),
            Field("value_cents", Type.CENTS, label="Value", default=0, most=10**14),
            Field("currency", default="EUR", most=3, least=3),
            Field("close_on", Type.DATE),
            Field("owner_id", Type.ID, refers="users"),
        ),
        columns=("name", "account_id", "stage", "value_cents", "close_on", "owner_id", "updated_at"),
        searched=("name",),
    ),
    Kind(
        "tags",
        "tag",
        (Field("name", required=True, most=60), Field("colour", default="", most=20)),
        ("name",),
        sort="name",
    ),
    Kind(
        "taggings",
        "tagging",
        (
            Field("tag_id", Type.ID, refers="tags", required=True),
            Field("record_kind", Type.CHOICE, choices=LINKED, required=True),
            Field("record_id", Type.ID, required=True),
        ),
        columns=("tag_id", "record_kind", "record_id"),
    ),
    Kind(
        "teams",
        "team",
        (Field("name", required=True), Field("description", default="")),
        columns=("name", "description", "updated_at"),
        sort="name",
        administrators_only=True,
    ),
    Kind(
        "users",
        "user",
        (
            Field("full_name", label="Name", required=True),
            Field("email", Type.EMAIL, required=True),
            Field("role", Type.CHOICE, choices=("administrator", "employee", "customer"), required=True),
            Field("team_id", Type.ID, refers="teams"),
            Field("contact_id", Type.ID, label="Customer", refers="contacts"),
            Field("active", Type.BOOLEAN, default=True),
        ),
        columns=("full_name", "email", "role", "team_id", "active", "updated_at"),
        sort="full_name",
        administrators_only=True,
    ),
    Kind(
        "policies",
        "policy",
        (
            Field("name", required=True),
            Field("record_kind", Type.CHOICE, label="For", choices=("queries", "requests"), required=True),
            Field("priority", Type.INTEGER, required=True, least=1, most=4),
            Field("first_response_minutes", Type.INTEGER, required=True, least=1, most=525_600),
            Field("resolution_minutes", Type.INTEGER, required=True, least=1, most=525_600),
            Field("office_hours", Type.BOOLEAN, label="Office hours only", default=False),
            Field("escalate_to_id", Type.ID, label="Escalates to", refers="teams"),
        ),
        columns=("name", "record_kind", "priority", "first_response_minutes", "resolution_minutes", "office_hours"),
        sort="name",
        administrators_only=True,
    ),
)

KINDS: Final = {kind.name: kind for kind in _KINDS}
CASES: Final = ("queries", "requests")
MERGED: Final = ("contacts", "accounts")  # two records of these may turn out to be one
CUSTOMERS_READ: Final = ("products", "prices")  # whole, besides what is their own
