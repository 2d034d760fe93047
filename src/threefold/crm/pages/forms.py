"""What a form sent, as plain text by name. The services say what of it can be meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import Request

from threefold.crm.model.errors import Invalid
from threefold.kernel.errors import NotThere

_MOST_FIELDS = 200


async def fields(request: Request) -> dict[str, str]:
    """Text fields, each once (the last counts). Reads the whole body, as `Desk.write` needs it."""
    form = await request.form(max_fields=_MOST_FIELDS, max_files=0)
    return {name: value.replace("\r\n", "\n") for name, value in form.multi_items() if isinstance(value, str)}


def given(sent: Mapping[str, str], *names: str) -> dict[str, Any]:
    """Those fields; an empty one is left out, as a person means it."""
    return {name: sent[name].strip() for name in names if sent.get(name, "").strip()}


def required(sent: Mapping[str, str], what: Mapping[str, str]) -> None:
    """Raises Invalid with a sentence for each field that is empty. ``what``: field → the sentence."""
    if absent := {name: text for name, text in what.items() if not sent.get(name, "").strip()}:
        raise Invalid("something is missing", absent, hint="fill it in and send it again")


def id_in_path(text: str) -> UUID:
    """A page's address with an id that is none is a page that is not there."""
    try:
        return UUID(text)
    except ValueError:
        raise NotThere("there is no such page", hint="look for it from the start page") from None
