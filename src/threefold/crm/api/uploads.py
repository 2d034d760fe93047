"""Files that are sent: as the body itself, or as one part of a form, as a browser's form sends it.

The whole body is read before any transaction begins: a slow sender must not hold a connection to the database.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from threefold.crm.api import reading
from threefold.crm.model.errors import Invalid
from threefold.kernel.errors import BadInput

FORM: Final = "multipart/form-data"
OVERHEAD: Final = 64 * 1024  # of a form around its file
AS_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {"file": {"type": "string", "format": "binary", "minLength": 1}},
}
AS_BYTES: Final[dict[str, Any]] = {"type": "string", "format": "binary", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Sent:
    """``name`` and ``media_type`` are the sender's words; empty where nothing was said."""

    name: str
    media_type: str
    data: bytes


async def read(request: Request, most: int, *, also: tuple[str, ...] = ()) -> Sent:
    """``also``: media types of a body that is the file itself, beside application/octet-stream."""
    kind = reading.media_type(request)
    if kind == FORM:
        return await _of_form(request, await reading.body(request, most + OVERHEAD), most)
    if kind not in ("application/octet-stream", *also):
        raise HTTPException(415, f"send the file itself as application/octet-stream, or a form ({FORM})")
    return Sent("", kind, await reading.body(request, most))


async def _of_form(request: Request, content: bytes, most: int) -> Sent:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield content

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=1).parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise BadInput("the form cannot be read", hint=str(getattr(error, "message", "")).lower()) from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Invalid("the form has no file in it", {"file": "it has to be given"}, hint="name the part 'file'")
        data = await file.read()
    finally:
        await form.close()
    if len(data) > most:
        raise HTTPException(413, f"the file is larger than {most} bytes")
    return Sent(file.filename or "", file.content_type or "", data)
