"""Reads what a request says: its body within bounds, its query without surprises, its conditions.

Every refusal says what is wrong and, for fields, where; a client that sends nonsense never gets a 500 for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from uuid import UUID

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from threefold.crm.api.models import INTEGER_MOST
from threefold.crm.api.operations import Body, Pairs, Param
from threefold.crm.model.actor import Actor
from threefold.crm.model.errors import Forbidden, Invalid
from threefold.kernel.errors import BadInput, NotThere

QUERY_MOST: Final = 16_384  # bytes: filters for 200 ids fit


async def body(request: Request, most: int) -> bytes:
    """Read as it comes, so that nobody makes us hold more than ``most``."""
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told[:20]) > most:
        raise HTTPException(413, f"the body is larger than {most} bytes")
    read = bytearray()
    try:
        async for part in request.stream():
            read += part
            if len(read) > most:
                raise HTTPException(413, f"the body is larger than {most} bytes")
    except ClientDisconnect:  # nobody is left to answer, and nothing is wrong with us
        raise BadInput("the body did not come to its end", hint="send it again") from None
    return bytes(read)


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request, takes: Body, actor: Actor) -> BaseModel | None:
    """The body as its model; None where it may be missing and is."""
    content = await body(request, takes.most)
    if not content and takes.optional:
        return None
    if media_type(request) != "application/json":
        raise HTTPException(415, "the body has to be application/json")
    model = takes.customers if actor.is_customer and takes.customers is not None else takes.model
    try:
        return model.__pydantic_validator__.validate_json(content)  # type: ignore[no-any-return]  # of its own class
    except ValidationError as error:
        raise _told(error, beyond=takes.model if model is not takes.model else None) from None


def _told(error: ValidationError, *, beyond: type[BaseModel] | None) -> Exception:
    """``beyond``: the shape for employees; a customer who uses it is told that it may not, not that it is nonsense."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        reason = found[0]["msg"].removeprefix("Invalid JSON: ")
        return BadInput(f"the body is not JSON: {reason}", hint="send one JSON object in UTF-8")
    fields: dict[str, str] = {}
    for one in found[:50]:
        where = ".".join(str(part) for part in one["loc"]) or "body"
        fields.setdefault(where[:200], _words(one["type"], one["msg"]))
    if beyond is not None and all(one["type"] == "extra_forbidden" for one in found):
        names = [str(one["loc"][-1]) for one in found]
        if all(name in beyond.model_fields for name in names):
            return Forbidden(f"this is not yours to set: {', '.join(names)}", hint="leave it out; we see to it")
    return Invalid("some fields cannot be meant", fields, hint="see the fields")


def _words(kind: str, message: str) -> str:
    """Pydantic's words in the house's: lower case, no full stop."""
    known = {"extra_forbidden": "there is no such field", "missing": "it has to be given"}
    message = known.get(kind, message.removeprefix("Value error, "))
    return (message[0].lower() + message[1:]).encode("utf-8", "replace").decode()


def pairs(raw: bytes) -> Pairs:
    """The query string's parameters in order, decoded once; no NUL, valid UTF-8."""
    if len(raw) > QUERY_MOST:
        raise HTTPException(414, f"the query is longer than {QUERY_MOST} bytes")
    found: list[tuple[str, str]] = []
    for part in raw.split(b"&"):
        if not part:
            continue
        name, _, value = part.replace(b"+", b" ").partition(b"=")
        try:
            found.append((unquote_to_bytes(name).decode(), unquote_to_bytes(value).decode()))
        except UnicodeDecodeError:
            raise BadInput("the query is not UTF-8", hint="percent-encode it from UTF-8") from None
        if "\0" in found[-1][0] or "\0" in found[-1][1]:
            raise Invalid("no text has a NUL in it", {_shown(found[-1][0]): "it has a NUL in it"})
    return found


def query(asked: Pairs, params: Sequence[Param]) -> dict[str, Any]:
    """The parameters that an operation knows, each once; everything else is refused."""
    known = {param.name: param for param in params}
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, text in asked:
        if (param := known.get(name)) is None:
            wrong[_shown(name)] = f"there is no such parameter; there are {', '.join(known) or 'none'}"
        elif name in values:
            wrong[name] = "it is given twice"
        else:
            try:
                values[name] = param.read(text)
            except ValueError as error:
                wrong[name] = str(error)
    for param in params:
        if param.required and param.name not in values:
            wrong.setdefault(param.name, "it has to be given")
    if wrong:
        raise Invalid("some parameters cannot be meant", wrong, hint="see the fields")
    return values


def _shown(name: str) -> str:
    return name[:60].replace("\0", "\\0") or "(empty)"


def record_id(text: str) -> UUID:
    """A record's id in a path; what cannot be one names nothing."""
    if len(text) == 36 and text.count("-") == 4:
        try:
            return UUID(text)
        except ValueError:
            pass
    raise NotThere("there is no such record", hint="ids look like 0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11")


def expected_version(request: Request) -> int:
    """What the change is based on. Without it somebody else's change could be lost: 428."""
    told = request.headers.get("if-match")
    if told is None:
        raise HTTPException(428, "say what your change is based on: If-Match with the ETag that you read")
    told = told.strip()
    digits = told[1:-1]
    if not (len(told) > 2 and told[0] == told[-1] == '"' and digits.isascii() and digits.isdigit()):
        raise BadInput('If-Match has to be one ETag of ours, like "3"', hint="send the ETag header of what you read")
    # A version that no record ever reaches is as stale as any other.
    return INTEGER_MOST if len(digits) > 9 else int(digits)


def whole(least: int, most: int) -> Any:
    """Reads a whole number of a query."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
            raise ValueError(f"it has to be a whole number from {least} to {most}")
        return int(text)

    return read


def yes_or_no(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("it has to be true or false")
    return text == "true"


def identifier(text: str) -> UUID:
    try:
        return record_id(text)
    except NotThere:
        raise ValueError("it has to be an id, like 0199a3c2-7d10-7f3a-9c55-2f6f0d8a4b11") from None


def one_of(*choices: str) -> Any:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"it has to be one of {', '.join(choices)}")
        return text

    return read


def words(most: int) -> Any:
    """Of a search: whatever they are, they can be looked for."""

    def read(given: str) -> str:
        if len(given) > most:
            raise ValueError(f"it is longer than {most} characters")
        return given

    return read


def text(most: int) -> Any:
    def read(given: str) -> str:
        if not given.strip():
            raise ValueError("it is empty")
        if len(given) > most:
            raise ValueError(f"it is longer than {most} characters")
        return given

    return read
