"""Puts the API together: each file describes its operations, and the dispatch serves them all."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Final

from fastapi import APIRouter, Response

from threefold.crm.api import (
    about,
    attachments,
    batches,
    bulk,
    cases,
    erasures,
    exports,
    imports,
    intake,
    merges,
    records,
    settings,
    views,
    webhooks,
)
from threefold.crm.api.dispatch import Dispatch
from threefold.crm.api.document import document
from threefold.crm.api.operations import OPERATIONS, Call, Gives, Operation, add
from threefold.crm.api.replies import PREFIX


@cache
def _written() -> tuple[bytes, str]:
    content = json.dumps(document(), separators=(",", ":")).encode()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


async def _document(call: Call) -> Response:
    content, etag = _written()
    if call.request.headers.get("if-none-match", "").strip() == etag:
        return Response(status_code=304, headers={"ETag": etag})
    return Response(content, media_type="application/json", headers={"ETag": etag, "Cache-Control": "no-cache"})


def _describe() -> None:
    records.describe()
    bulk.describe()
    cases.describe()
    merges.describe()
    attachments.describe()
    views.describe()
    batches.describe()
    about.describe()
    webhooks.describe()
    erasures.describe()
    imports.describe()
    exports.describe()
    intake.describe()
    settings.describe()
    add(
        Operation(
            "GET",
            "/openapi.json",
            "openapi",
            "This document",
            tag="about",
            does=_document,
            needs=None,
            gives=(
                Gives(200, "The document.", schema={"type": "object"}, headers=("ETag",)),
                Gives(304, "Still the one that you have.", headers=("ETag",)),
            ),
            headers=("If-None-Match",),
        )
    )


_describe()
router: Final = APIRouter()
router.mount(PREFIX, Dispatch(OPERATIONS))
