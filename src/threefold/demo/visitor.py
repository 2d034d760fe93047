"""An employee's device, to look at the recovered CRM as one would: it enrols by invitation and proves each request.

Plain HTTP over a socket of its own; the proofs are RFC 9449's, as in a browser (docs/reference/crm-api.md).
"""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from joserfc import jws
from joserfc.jwk import ECKey
from joserfc.util import urlsafe_b64encode

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case

    def json(self) -> Any:
        return json.loads(self.body)


class Visitor:
    """``url``: the CRM's public address."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url.rstrip("/")
        self._clock = clock
        self._key = ECKey.generate_key("P-256", private=True)
        self._token = ""

    def enrol(self, link: str, device: str) -> None:
        """By the invitation in ``link``. Raises Unavailable with what the CRM said."""
        asked = {
            "token": urlsplit(link).fragment,
            "device": device,
            "password": secrets.token_urlsafe(24),
            "bearer": True,
        }
        answer = self.ask("POST", "/connect/enrol", asked)
        self._token = str(answer.json()["token"])

    def ask(self, method: str, target: str, sent: Any = None, *, accept: str = "application/json") -> Answer:
        """Raises Unavailable for any answer but success."""
        answer = self.send(method, target, sent, accept=accept)
        if not 200 <= answer.status < 300:
            raise Unavailable(f"the CRM answered {method} {target} with {answer.status}: {answer.body[:300]!r}")
        return answer

    def send(
        self, method: str, target: str, sent: Any = None, *, accept: str = "application/json", key: str = ""
    ) -> Answer:
        """Whatever the answer is. ``key``: the request's Idempotency-Key. Raises Unavailable where none comes."""
        headers = {"Accept": accept, "DPoP": self._proof(method, target.partition("?")[0])}
        if sent is not None:
            headers |= {"Content-Type": "application/json", "Origin": self._url}
        if key:
            headers["Idempotency-Key"] = key
        if self._token:
            headers["Authorization"] = f"DPoP {self._token}"
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=20)
        try:
            connection.request(method, target, None if sent is None else json.dumps(sent), headers)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, response.read(), headers)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the CRM does not answer at {self._url}: {error}") from None
        finally:
            connection.close()

    def _proof(self, method: str, path: str) -> str:
        now: datetime = self._clock.now()
        claims: dict[str, Any] = {
            "htm": method,
            "htu": self._url + path,
            "iat": int(now.timestamp()),
            "jti": secrets.token_urlsafe(16),
        }
        if self._token:
            claims["ath"] = urlsafe_b64encode(sha256(self._token.encode()).digest()).decode()
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self._key.as_dict(private=False)}
        return jws.serialize_compact(header, json.dumps(claims), self._key, algorithms=["ES256"])
