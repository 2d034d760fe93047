"""What every answer tells the browser, and how a request's own headers are read.

The policy allows our own origin and nothing else: no inline script or style, no frame, no form to elsewhere. A script
that somebody smuggled into a record's text has no way to run and nowhere to send what it saw.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from threefold.connectivity.limits import of_address

Pairs = list[tuple[bytes, bytes]]

UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
MOST_HEADER_BYTES: Final = 16 * 1024

_POLICY: Final = (
    b"default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    b"worker-src 'self'; manifest-src 'self'; object-src 'none'; frame-src 'none'; frame-ancestors 'none'; "
    b"form-action 'self'; base-uri 'none'"
)
_PERMISSIONS: Final = (
    b"camera=(), microphone=(), geolocation=(), payment=(), usb=(), "
    b"publickey-credentials-get=(self), publickey-credentials-create=(self)"
)
_ALWAYS: Final[Pairs] = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", _PERMISSIONS),
]
_TRANSPORT: Final = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")
_SECRET: Final = (b"cache-control", b"no-store")
# A second policy can only forbid more, as the one of a stranger's file does: browsers hold to both.
_OURS: Final = frozenset(name for name, _ in (*_ALWAYS, _TRANSPORT)) - {b"content-security-policy"}


@dataclass(frozen=True, slots=True)
class Origin:
    """The one address people know us by. Passkeys are bound to its host, proofs and cookies to all of it."""

    url: str  # scheme://host[:port], in lower case
    host: str  # host[:port], as a request's Host header says it
    name: str  # the host alone: WebAuthn's relying party

    @property
    def secure(self) -> bool:
        return self.url.startswith("https:")

    def address(self, raw_path: str) -> str:
        return self.url + raw_path


def origin_of(public_url: str) -> Origin | None:
    """None where browsers would give neither keys nor cookies: plain http that is not this machine's."""
    parts = urlsplit(public_url)
    name = (parts.hostname or "").lower()
    local = name == "localhost" or name.endswith(".localhost")
    if not name or parts.scheme not in {"http", "https"} or (parts.scheme == "http" and not local):
        return None
    port = {None: "", 80: "" if parts.scheme == "http" else ":80", 443: "" if parts.scheme == "https" else ":443"}
    host = name + port.get(parts.port, f":{parts.port}")
    return Origin(f"{parts.scheme}://{host}", host, name)


def finished(headers: Iterable[tuple[bytes, bytes]], origin: Origin, *, public: bool) -> Pairs:
    """The answer's headers with ours. What holds data is never kept by a cache; static files say it themselves."""
    said = list(headers)
    names = {name.lower() for name, _ in said}
    ours = [*_ALWAYS, *([_TRANSPORT] if origin.secure else [])]
    if not public or b"cache-control" not in names:
        said = [pair for pair in said if pair[0].lower() != b"cache-control"]
        ours.append(_SECRET)
    return [pair for pair in said if pair[0].lower() not in _OURS] + ours


class Asked:
    """A request's headers, each looked up once; the first where one is repeated."""

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._held: dict[bytes, list[bytes]] = {}
        self.size = 0
        for name, value in pairs:
            self.size += len(name) + len(value) + 4
            self._held.setdefault(name.lower(), []).append(value)

    def get(self, name: str) -> str:
        values = self._held.get(name.encode())
        return values[0].decode("latin-1") if values else ""

    def count(self, name: str) -> int:
        return len(self._held.get(name.encode(), ()))

    def cookie(self, name: str) -> str:
        """A cookie's value; empty where there is none."""
        for line in self._held.get(b"cookie", ()):
            for pair in line.decode("latin-1").split(";"):
                key, _, value = pair.strip().partition("=")
                if key == name:
                    return value
        return ""

    def navigates(self, method: str) -> bool:
        """A browser that wants a page to show, not a script that wants data."""
        if method not in {"GET", "HEAD"} or self.get("hx-request"):
            return False
        return self.get("sec-fetch-mode") == "navigate" or "text/html" in self.get("accept")

    def from_elsewhere(self, origin: Origin) -> bool:
        """Another site made the browser ask: an unsafe method is refused then, whatever else it carries."""
        said = self.get("origin")
        if said and said.lower() != origin.url:
            return True
        return self.get("sec-fetch-site") not in {"", "same-origin", "none"}


def caller(client: tuple[str, int] | None, asked: Asked, *, trust_proxy: bool) -> str:
    """Whose address counts: the last that the trusted proxy added, or the connection's own."""
    if trust_proxy:
        last = asked.get("x-forwarded-for").rpartition(",")[2].strip()
        if last:
            return of_address(last)
    return of_address(client[0]) if client else ""
