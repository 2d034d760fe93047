"""How schemathesis asks as a device of ours does, and about records that there are. SCHEMATHESIS_HOOKS names this file.

Random ids name nothing, so a request that is right by its schema would only ever find 404 or an unknown reference:
ids in paths and references are put to records that exist. Requests that are meant to be wrong stay as they are.
"""

from __future__ import annotations

import json
import os
import secrets
from typing import Any
from urllib.parse import urlsplit

import requests
import schemathesis
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from requests.auth import AuthBase

from tests.edge_client import Client, Key

SETUP = json.loads(os.environ["CRM_SCHEMATHESIS"])
IDS: dict[str, str] = SETUP["ids"]  # by kind, and by the name of a field that refers
PREFIX = "/api/v1/"


class Device(AuthBase):
    """A proof of its own for each request, of the address that is really asked."""

    def __init__(self) -> None:
        private: Any = load_pem_private_key(SETUP["key"].encode(), None)
        self.key = Key(private)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        address = urlsplit(request.url or "")
        origin = f"{address.scheme}://{address.netloc}{address.path}"
        request.headers["Authorization"] = f"DPoP {SETUP['token']}"
        request.headers["DPoP"] = self.key.proof(request.method or "", origin, token=SETUP["token"])
        return request


DEVICE = Device()
LOOKER = Client(SETUP["origin"], key=DEVICE.key, token=SETUP["token"])
schemathesis.auth.set_from_requests(DEVICE)


def _kind(path: str) -> str:
    return path.removeprefix(PREFIX).partition("/")[0]


@schemathesis.hook
def map_path_parameters(ctx: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Ids that could be some are put to one that is."""
    if not path_parameters:
        return path_parameters
    kind = _kind(ctx.operation.path)
    return {
        name: IDS[kind] if name == "id" and kind in IDS and _could_be_one(value) else value
        for name, value in path_parameters.items()
    }


def _could_be_one(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 36 and value.count("-") == 4


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: dict[str, Any]) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict):
        case.body = _referring(case.body, case.operation.definition.raw.get("operationId", ""))
    if case.query and "after" in case.query:  # a cursor is only one if an answer gave it
        case.query = {name: value for name, value in case.query.items() if name != "after"}
    if case.headers and "Idempotency-Key" in case.headers:  # a key is for one change
        case.headers["Idempotency-Key"] = secrets.token_hex(16)
    if case.headers and "If-Match" in case.headers:
        answer = LOOKER.get(case.formatted_path)
        if answer.status == 200:
            case.headers["If-Match"] = answer.headers["etag"]


def _referring(body: Any, operation: str) -> Any:
    if isinstance(body, list):
        return [_referring(each, operation) for each in body]
    if not isinstance(body, dict):
        return body
    made = {name: _referring(value, operation) for name, value in body.items()}
    for name, value in made.items():
        if name in IDS and value is not None:
            made[name] = [IDS[name]] * min(len(value), 1) if isinstance(value, list) else IDS[name]
    _together(made, operation)
    return made


def _together(body: dict[str, Any], operation: str) -> None:
    """What only the CRM knows to belong together: a schema cannot say it."""
    if body.get("record_kind") is None or body.get("record_id") is None:
        for name in ("record_kind", "record_id"):
            if name in body and body[name] is None:
                body.pop(name)
    if ("record_kind" in body) != ("record_id" in body) and "first_response_minutes" not in body:
        body.pop("record_kind", None)
        body.pop("record_id", None)
    if "record_id" in body:
        body["record_id"] = IDS[body["record_kind"]]
    if body.get("query_id") and body.get("request_id"):
        body["request_id"] = None
    if "role" in body and "User" in operation:
        body["contact_id"] = IDS["contact_id"] if body["role"] == "customer" else None
