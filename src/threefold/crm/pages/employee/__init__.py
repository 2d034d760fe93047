"""The pages of those who work here, a file for each subject; admin/ has the administrators' own."""

from __future__ import annotations

from fastapi import APIRouter

from threefold.crm.pages.employee import (
    answering,
    board,
    duplicates,
    editing,
    files,
    importing,
    lists,
    marking,
    picking,
    queue,
    record,
    recycle,
    views,
)

router = APIRouter(include_in_schema=False)
# Addresses that name something come before those that hold an id.
for part in (
    queue,
    picking,
    board,
    recycle,
    importing,
    duplicates,
    views,
    lists,
    editing,
    answering,
    marking,
    files,
    record,
):
    router.include_router(part.router)

__all__ = ["router"]
