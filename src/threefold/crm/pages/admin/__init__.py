"""The administrators' pages, a file for each subject.

What the edge keeps (devices, invitations, the audit) is asked for by script at /connect; here is what the CRM itself
keeps.
"""

from __future__ import annotations

from fastapi import APIRouter

from threefold.crm.pages.admin import audit, overview, people, service_levels, settings, teams, webhook_pages

router = APIRouter(include_in_schema=False)
for part in (overview, people, teams, service_levels, webhook_pages, settings, audit):
    router.include_router(part.router)

__all__ = ["router"]
