"""What is set for the whole CRM: when somebody is there, how much customers may send, how long the audit is kept."""

from __future__ import annotations

from datetime import time
from typing import Annotated, Any, Final
from zoneinfo import available_timezones

from fastapi import Response
from pydantic import AfterValidator, WithJsonSchema
from pydantic import Field as Constraint

from threefold.crm.api import models, reading, replies
from threefold.crm.api.models import WHOLE, Given, Sent
from threefold.crm.api.operations import Body, Call, Gives, Operation, add
from threefold.crm.clocks import policies
from threefold.crm.clocks.sla import Office
from threefold.crm.desk import Reply, Tx
from threefold.crm.model import rules
from threefold.crm.records import settings

CLOCK: Final = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
ZONES: Final = frozenset(available_timezones())


def _zone(name: str) -> str:
    if name not in ZONES:
        raise ValueError("it is not a time zone: it is written like Europe/Berlin")
    return name


Zone = Annotated[
    str,
    AfterValidator(_zone),
    WithJsonSchema({"type": "string", "enum": sorted(ZONES), "examples": ["Europe/Berlin"]}),
]
Day = Annotated[int, Constraint(ge=0, le=6), WHOLE]


def _once(days: list[int]) -> list[int]:
    if len(set(days)) < len(days):
        raise ValueError("it names a day twice")
    return days


Days = Annotated[
    list[Day],
    AfterValidator(_once),
    Constraint(
        min_length=1, max_length=7, description="0 is Monday; each once.", json_schema_extra={"uniqueItems": True}
    ),
]


class OfficeSet(Sent):
    """``opens`` before ``closes``, on the same day, in the zone's own time."""

    zone: Zone
    opens: Annotated[str, Constraint(pattern=CLOCK, examples=["09:00"])]
    closes: Annotated[str, Constraint(pattern=CLOCK, examples=["17:00"])]
    days: Days


class OfficeHours(Given):
    zone: str
    opens: Annotated[str, Constraint(pattern=CLOCK)]
    closes: Annotated[str, Constraint(pattern=CLOCK)]
    days: list[int]
    version: int


FILES: Final = Constraint(
    ge=0, le=settings.FILES_MOST, description="How many files one customer may have here, at most."
)
MIB: Final = Constraint(ge=0, le=settings.MIB_MOST, description="How many MiB they may have together, at most.")
DAYS: Final = Constraint(
    ge=settings.DAYS_LEAST,
    le=settings.DAYS_MOST,
    description="Entries of the audit (who came in, saw, exported) that are older are deleted for good; null: none. "
    "The data log and the ledger of erasures are always kept.",
)


class SettingsSet(Sent):
    files_per_customer: Annotated[int, FILES, WHOLE]
    mib_per_customer: Annotated[int, MIB, WHOLE]
    audit_days: Annotated[int, DAYS, WHOLE] | None


class SettingsGiven(Given):
    files_per_customer: int
    mib_per_customer: int
    audit_days: int | None
    version: int


def _office(found: policies.OfficeHours) -> Reply:
    office = found.office
    shown = {
        "zone": office.zone,
        "opens": f"{office.opens:%H:%M}",
        "closes": f"{office.closes:%H:%M}",
        "days": sorted(office.days),
        "version": found.version,
    }
    return replies.value(shown, headers={"ETag": replies.tag(found.version)})


def _settings(found: settings.Settings) -> Reply:
    shown = {name: getattr(found, name) for name in SettingsGiven.model_fields}
    return replies.value(shown, headers={"ETag": replies.tag(found.version)})


def _unless_known(call: Call, reply: Reply) -> Response:
    if call.request.headers.get("if-none-match", "").strip() == reply.headers["ETag"]:
        return Response(status_code=304, headers={"ETag": reply.headers["ETag"]})
    return replies.response(reply)


async def _reading_office(call: Call) -> Response:
    async with call.desk.read() as connection:
        return _unless_known(call, _office(await policies.office_hours(connection)))


async def _setting_office(call: Call) -> Response:
    version, sent = reading.expected_version(call.request), call.body
    office = Office(sent.zone, time.fromisoformat(sent.opens), time.fromisoformat(sent.closes), tuple(sent.days))

    async def work(tx: Tx) -> Reply:
        return _office(await policies.set_office(tx, office, version))

    return replies.response(await call.desk.write(work))


async def _reading_settings(call: Call) -> Response:
    async with call.desk.read() as connection:
        return _unless_known(call, _settings(await settings.read(connection)))


async def _setting_settings(call: Call) -> Response:
    version, values = reading.expected_version(call.request), models.sent(call.body)

    async def work(tx: Tx) -> Reply:
        return _settings(await settings.change(tx, values, version))

    return replies.response(await call.desk.write(work))


def describe() -> None:
    same = Gives(304, "Still the version that you have.", headers=("ETag",))
    common: dict[str, Any] = {"tag": "settings"}
    reads: dict[str, Any] = {"headers": ("If-None-Match",), **common}
    changes: dict[str, Any] = {
        "needs": rules.Operation.ADMINISTER,
        "headers": ("If-Match",),
        "writes": True,
        **common,
    }
    hours = Gives(200, "The hours, for clocks that run in office hours only.", OfficeHours, headers=("ETag",))
    add(
        Operation(
            "GET",
            "/office",
            "readOffice",
            "When somebody is there",
            does=_reading_office,
            needs=rules.Operation.WORK,
            gives=(hours, same),
            **reads,
        )
    )
    add(
        Operation(
            "PUT",
            "/office",
            "setOffice",
            "Say when somebody is there",
            does=_setting_office,
            takes=Body(OfficeSet),
            gives=(hours,),
            about="For administrators. What is due already stays due when it was.",
            **changes,
        )
    )
    found = Gives(200, "As they are.", SettingsGiven, headers=("ETag",))
    add(
        Operation(
            "GET",
            "/settings",
            "readSettings",
            "What is set for the whole CRM",
            does=_reading_settings,
            needs=rules.Operation.ADMINISTER,
            gives=(found, same),
            **reads,
        )
    )
    add(
        Operation(
            "PUT",
            "/settings",
            "setSettings",
            "Set what holds for the whole CRM",
            does=_setting_settings,
            takes=Body(SettingsSet),
            gives=(found,),
            about="For administrators. Every change is in the data log.",
            **changes,
        )
    )
