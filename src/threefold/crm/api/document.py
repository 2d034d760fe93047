"""The OpenAPI document, made from the table of operations and the models.

Pure: the same code gives the same document, so it is made once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from threefold.crm.api.operations import OPERATIONS, Body, Gives, Operation, Param, Raw
from threefold.crm.api.replies import PREFIX

PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "What went wrong (RFC 9457). Branch on `type`, not on the texts.",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:threefold:problem:stale"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened."},
        "hint": {"type": "string", "description": "What to do."},
        "fields": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "What is wrong with which field.",
        },
        "incident": {"type": "string", "description": "Where to find it in the server's log."},
        "now": {"type": "string", "format": "date-time", "description": "The server's time, for a device's clock."},
    },
}
FAILS: Final = {
    400: "The request cannot be read: not JSON, not UTF-8, a header without a meaning.",
    401: "No session, or no valid proof of the device's key.",
    403: "Not for this person, or not from this device.",
    404: "There is no such thing - or none that this person may know of.",
    405: "Not for this address; `Allow` says what is.",
    409: "It contradicts what is there: a duplicate, or the same Idempotency-Key still under way.",
    412: "Somebody changed the record since it was read. Read it again, and decide.",
    413: "The body is too large.",
    414: "The query is too long.",
    415: "The body's Content-Type is none that this operation takes.",
    422: "Fields or parameters cannot be meant; `fields` says what is wrong with each.",
    428: "The change does not say what it is based on: send If-Match.",
    421: "Asked under a name that is not the CRM's.",
    429: "Too many requests; `Retry-After` says when to come back.",
    500: "A fault of ours; `incident` finds it in the log.",
    503: "The database cannot be asked, or cannot be written: nothing is saved, or nobody knows whether it is. "
    "Ask again after `Retry-After`, writes with the same Idempotency-Key.",
}
ALWAYS: Final = (400, 401, 403, 404, 405, 414, 421, 422, 429, 500, 503)
HEADERS: Final[dict[str, dict[str, Any]]] = {
    "ETag": {"description": "The record's version, for If-Match and If-None-Match.", "schema": {"type": "string"}},
    "Location": {"description": "Where the new record is.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}},
    "Idempotency-Replayed": {
        "description": "`true`: this is the answer that the first request with this key got.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Content-Disposition": {"description": "Always an attachment.", "schema": {"type": "string"}},
    "X-Content-Type-Options": {"description": "Always nosniff.", "schema": {"type": "string", "enum": ["nosniff"]}},
}
REQUEST_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "If-Match": {
        "name": "If-Match",
        "in": "header",
        "required": True,
        "description": "The ETag of what the change is based on.",
        "schema": {"type": "string", "pattern": '^"[1-9][0-9]{0,8}"$', "examples": ['"3"']},
    },
    "If-None-Match": {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "The ETag of what you have; 304 if it still is the same.",
        "schema": {"type": "string", "examples": ['"3"']},
    },
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "Made by the sender, one per change; a repeated request gets the first answer and does nothing. "
        "Keep it until you have an answer that is not 503.",
        "schema": {
            "type": "string",
            "pattern": "^[!-~]{1,255}$",
            "minLength": 1,
            "maxLength": 255,
            "examples": ["0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11"],
        },
    },
}
SECURITY: Final[dict[str, dict[str, Any]]] = {
    "token": {
        "type": "http",
        "scheme": "DPoP",
        "description": "`Authorization: DPoP <token>`: the session's token, from signing in with `bearer`. "
        "It is bound to the device's key and worth nothing without the proof.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "__Host-threefold",
        "description": "The session of a browser, instead of the token.",
    },
    "proof": {
        "type": "apiKey",
        "in": "header",
        "name": "DPoP",
        "description": "Proof of the device's key on every request (RFC 9449): a JWT signed with ES256 over method, "
        "URL, time and an id that is used once. Several enrolled devices have several keys; a revoked one is out "
        "at once.",
    },
}
Refs = Mapping[tuple[Any, JsonSchemaMode], Mapping[str, Any]]
ABOUT: Final = (
    "Records of the CRM, with filters, sorting and paging by cursor; changes that nobody's change is lost by "
    "(ETag and If-Match) and that are never done twice (Idempotency-Key); what changed since a cursor; "
    "import and export; webhooks. docs/reference/crm-api.md explains it with examples."
)


def _wanted(operations: Sequence[Operation]) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    found: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for operation in operations:
        if isinstance(operation.takes, Body):
            found[operation.takes.model, "validation"] = None
            if operation.takes.customers is not None:
                found[operation.takes.customers, "validation"] = None
        for gives in operation.gives:
            if gives.model is not None:
                found[gives.model, "serialization"] = None
    return list(found)


def _given(gives: Gives, refs: Refs, *, writes: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"description": gives.about}
    schema = gives.schema if gives.model is None else refs[gives.model, "serialization"]
    if schema is not None:
        told["content"] = {gives.media: {"schema": schema}}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in gives.headers}
    if writes:
        headers["Idempotency-Replayed"] = {"$ref": "#/components/headers/Idempotency-Replayed"}
    if headers:
        told["headers"] = headers
    if gives.links:
        told["links"] = {name: _link(name) for name in gives.links}
    return told


def _link(name: str) -> dict[str, Any]:
    """From an answer with an id to what can be done with it."""
    parameters = {"path.id": "$response.body#/id"}
    if "If-Match" in next(operation.headers for operation in OPERATIONS if operation.name == name):
        parameters["header.If-Match"] = "$response.header.ETag"
    return {"operationId": name, "parameters": parameters}


def _taken(takes: Body | Raw, refs: Refs) -> dict[str, Any]:
    if isinstance(takes, Raw):
        return {
            "required": True,
            "description": takes.about,
            "content": {media: {"schema": schema} for media, schema in takes.media.items()},
        }
    schema = refs[takes.model, "validation"]
    if takes.customers is not None:
        schema = {"anyOf": [schema, refs[takes.customers, "validation"]]}
    return {"required": not takes.optional, "content": {"application/json": {"schema": schema}}}


def _param(param: Param) -> dict[str, Any]:
    return {
        "name": param.name,
        "in": "query",
        "required": param.required,
        "description": param.about,
        "schema": dict(param.schema),
        **({"style": "form", "explode": param.exploded} if param.exploded or param.listed else {}),
    }


def _operation(operation: Operation, refs: Refs) -> dict[str, Any]:
    fails = {*operation.fails}
    if operation.needs is not None:
        fails |= {*ALWAYS}
    if operation.takes is not None:
        fails |= {413, 415}
    headers = list(operation.headers)
    if operation.writes:
        fails |= {409}
        headers.append("Idempotency-Key")
    if "If-Match" in headers:
        fails |= {412, 428}
    parameters: list[dict[str, Any]] = [
        {
            "name": segment[1:-1],
            "in": "path",
            "required": True,
            "description": "A record's id.",
            "schema": {"type": "string", "format": "uuid"},
        }
        for segment in operation.path.split("/")
        if segment.startswith("{")
    ]
    parameters += [_param(param) for param in operation.params]
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in headers]
    responses = {str(gives.status): _given(gives, refs, writes=operation.writes) for gives in operation.gives}
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(fails)}
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": parameters,
        "responses": responses,
    }
    if operation.about:
        told["description"] = operation.about
    if operation.takes is not None:
        told["requestBody"] = _taken(operation.takes, refs)
    if operation.needs is None:
        told["security"] = []
    return told


def _failure(status: int, about: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": about,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in (429, 503):
        told["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    return told


@cache
def document() -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    refs, definitions = models_json_schema(_wanted(OPERATIONS), ref_template="#/components/schemas/{model}")
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        item = paths.setdefault(f"{PREFIX}{operation.path}", {})
        item[operation.method.lower()] = _operation(operation, refs)
    tags = list(dict.fromkeys(operation.tag for operation in OPERATIONS))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Threefold CRM", "version": version("threefold"), "description": ABOUT},
        "tags": [{"name": tag} for tag in tags],
        "security": [{"token": [], "proof": []}, {"session": [], "proof": []}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM, **definitions.get("$defs", {})},
            "responses": {str(status): _failure(status, about) for status, about in FAILS.items()},
            "parameters": REQUEST_HEADERS,
            "headers": HEADERS,
            "securitySchemes": SECURITY,
        },
    }
