"""What a webhook's sender decides: the signature, when to try again, and where it may not connect to.

A delivery is signed so: ``Webhook-Signature: t=<seconds since 1970>,v1=<hex>`` where hex is HMAC-SHA256 under the
webhook's secret of ``<t>.<body>``. The receiver computes it anew over the bytes that came, and refuses what is older
than five minutes, so that nobody can send a caught delivery again; ``Webhook-Id`` stays the same however often one is
tried, so that it can tell the one it has had.

Pure.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from threefold.crm.model.errors import Invalid

ATTEMPTS: Final = 12  # over about a day; then it is a dead letter
FIRST_PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 6 * 3600.0
TOLERANCE: Final = 300
URL_MOST: Final = 2_000
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")  # a name, or an IPv6 address without its brackets


def sign(secret: str, at: int, body: bytes) -> str:
    """The value of ``Webhook-Signature``."""
    return f"t={at},v1={_mac(secret, at, body)}"


def genuine(secret: str, header: str, body: bytes, now: int) -> bool:
    """What a receiver does with it."""
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    at = parts.get("t", "")
    if not (at.isascii() and at.isdecimal() and len(at) < 20) or abs(now - int(at)) > TOLERANCE:
        return False
    return hmac.compare_digest(_mac(secret, int(at), body).encode(), parts.get("v1", "").encode())


def pause(attempts: int, chance: float) -> float | None:
    """Seconds until the next try, after so many; None: no more. ``chance``: 0 ≤ x < 1, spreads them."""
    if attempts >= ATTEMPTS:
        return None
    return float(min(FIRST_PAUSE * 3 ** (attempts - 1), LONGEST_PAUSE) * (0.75 + chance / 2))


def check_url(url: str, *, private: bool) -> None:
    """Raises Invalid for what is no address of a receiver. ``private``: plain HTTP is for one's own network."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise Invalid("that is not a URL", {"url": "is not a URL"}) from None
    wrong = ""
    if len(url) > URL_MOST:
        wrong = f"has more than {URL_MOST} characters"
    elif any(character <= " " or character > "~" for character in url):
        wrong = "may not hold blanks, control or non-ASCII characters: encode them"
    elif parts.scheme not in (("https", "http") if private else ("https",)) or not parts.hostname:
        wrong = "has to begin with https:// and a host"
    elif not _HOST.fullmatch(parts.hostname):
        wrong = "has a host that no name can be"
    elif parts.username is not None or parts.password is not None:
        wrong = "may not hold a user or password: the signature says who sends"
    if wrong:
        raise Invalid(f"the URL {wrong}", {"url": wrong})


def public(address: str) -> bool:
    """Whether it is an address of the internet: not this machine's, not of a local network, not a cloud's metadata."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return public(str(inner))
        if found.is_site_local or found.scope_id:
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def _mac(secret: str, at: int, body: bytes) -> str:
    return hmac.digest(secret.encode(), b"%d." % at + body, "sha256").hex()
