"""What the endpoints of /connect answer: rows as JSON, times as ISO 8601 with Z, ids as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from starlette.responses import Response

from threefold.connectivity.admission import Session
from threefold.crm.desk import Row


def plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)


def answer(content: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content, default=plain).encode(), status, media_type="application/json")


def nothing() -> Response:
    return Response(status_code=204)


def some(row: Row, *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def person(row: Row) -> dict[str, Any]:
    return {"id": row["id"], "name": row["full_name"], **some(row, "email", "role", "contact_id")}


def who(session: Session) -> dict[str, Any]:
    """Who is signed in, where."""
    actor = session.actor
    return {
        "user": {
            "id": actor.user,
            "name": actor.name,
            "email": session.email,
            "role": actor.role,
            "contact_id": actor.contact,
        },
        "device": {"id": actor.device, "name": session.device_name},
        "session": {"id": session.id, "expires_at": session.expires_at},
        "home": "/",
    }


def devices(rows: Iterable[Row], this: UUID | None) -> dict[str, Any]:
    return {"devices": [device(row, this) for row in rows]}


def device(row: Row, this: UUID | None) -> dict[str, Any]:
    return {**some(row, "id", "name", "enrolled_at", "seen_at", "revoked_at"), "this": row["id"] == this}
