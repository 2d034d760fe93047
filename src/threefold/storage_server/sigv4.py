"""AWS Signature Version 4, in the header, as S3 wants it (AWS General Reference, "Signature Version 4").

S3 differs from the other services: the path is canonicalised once and never normalised (``a/../b`` is a key), so it
is taken as it was sent. A query parameter without a value gets ``=``.

What has to be signed: ``host`` and every ``x-amz-*`` header that was sent. The date may lie 15 minutes off. Times
are compared as text: the form is fixed, so the order of the text is the order of time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest, digest
from urllib.parse import quote, unquote_to_bytes

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SKEW = timedelta(minutes=15)
_DATE = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_PLAIN_PATH = re.compile(r"(?:[A-Za-z0-9\-._~/]|%[0-9A-F]{2})*", re.ASCII)
_SIGNATURE = ", Signature="
_KEYS_CACHED = 64


class SignatureError(Exception):
    """Why a request is not taken for the owner's: S3's error code and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Credentials:
    """One access key; ``repr`` never shows the secret."""

    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        return f"Credentials({self.access_key_id})"


def canonical_path(raw: str) -> str:
    """As sent, where it is encoded the usual way."""
    if _PLAIN_PATH.fullmatch(raw):
        return raw
    return quote(unquote_to_bytes(raw.encode("latin-1")), safe="/-._~")


def canonical_query(raw: str) -> str:
    if not raw:
        return ""
    pairs = []
    for part in raw.split("&"):
        name, _, value = part.partition("=")
        pairs.append((_canonical_part(name), _canonical_part(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _canonical_part(raw: str) -> str:
    return quote(unquote_to_bytes(raw.encode("latin-1")), safe="-._~")


def string_to_sign(
    method: str, path: str, query: str, headers: Mapping[str, str], names: Sequence[str], payload: str, scope: str
) -> str:
    """Header names are lower-case and values Latin-1, byte for byte as sent; ``names``: of those that are signed."""
    lines = [f"{name}:{_trim(headers.get(name, ''))}\n" for name in names]
    asked = f"{method}\n{canonical_path(path)}\n{canonical_query(query)}"
    request = f"{asked}\n{''.join(lines)}\n{';'.join(names)}\n{payload}".encode("latin-1")
    return f"{ALGORITHM}\n{headers['x-amz-date']}\n{scope}\n{sha256(request).hexdigest()}"


def _trim(value: str) -> str:
    return " ".join(value.split()) if "  " in value else value.strip()


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = digest(b"AWS4" + secret.encode(), date.encode(), "sha256")
    for part in (region, service, "aws4_request"):
        key = digest(key, part.encode(), "sha256")
    return key


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a client's requests of one day say alike: read once, for it is a fifth of the work of a small put."""

    credential: str
    scope: str  # the credential without the access key id
    day: str
    names: tuple[str, ...]  # of the signed headers
    host: bool


class Verifier:
    """Checks requests against the owner's keys."""

    def __init__(self, credentials: Mapping[str, Credentials]) -> None:
        self._credentials = dict(credentials)
        self._keys: dict[str, bytes] = {}
        self._terms: dict[str, _Terms] = {}  # by the authorization up to the signature
        self._window: tuple[datetime, str, str] | None = None

    def verify(self, method: str, path: str, query: str, headers: Mapping[str, str], now: datetime) -> str:
        """The payload's SHA-256 as signed, or one of the UNSIGNED words. Raises SignatureError."""
        authorization = headers.get("authorization")
        if authorization is None:
            raise SignatureError("AccessDenied", "the request is not signed")
        said, _, last = authorization.rpartition(_SIGNATURE)
        terms, signature = self._terms.get(said), last
        if terms is None:
            terms, signature = _parse(authorization)
        payload = headers.get("x-amz-content-sha256")
        date = headers.get("x-amz-date", "")
        if payload is None or not _DATE.fullmatch(date):
            raise SignatureError("AccessDenied", "x-amz-content-sha256 and x-amz-date have to be there")
        earliest, latest = self._dates(now)
        if not earliest <= date <= latest:
            raise SignatureError("RequestTimeTooSkewed", "the request's time is more than 15 minutes off")
        names = terms.names
        if not terms.host or [name for name in headers if name not in names and name.startswith("x-amz-")]:
            raise SignatureError("AccessDenied", "host and all x-amz- headers have to be signed")
        if date[:8] != terms.day:
            raise SignatureError(
                "AuthorizationHeaderMalformed", "the credential's scope is not one for S3 and this date"
            )
        key = self._key(terms)
        text = string_to_sign(method, path, query, headers, terms.names, payload, terms.scope)
        if not compare_digest(digest(key, text.encode(), "sha256").hex().encode(), signature.encode()):
            raise SignatureError("SignatureDoesNotMatch", "the signature does not match: check the secret access key")
        # Only the owner's are kept (strangers could fill the memory), and only where nothing follows the signature.
        if said not in self._terms and signature == last:
            if len(self._terms) >= _KEYS_CACHED:
                self._terms.clear()
            self._terms[said] = terms
        return payload

    def _dates(self, now: datetime) -> tuple[str, str]:
        second = now.replace(microsecond=0)
        if self._window is None or self._window[0] != second:
            form = "%Y%m%dT%H%M%SZ"
            self._window = (second, (second - SKEW).strftime(form), (second + SKEW).strftime(form))
        return self._window[1], self._window[2]

    def _key(self, terms: _Terms) -> bytes:
        key = self._keys.get(terms.credential)
        if key is None:
            access_key_id, *scope = terms.credential.split("/")
            owner = self._credentials.get(access_key_id)
            if owner is None:
                raise SignatureError("InvalidAccessKeyId", "the access key id is not known here")
            if len(self._keys) >= _KEYS_CACHED:
                self._keys.clear()
            key = self._keys[terms.credential] = signing_key(owner.secret_access_key, *scope[:3])
        return key


def _parse(authorization: str) -> tuple[_Terms, str]:
    """What is signed and with which key, and the signature."""
    algorithm, _, rest = authorization.partition(" ")
    fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    if algorithm != ALGORITHM or not {"Credential", "SignedHeaders", "Signature"} <= fields.keys():
        raise SignatureError("AccessDenied", f"only {ALGORITHM} in the authorization header is spoken here")
    credential, names = fields["Credential"], tuple(fields["SignedHeaders"].split(";"))
    _, *scope = credential.split("/")
    day = scope[0] if len(scope) == 4 and scope[2:] == ["s3", "aws4_request"] else ""  # "": no date's
    return _Terms(credential, "/".join(scope), day, names, "host" in names), fields["Signature"]
