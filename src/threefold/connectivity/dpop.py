"""Proof of possession (RFC 9449): that a request comes from the device whose key never leaves it.

A proof is a JWS that the device signs for one request: method (``htm``), address (``htu``), time (``iat``), an id
that is used once (``jti``) and, where a bearer of the session token speaks, the token's hash (``ath``). `check` says
whether a proof holds for the request at hand and what is left to be checked by others: that the key is an enrolled
device's (`Proof.thumbprint`) and that the id was not seen before (`Proof.spent_id`, kept until `Proof.forget_at`).

Only ES256 over P-256 is taken: WebCrypto makes such keys non-extractable everywhere, and one algorithm cannot be
confused with another. The header is bounded before anything is parsed, the shape is checked before the signature, and
the signature before anything a proof says is believed.

Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

from threefold.connectivity.refusals import BadProof

LONGEST_PROOF: Final = 2048  # characters; a P-256 proof for a long address has about 700
SKEW: Final = timedelta(seconds=60)
_KEPT: Final = 2 * SKEW  # past the moment when `iat` alone refuses it, and a clock that is set back meanwhile
_COORDINATE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_JTI: Final = re.compile(r"[A-Za-z0-9._~+/=-]{8,64}")
# Of the library only what is mathematics: `_opened` has read the header already, and allows less of it.
_ES256: Final = JWSRegistry.algorithms["ES256"]
_JWK: Final = frozenset({"kty", "crv", "x", "y"})
_LATEST: Final = 2**40
_AGAIN: Final = "make a new proof for each request (docs/reference/connect.md)"
_PORTS: Final = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that holds for this request."""

    thumbprint: str  # RFC 7638, of the device's public key
    jwk: dict[str, str]
    spent_id: UUID  # of key and jti together, so that no device can spend another's ids
    forget_at: datetime


def check(header: str, *, method: str, address: str, now: datetime, token: str | None = None) -> Proof:
    """``address``: scheme, host and path as the client sees them. Raises BadProof."""
    jose, claims, thumbprint = _opened(header)
    if claims.get("htm") != method:
        raise BadProof("the proof is for another method", hint=_AGAIN)
    if not isinstance(claims.get("htu"), str) or _plain(claims["htu"]) != _plain(address):
        raise BadProof("the proof is for another address", hint=f"htu has to be {address}")
    said = claims.get("iat")
    if not isinstance(said, int | float) or isinstance(said, bool) or not 0 <= said <= _LATEST:  # NaN is refused too
        raise BadProof("the proof says no time", hint=_AGAIN)
    if abs(said - now.timestamp()) > SKEW.total_seconds():
        raise BadProof("the proof is too old, or from the future", hint="compare the device's clock with `now`")
    jti = claims.get("jti")
    if not isinstance(jti, str) or not _JTI.fullmatch(jti):
        raise BadProof("the proof has no usable jti", hint="8 to 64 characters, random, new for each request")
    if token is not None and claims.get("ath") != token_hash(token):
        raise BadProof("the proof is for another session", hint="ath is the token's SHA-256, base64url")
    jwk = {name: str(jose["jwk"][name]) for name in sorted(_JWK)}
    digest = hashlib.sha256(f"{thumbprint}.{jti}".encode()).digest()
    return Proof(thumbprint, jwk, UUID(bytes=digest[:16]), datetime.fromtimestamp(float(said), UTC) + _KEPT)


def token_hash(token: str) -> str:
    """What ``ath`` has to say of a session's token."""
    return urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


def _opened(header: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Shape first, then the signature; nothing of it is believed before."""
    if not header:
        raise BadProof("the request carries no proof", hint="send the DPoP header; in a browser, reload the page")
    if len(header) > LONGEST_PROOF:
        raise BadProof("the proof is too long", hint=f"at most {LONGEST_PROOF} characters, and one of them")
    try:
        head, body, signature = header.split(".")
        jose, claims = _json(head), _json(body)
    except (ValueError, RecursionError):
        raise BadProof("the proof is not a signed JSON web token", hint=_AGAIN) from None
    if jose.get("typ") != "dpop+jwt" or jose.get("alg") != "ES256" or not set(jose) <= {"typ", "alg", "jwk"}:
        raise BadProof("the proof's header is not one of dpop+jwt with ES256", hint=_AGAIN)
    jwk = jose.get("jwk")
    if not isinstance(jwk, dict) or set(jwk) & {"d", "k", "p", "q"}:
        raise BadProof("the proof must carry the public key, and only it", hint="never send a private key anywhere")
    if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256":
        raise BadProof("the device's key is not one of the curve P-256", hint=_AGAIN)
    x, y = jwk.get("x"), jwk.get("y")
    if not (isinstance(x, str) and isinstance(y, str) and _COORDINATE.fullmatch(x) and _COORDINATE.fullmatch(y)):
        raise BadProof("the device's key is malformed", hint=_AGAIN)
    try:
        key, thumbprint = _key(x, y)
        holds = _ES256.verify(f"{head}.{body}".encode(), urlsafe_b64decode(signature + "=="), key)
    except (JoseError, ValueError):
        holds = False
    if not holds:
        raise BadProof("the proof's signature does not hold", hint=_AGAIN)
    return jose, claims, thumbprint


@lru_cache(maxsize=2048)
def _key(x: str, y: str) -> tuple[ECKey, str]:
    """With its thumbprint. Opening a point takes half as long as checking a signature, and devices come back."""
    key = ECKey.import_key({"kty": "EC", "crv": "P-256", "x": x, "y": y})
    return key, key.thumbprint()


def _json(part: str) -> dict[str, Any]:
    value = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return dict(value) if isinstance(value, dict) else {}


def _plain(address: str) -> tuple[str, str, str]:
    """Scheme and host in lower case, without the port that goes without saying; no query, no fragment."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ("", "", address)
    return parts.scheme, parts.netloc.lower().removesuffix(_PORTS.get(parts.scheme, "\0")), parts.path or "/"
