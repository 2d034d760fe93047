"""Answers as bytes: JSON, entity tags, links to what was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from fastapi import Response

from threefold.crm.desk import Reply, Row

PREFIX: Final = "/api/v1"


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


_encode: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_plain
).encode


def encoded(value: Any) -> bytes:
    """Times in UTC with Z, ids in lower case, and never a float: no record has one."""
    return _encode(value).encode()


def tag(version: int) -> str:
    return f'"{version}"'


def record(row: Row, *, status: int = 200, kind: str = "") -> Reply:
    """A record with its version as the entity tag; with ``kind``: where it now is."""
    headers = {"ETag": tag(row["version"])}
    if kind:
        headers["Location"] = f"{PREFIX}/{kind}/{row['id']}"
    return Reply(status, encoded(row), headers=headers)


def value(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, encoded(content), headers=headers or {})


NOTHING: Final = Reply(204)


def response(reply: Reply) -> Response:
    if reply.status == 204:
        return Response(status_code=204, headers=dict(reply.headers))
    return Response(reply.body, reply.status, dict(reply.headers), reply.media_type)
