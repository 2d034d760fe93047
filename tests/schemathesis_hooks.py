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
    """Ids that could be some are put to one that is; where operations follow each other, they hand on their own."""
    if not path_parameters or SETUP["stateful"]:
        return path_parameters
    kind = _kind(ctx.operation.path)
    if ctx.operation.path.endswith("/erasure"):
        kind = "erasures"
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
    operation = case.operation.definition.raw.get("operationId", "")
    if operation.startswith("import") and isinstance(case.media_type, str) and "json" not in case.media_type:
        new = secrets.token_hex(8)
        case.query = {
            name: value for name, value in (case.query or {}).items() if name not in {"encoding", "delimiter"}
        }
        case.media_type, case.body = "text/csv", CSV.replace("Now", new).replace("eve", new).replace("E-1", new)
    elif operation == "saveView":
        case.body = {**case.body, "asked": "limit=1", "columns": ["id"]}
    elif isinstance(case.body, dict) and case.media_type == "application/json":
        case.body = _referring(case.body, operation, _kind(case.operation.path))
        if operation in {"createQuery", "createRequest", "createInteraction"}:  # only customers may leave it out
            case.body.setdefault("contact_id", IDS["contact_id"])
        if operation == "createInteraction" and not case.body.get("request_id"):  # customers write to a case
            case.body["query_id"] = IDS["query_id"]
    if case.query:  # a cursor is only one if an answer gave it
        case.query = {name: value for name, value in case.query.items() if name not in {"after", "before"}}
    if case.headers and "Idempotency-Key" in case.headers:  # a key is for one change
        case.headers["Idempotency-Key"] = secrets.token_hex(16)
    if case.headers and "If-Match" in case.headers:
        answer = LOOKER.get(case.formatted_path)
        if answer.status == 200:
            case.headers["If-Match"] = answer.headers["etag"]


CSV = "name,full_name,email,sku,price_cents\nNow,Eve Now,eve@example.com,E-1,5\n"


@schemathesis.hook
def after_call(ctx: Any, case: Any, response: Any) -> None:
    """What others refer to comes back from the recycle bin."""
    deletes = case.method == "DELETE" or b'"delete"' in (response.request.body or b"")
    if deletes and response.status_code < 300 and not SETUP["stateful"]:
        LOOKER.post(f"{PREFIX}{_kind(case.operation.path)}/{IDS.get(_kind(case.operation.path))}/restore")


def _referring(body: Any, operation: str, kind: str) -> Any:
    if isinstance(body, list):
        return [_referring(each, operation, kind) for each in body]
    if not isinstance(body, dict):
        return body
    made = {name: _referring(value, operation, kind) for name, value in body.items()}
    for name, value in made.items():
        if name not in IDS:
            continue
        if _could_be_one(value):
            made[name] = IDS[name]
        elif isinstance(value, list):
            made[name] = [IDS[name]] * min(len(value), 1)
    if isinstance(made.get("items"), list) and kind in IDS:  # many changes at once: of one that is there
        made["items"] = [{**item, "id": IDS[kind]} if "id" in item else item for item in made["items"][:1]]
        for item in made["items"]:
            if "version" in item:
                item["version"] = _version(kind) if item["version"] is not None else None
    if operation.startswith("merge") and "keep" in made:
        made["keep"] = IDS[kind]
    _together(made, operation)
    return made


def _version(kind: str) -> int:
    answer = LOOKER.get(f"{PREFIX}{kind}/{IDS[kind]}")
    return int(answer.json().get("version", 1))


def _together(body: dict[str, Any], operation: str) -> None:
    """What only the CRM knows to belong together: a schema cannot say it."""
    if "first_response_minutes" not in body and ("record_kind" in body or "record_id" in body):
        if body.get("record_kind") and body.get("record_id"):
            body["record_id"] = IDS[body["record_kind"]]
        else:
            body.pop("record_kind", None)
            body.pop("record_id", None)
    if body.get("request_id") and (body.get("query_id") or "body" not in body or "contact_id" not in body):
        body["request_id"] = None  # beside a query it cannot be, and the one that is asked about has one
    if operation == "setOffice" and body.get("opens", "") >= body.get("closes", ""):
        body["opens"], body["closes"] = "08:00", "18:30"
    if "User" in operation and ("role" in body or "contact_id" in body):
        if body.get("role") and "full_name" in body:
            body["contact_id"] = IDS["contact_id"] if body["role"] == "customer" else None
        else:
            body.pop("role", None)
            body.pop("contact_id", None)
