"""A client of the CRM for tests and benchmarks: a device with its key, that proves every request (RFC 9449).

    client = Client("http://localhost:8000")
    client.enrol(token, "A laptop", password="a sentence to sign in with")
    answer = client.request("POST", "/api/v1/queries", {"subject": "..."}, key="...")
    answer.status, answer.headers["etag"], answer.json()

Plain http.client, one connection kept open, made again when it was closed. Not for several threads: make a client for
each; `Client.twin` shares key and session. As a browser would, ``bearer=False`` keeps the cookie instead of the token.
`Authenticator` is a passkey in software.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Key:
    """A device's P-256 key."""

    def __init__(self, private: ec.EllipticCurvePrivateKey | None = None) -> None:
        self.private = private or ec.generate_private_key(ec.SECP256R1())
        numbers = self.private.public_key().public_numbers()
        self.jwk = {
            "kty": "EC",
            "crv": "P-256",
            "x": b64(numbers.x.to_bytes(32, "big")),
            "y": b64(numbers.y.to_bytes(32, "big")),
        }

    def sign(self, header: Mapping[str, Any], payload: Mapping[str, Any]) -> str:
        head, body = (b64(json.dumps(part).encode()) for part in (header, payload))
        r, s = decode_dss_signature(self.private.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256())))
        return f"{head}.{body}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def proof(self, method: str, address: str, *, token: str | None = None, **changed: Any) -> str:
        """``address``: without query. ``changed``: claims to set otherwise; None leaves one out."""
        claims: dict[str, Any] = {"htm": method, "htu": address, "iat": int(time.time()), "jti": secrets.token_hex(16)}
        if token is not None:
            claims["ath"] = b64(hashlib.sha256(token.encode()).digest())
        claims = {name: value for name, value in (claims | changed).items() if value is not None}
        return self.sign({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk}, claims)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The last word of a problem's type."""
        return str(self.json()["type"]).rpartition(":")[2]


@dataclass
class Client:
    """``origin``: the server's public address. ``connect``: where it really listens, if elsewhere."""

    origin: str
    connect: tuple[str, int] | None = None
    key: Key = field(default_factory=Key)
    token: str | None = None
    cookie: str = ""
    timeout: float = 30.0
    who: dict[str, Any] = field(default_factory=dict)
    _http: http.client.HTTPConnection | None = None

    def twin(self) -> Client:
        """The same device and session, on a connection of its own."""
        return Client(self.origin, self.connect, self.key, self.token, self.cookie, self.timeout, self.who)

    def enrol(
        self, token: str, device: str = "test", *, password: str | None = None, bearer: bool = True, **more: Any
    ) -> Answer:
        sent = {"token": token, "device": device, "bearer": bearer, **more}
        if password is not None:
            sent["password"] = password
        return self._signed_in(self.request("POST", "/connect/enrol", sent))

    def sign_in(self, email: str, password: str, *, bearer: bool = True) -> Answer:
        sent = {"email": email, "password": password, "bearer": bearer}
        return self._signed_in(self.request("POST", "/connect/signin", sent))

    def _signed_in(self, answer: Answer) -> Answer:
        if answer.status in {200, 201}:
            self.who = answer.json()
            self.token = self.who.get("token")
            self.cookie = answer.headers.get("set-cookie", "").partition(";")[0]
        return answer

    def get(self, target: str, **more: Any) -> Answer:
        return self.request("GET", target, **more)

    def post(self, target: str, sent: Any = None, **more: Any) -> Answer:
        return self.request("POST", target, {} if sent is None else sent, **more)

    def headers(self, method: str, target: str) -> dict[str, str]:
        """Of a request by this device: proof and session."""
        address = self.origin + target.partition("?")[0]
        said = {"DPoP": self.key.proof(method, address, token=self.token)}
        if self.token:
            said["Authorization"] = f"DPoP {self.token}"
        elif self.cookie:
            said["Cookie"] = self.cookie
        return said

    def request(
        self,
        method: str,
        target: str,
        sent: Any = None,
        *,
        key: str = "",
        headers: Mapping[str, str | None] | None = None,
    ) -> Answer:
        """``sent``: bytes as they are, anything else as JSON. ``headers``: over ours; None leaves one out."""
        body = sent if sent is None or isinstance(sent, bytes) else json.dumps(sent).encode()
        said: dict[str, str | None] = dict(self.headers(method, target))
        if body is not None:
            said["Content-Type"] = "application/json"
        if key:
            said["Idempotency-Key"] = key
        said = {**said, **(headers or {})}
        return self.send(method, target, body, {name: value for name, value in said.items() if value is not None})

    def send(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """As it is. A connection that the server closed while it was idle is made again, once."""
        for attempt in (1, 2):
            fresh = self._http is None
            self._http = self._http or self._opened()
            try:
                self._http.request(method, target, body, {"Host": urlsplit(self.origin).netloc, **headers})
                response = self._http.getresponse()
                content = response.read()
            except (http.client.HTTPException, OSError):
                self.close()
                if fresh or attempt == 2:
                    raise
                continue
            if response.will_close:
                self.close()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)
        raise AssertionError

    def stream(self, target: str) -> http.client.HTTPResponse:
        """An answer that goes on, on a connection of its own."""
        connection = self._opened()
        connection.request("GET", target, headers={"Host": urlsplit(self.origin).netloc, **self.headers("GET", target)})
        return connection.getresponse()

    def _opened(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.origin)
        host, port = self.connect or ("127.0.0.1", parts.port or 80)
        return http.client.HTTPConnection(host, port, timeout=self.timeout)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


class Authenticator:
    """A passkey in software: P-256, attestation "none", the person always verified (unless ``verifies`` is False)."""

    def __init__(self, origin: str, *, verifies: bool = True) -> None:
        self.origin = origin
        self.verifies = verifies
        self.id = secrets.token_bytes(16)
        self.count = 0
        self.user = b""
        self._key = ec.generate_private_key(ec.SECP256R1())

    def create(self, options: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
        """What ``navigator.credentials.create`` would answer, as JSON."""
        self.user = unb64(options["user"]["id"])
        numbers = self._key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        attested = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + cbor2.dumps(cose)
        data = self._data(options["rp"]["id"], 0x40) + attested
        client = self._client("webauthn.create", options, changed)
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        return self._answer({"clientDataJSON": b64(client), "attestationObject": b64(attestation)})

    def get(self, options: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
        """What ``navigator.credentials.get`` would answer, as JSON."""
        self.count += 1
        data = self._data(options["rpId"], 0)
        client = self._client("webauthn.get", options, changed)
        signature = self._key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return self._answer(
            {
                "clientDataJSON": b64(client),
                "authenticatorData": b64(data),
                "signature": b64(signature),
                "userHandle": b64(self.user),
            }
        )

    def _data(self, rp_id: str, flags: int) -> bytes:
        flags |= 0x01 | (0x04 if self.verifies else 0)
        return hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big")

    def _client(self, kind: str, options: Mapping[str, Any], changed: Mapping[str, Any]) -> bytes:
        said = {"type": kind, "challenge": options["challenge"], "origin": self.origin, "crossOrigin": False}
        return json.dumps({**said, **changed}).encode()

    def _answer(self, response: Mapping[str, str]) -> dict[str, Any]:
        return {
            "id": b64(self.id),
            "rawId": b64(self.id),
            "type": "public-key",
            "response": dict(response),
            "clientExtensionResults": {},
        }
