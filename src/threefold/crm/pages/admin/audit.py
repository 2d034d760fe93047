"""Who saw and changed what, and who was erased.

The audit is the edge's and comes by script; what was changed in a record is on its own page, proved by its chain.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from threefold.crm import related, rules
from threefold.crm.pages.rendering import render
from threefold.crm.pages.staff import AtDesk, only_staff

router = APIRouter(include_in_schema=False)
WHAT: Final = {
    "saw": "Saw a record",
    "exported": "Exported a list",
    "erased": "Erased a person",
    "signin": "Signed in",
    "signin-failed": "Failed to sign in",
    "signout": "Signed out",
    "enrolled": "Brought a device in",
    "device-revoked": "Revoked a device",
    "person-revoked": "Revoked a person",
    "invited": "Invited somebody",
    "invitation-withdrawn": "Withdrew an invitation",
    "passkey-added": "Added a passkey",
    "passkey-removed": "Removed a passkey",
    "password-changed": "Changed the password",
    "refused": "Was refused",
}


@router.get("/admin/audit")
async def audit(request: Request, desk: AtDesk) -> Response:
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.ADMINISTER)
    async with desk.read() as connection:
        people = await related.users(connection)
    return render(request, "admin/audit.html", {"what": WHAT, "people": people})


@router.get("/admin/erasures")
async def erasures(request: Request, desk: AtDesk) -> Response:
    only_staff(desk.actor)
    rules.check(desk.actor, rules.Operation.ADMINISTER)
    async with desk.read() as connection:
        rows = await related.erasures(connection)
    return render(request, "admin/erasures.html", {"rows": rows})
