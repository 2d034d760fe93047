"""How a single value of threefold.toml is written: durations, references to secrets, addresses, names."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SCHEMES = ("s3", "gs", "az")


def duration(text: object) -> timedelta:
    """``250ms``, ``1s``, ``5m``, ``24h``, ``7d``. A bare number is refused: nobody remembers the unit."""
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"not a duration: {text!r}; write a number and a unit, such as 250ms, 1s, 5m, 24h or 7d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def is_reference(text: str) -> str:
    kind, _, rest = text.partition(":")
    if kind not in {"env", "file"} or not rest:
        raise ValueError("secrets are given by reference: env:NAME or file:PATH")
    return text


def is_address(text: str) -> str:
    if urlsplit(text).scheme not in {"http", "https"} or not urlsplit(text).netloc:
        raise ValueError("an endpoint reads like https://s1.example:9101")
    return text


def is_host_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("an address to listen on reads like 127.0.0.1:8080")
    return text


def is_place(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise ValueError("a store's url reads like s3://bucket/prefix, gs://bucket/prefix or az://container/prefix")
    return text


def has_no_password(dsn: str) -> str:
    if re.search(r"\bpassword\s*=|://[^/@]*:[^/@]*@", dsn):
        raise ValueError('the dsn holds a password; give it by reference instead: password = "env:NAME"')
    return dsn


Duration = Annotated[timedelta, BeforeValidator(duration)]
Reference = Annotated[str, AfterValidator(is_reference)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Section(BaseModel):
    """One table of the file; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
