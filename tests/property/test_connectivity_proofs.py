"""Whatever comes as a proof: it holds if and only if it is one, for this request, by the key that it shows."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.edge_client import Key

from threefold.connectivity.dpop import check
from threefold.connectivity.refusals import BadProof

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ADDRESS = "https://crm.example/api/v1/queries"
KEYS = [Key(), Key()]
GOOD = {"htm": "POST", "htu": ADDRESS, "iat": int(NOW.timestamp()), "jti": "an-id-of-mine"}
PROOF = KEYS[0].sign({"typ": "dpop+jwt", "alg": "ES256", "jwk": KEYS[0].jwk}, GOOD)
SIGNATURE_ENDS = len(PROOF) - 1  # the last character of base64 carries bits that mean nothing

json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def holds(header: str) -> bool:
    try:
        check(header, method="POST", address=ADDRESS, now=NOW)
    except BadProof:
        return False
    return True


@given(st.text(max_size=400) | st.text(alphabet="ey.JA-_=", max_size=400))
@settings(max_examples=200, deadline=None)
def test_no_text_is_a_proof(text: str) -> None:
    assert not holds(text)


@given(st.integers(0, SIGNATURE_ENDS - 1), st.sampled_from("ABCabc012-_.=\n "))
@settings(max_examples=300, deadline=None)
def test_no_character_may_be_another(place: int, other: str) -> None:
    assert holds(PROOF)
    altered = PROOF[:place] + other + PROOF[place + 1 :]
    assert altered == PROOF or not holds(altered)


@given(st.dictionaries(st.sampled_from([*GOOD, "ath", "exp", "nbf"]), json, max_size=4), st.integers(0, 1))
@settings(max_examples=300, deadline=None)
def test_claims_of_any_shape_are_refused_or_are_the_right_ones(changed: dict[str, object], signer: int) -> None:
    claims = GOOD | changed
    header = KEYS[signer].sign({"typ": "dpop+jwt", "alg": "ES256", "jwk": KEYS[0].jwk}, claims)
    if holds(header):
        assert signer == 0
        assert claims["htm"] == "POST"
        assert isinstance(claims["iat"], int | float)
        assert abs(claims["iat"] - NOW.timestamp()) <= 60
        assert isinstance(claims["jti"], str)


@given(st.dictionaries(st.sampled_from(["typ", "alg", "jwk", "crit", "kid", "jku", "x5c"]), json, max_size=3))
@settings(max_examples=200, deadline=None)
def test_headers_of_any_shape_are_refused_or_are_the_right_ones(changed: dict[str, object]) -> None:
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": KEYS[0].jwk}
    assert (header | changed == header) == holds(KEYS[0].sign(header | changed, GOOD))
