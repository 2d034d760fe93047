"""What administrators set for the whole CRM: how much a customer may put here, and how long the audit is kept.

One row (021-settings.sql), with a version and a history like any record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from threefold.crm.desk import Connection, Tx
from threefold.crm.model.errors import Forbidden, Invalid, Stale

FILES_MOST: Final = 1_000_000
MIB_MOST: Final = 1_000_000
DAYS_LEAST: Final = 30  # who does something and shortens the audit still finds it there
DAYS_MOST: Final = 36_500
_SHOWN: Final = "files_per_customer, mib_per_customer, audit_days, version"


@dataclass(frozen=True, slots=True)
class Settings:
    """``audit_days``: None keeps for ever what was seen and done. What was changed is always kept."""

    files_per_customer: int
    mib_per_customer: int
    audit_days: int | None
    version: int


async def read(connection: Connection) -> Settings:
    cursor = await connection.execute(f"SELECT {_SHOWN} FROM crm.settings")  # noqa: S608 - ours
    return Settings(**(await cursor.fetchall())[0])


async def change(tx: Tx, values: Mapping[str, Any], version: int) -> Settings:
    """All of them at once, based on ``version``; Stale if somebody was faster."""
    if not tx.actor.is_administrator:
        raise Forbidden("settings are for administrators", hint="ask one of your administrators to do it")
    _check(values)
    cursor = await tx.connection.execute(
        f"UPDATE crm.settings SET files_per_customer = %s, mib_per_customer = %s, audit_days = %s"  # noqa: S608 - ours
        f" WHERE version = %s RETURNING {_SHOWN}",
        [values["files_per_customer"], values["mib_per_customer"], values["audit_days"], version],
    )
    row = await cursor.fetchone()
    if row is None:
        raise Stale(
            f"the settings were changed meanwhile: your change is based on version {version}",
            hint="read them again and decide whether the change still holds",
        )
    return Settings(**row)


def _check(values: Mapping[str, Any]) -> None:
    wrong = {}
    for name, most in (("files_per_customer", FILES_MOST), ("mib_per_customer", MIB_MOST)):
        if not 0 <= values[name] <= most:
            wrong[name] = f"has to be from 0 to {most}"
    days = values["audit_days"]
    if days is not None and not DAYS_LEAST <= days <= DAYS_MOST:
        wrong["audit_days"] = f"has to be from {DAYS_LEAST} to {DAYS_MOST} days, or empty for ever"
    if wrong:
        raise Invalid("these settings cannot be", wrong)
