"""Proofs: what holds, and everything that must not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from tests.edge_client import Key, b64, unb64

from threefold.connectivity.dpop import LONGEST_PROOF, SKEW, Proof, check, token_hash
from threefold.connectivity.refusals import BadProof

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ADDRESS = "https://crm.example/api/v1/queries"
KEY = Key()


def proof(**changed: object) -> str:
    return KEY.proof("POST", ADDRESS, **{"iat": int(NOW.timestamp()), **changed})


def checked(header: str, *, method: str = "POST", address: str = ADDRESS, token: str | None = None) -> Proof:
    return check(header, method=method, address=address, now=NOW, token=token)


def test_a_fresh_proof_holds_and_names_its_key() -> None:
    first, second = checked(proof()), checked(proof())
    assert first.thumbprint == second.thumbprint
    assert first.spent_id != second.spent_id
    assert first.jwk == KEY.jwk
    assert first.forget_at >= NOW + SKEW, "it would be taken again"


def test_the_same_id_by_another_key_is_another() -> None:
    other = Key().proof("POST", ADDRESS, iat=int(NOW.timestamp()), jti="the-same-id")
    assert checked(proof(jti="the-same-id")).spent_id != checked(other).spent_id


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"htm": "GET"}, "another method"),
        ({"htm": "post"}, "another method"),
        ({"htu": "https://crm.example/api/v1/requests"}, "another address"),
        ({"htu": "http://crm.example/api/v1/queries"}, "another address"),
        ({"htu": "https://crm.example.evil/api/v1/queries"}, "another address"),
        ({"htu": "https://crm.example:8443/api/v1/queries"}, "another address"),
        ({"htu": "https://[/api"}, "another address"),
        ({"htu": 5}, "another address"),
        ({"htu": None}, "another address"),
        ({"iat": None}, "no time"),
        ({"iat": "now"}, "no time"),
        ({"iat": True}, "no time"),
        ({"iat": float("nan")}, "no time"),
        ({"iat": float("inf")}, "no time"),
        ({"iat": 10**400}, "no time"),
        ({"iat": -1}, "no time"),
        ({"iat": NOW.timestamp() - 61}, "too old"),
        ({"iat": NOW.timestamp() + 61}, "too old"),
        ({"jti": None}, "jti"),
        ({"jti": "short"}, "jti"),
        ({"jti": "x" * 65}, "jti"),
        ({"jti": "with a space in it"}, "jti"),
        ({"jti": 12345678}, "jti"),
    ],
)
def test_a_claim_that_does_not_fit_is_refused(changed: dict[str, object], says: str) -> None:
    with pytest.raises(BadProof, match=says):
        checked(proof(**changed))


@pytest.mark.parametrize("off", [-59, 0, 59])
def test_a_clock_may_be_off_by_less_than_a_minute(off: int) -> None:
    checked(proof(iat=int((NOW + timedelta(seconds=off)).timestamp())))


@pytest.mark.parametrize(
    ("claimed", "asked"),
    [
        ("HTTPS://CRM.example/api/v1/queries", ADDRESS),
        ("https://crm.example:443/api/v1/queries", ADDRESS),
        ("https://crm.example/api/v1/queries?status=open#top", ADDRESS),
        ("https://crm.example", "https://crm.example/"),
    ],
)
def test_the_same_address_may_be_written_otherwise(claimed: str, asked: str) -> None:
    checked(KEY.proof("POST", claimed, iat=int(NOW.timestamp())), address=asked)


def test_no_part_may_be_altered() -> None:
    head, body, signature = proof().split(".")
    claims = json.loads(unb64(body)) | {"jti": "another-id-of-mine"}
    other = b64(json.dumps(claims).encode())
    flipped = b64(bytes([unb64(signature)[0] ^ 1]) + unb64(signature)[1:])
    for altered in (f"{head}.{other}.{signature}", f"{head}.{body}.{flipped}", f"{head}.{body}.", f"{head}.{body}"):
        with pytest.raises(BadProof):
            checked(altered)


def test_a_proof_signed_by_another_key_than_it_shows_is_refused() -> None:
    claims = {"htm": "POST", "htu": ADDRESS, "iat": int(NOW.timestamp()), "jti": "an-id-of-mine"}
    forged = Key().sign({"typ": "dpop+jwt", "alg": "ES256", "jwk": KEY.jwk}, claims)
    with pytest.raises(BadProof, match="signature"):
        checked(forged)


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "jwt", "alg": "ES256", "jwk": KEY.jwk},
        {"alg": "ES256", "jwk": KEY.jwk},
        {"typ": "dpop+jwt", "alg": "none", "jwk": KEY.jwk},
        {"typ": "dpop+jwt", "alg": "HS256", "jwk": KEY.jwk},
        {"typ": "dpop+jwt", "alg": "ES384", "jwk": KEY.jwk},
        {"typ": "dpop+jwt", "alg": "ES256"},
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": "key"},
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": KEY.jwk, "crit": ["b64"], "b64": False},
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": KEY.jwk, "jku": "https://evil.example"},
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": {**KEY.jwk, "d": "AAAA"}},
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": {**KEY.jwk, "crv": "P-384"}},
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": {**KEY.jwk, "kty": "OKP"}},
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": {**KEY.jwk, "y": KEY.jwk["x"]}},
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": {**KEY.jwk, "x": ""}},
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": {"kty": "oct", "k": "AAAA"}},
    ],
)
def test_only_es256_by_a_public_p256_key_is_taken(header: dict[str, object]) -> None:
    claims = {"htm": "POST", "htu": ADDRESS, "iat": int(NOW.timestamp()), "jti": "an-id-of-mine"}
    with pytest.raises(BadProof):
        checked(KEY.sign(header, claims))


@pytest.mark.parametrize("header", ["", "x", "..", "a.b.c", "e30.e30.e30", "[]" * 20, "W10.W10.", "\xff.\xff.\xff"])
def test_what_is_no_proof_at_all_is_refused(header: str) -> None:
    with pytest.raises(BadProof):
        checked(header)


def test_a_proof_is_bounded_before_it_is_read() -> None:
    with pytest.raises(BadProof, match="too long"):
        checked(proof(note="x" * LONGEST_PROOF))


def test_with_a_bearer_the_token_is_part_of_the_proof() -> None:
    checked(proof(ath=token_hash("mine")), token="mine")
    for ath in (None, token_hash("another")):
        with pytest.raises(BadProof, match="another session"):
            checked(proof(ath=ath), token="mine")
