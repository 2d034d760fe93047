"""The API: every kind of record over HTTP, under /api/v1.

`router` is one mount, so that an application includes it like any other router; `document` makes the OpenAPI document
that is also served at /api/v1/openapi.json.
"""

from __future__ import annotations

from threefold.crm.api.document import document
from threefold.crm.api.routes import router

__all__ = ["document", "router"]
