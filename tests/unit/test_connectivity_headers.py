"""What answers tell the browser, and where people may reach us."""

from __future__ import annotations

import pytest

from threefold.connectivity.body import Body, bound
from threefold.connectivity.headers import Asked, finished, origin_of
from threefold.connectivity.problems import problem_of
from threefold.connectivity.refusals import TooLarge, TooMany
from threefold.crm.model.errors import Invalid, NotSaved, Stale
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import BadInput, NotThere

OURS = origin_of("https://crm.example")
LOCAL = origin_of("http://localhost:8000")
assert OURS is not None
assert LOCAL is not None


@pytest.mark.parametrize(
    ("url", "origin", "host", "name"),
    [
        ("https://CRM.example/", "https://crm.example", "crm.example", "crm.example"),
        ("https://crm.example:443", "https://crm.example", "crm.example", "crm.example"),
        ("https://crm.example:8443/x", "https://crm.example:8443", "crm.example:8443", "crm.example"),
        ("http://localhost:8000", "http://localhost:8000", "localhost:8000", "localhost"),
        ("http://crm.localhost", "http://crm.localhost", "crm.localhost", "crm.localhost"),
    ],
)
def test_the_public_address_gives_origin_host_and_relying_party(url: str, origin: str, host: str, name: str) -> None:
    found = origin_of(url)
    assert found is not None
    assert (found.url, found.host, found.name) == (origin, host, name)


@pytest.mark.parametrize("url", ["http://crm.example", "http://10.0.0.1:8000", "ftp://localhost", "crm.example", ""])
def test_plain_http_to_another_machine_is_no_public_address(url: str) -> None:
    assert origin_of(url) is None


def test_every_answer_has_the_policy_and_a_route_can_only_add_one_that_forbids_more() -> None:
    said = finished([(b"Content-Security-Policy", b"sandbox"), (b"x-thing", b"1")], OURS, public=False)
    added, ours = [value for name, value in said if name.lower() == b"content-security-policy"]
    assert added == b"sandbox"
    for part in (b"default-src 'self'", b"frame-ancestors 'none'", b"form-action 'self'", b"base-uri 'none'"):
        assert part in ours
    assert b"unsafe" not in ours
    weak = dict(finished([(b"X-Content-Type-Options", b"none"), (b"x-frame-options", b"ALLOW")], OURS, public=False))
    assert (weak[b"x-content-type-options"], weak[b"x-frame-options"]) == (b"nosniff", b"DENY")
    assert dict(said)[b"x-content-type-options"] == b"nosniff"
    assert b"strict-transport-security" in dict(said)
    assert dict(said)[b"x-thing"] == b"1"


def test_transport_security_is_not_promised_on_localhost() -> None:
    assert b"strict-transport-security" not in dict(finished([], LOCAL, public=False))


def test_what_holds_data_is_never_kept_by_a_cache() -> None:
    kept = [(b"cache-control", b"public, max-age=9")]
    assert dict(finished(kept, OURS, public=False))[b"cache-control"] == b"no-store"
    assert dict(finished(kept, OURS, public=True))[b"cache-control"] == b"public, max-age=9"
    assert dict(finished([], OURS, public=True))[b"cache-control"] == b"no-store"


@pytest.mark.parametrize(
    ("pairs", "elsewhere"),
    [
        ({}, False),
        ({"origin": "https://crm.example"}, False),
        ({"sec-fetch-site": "same-origin"}, False),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "https://crm.example.evil"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"origin": "https://crm.example", "sec-fetch-site": "cross-site"}, True),
    ],
)
def test_a_request_that_another_site_made_is_seen(pairs: dict[str, str], elsewhere: bool) -> None:
    asked = Asked([(name.encode(), value.encode()) for name, value in pairs.items()])
    assert asked.from_elsewhere(OURS) is elsewhere


def test_cookies_are_found_by_their_whole_name() -> None:
    asked = Asked([(b"cookie", b"a=1; x__Host-t=2; __Host-t=3=4"), (b"Cookie", b"b=5")])
    assert asked.cookie("__Host-t") == "3=4"
    assert asked.cookie("b") == "5"
    assert asked.cookie("t") == ""


async def test_a_body_is_bounded_by_what_comes_not_by_what_it_says() -> None:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"x" * 60, "more_body": True}

    body = Body(receive, 100, "10")
    await body.receive()
    with pytest.raises(TooLarge):
        await body.receive()
    assert body.too_large
    with pytest.raises(TooLarge):
        Body(receive, 100, "101")


def test_uploads_may_be_larger_than_json_and_nothing_of_connect_may() -> None:
    def of(path: str, kind: bytes) -> int:
        return bound(path, Asked([(b"content-type", kind)]))

    assert of("/api/v1/imports", b"text/csv; charset=utf-8") > of("/api/v1/queries", b"application/json")
    assert of("/connect/enrol", b"text/csv") < of("/api/v1/queries", b"application/json")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Invalid("x", {"name": "is missing"}), 422, "invalid"),
        (BadInput("x"), 400, "bad-input"),
        (NotThere("x"), 404, "not-found"),
        (Stale("x"), 412, "stale"),
        (NotSaved("x"), 503, "not-saved"),
        (TooMany("x", 1.2), 429, "too-many"),
        (RuntimeError("secret"), 500, "internal"),
    ],
)
def test_each_kind_of_error_is_one_status(error: Exception, status: int, code: str) -> None:
    problem = problem_of(error, SystemClock())
    said = problem.content()
    assert (problem.status, said["type"]) == (status, f"urn:threefold:problem:{code}")
    assert "secret" not in str(said)
    assert ("Retry-After" in problem.headers) == (status in {429, 503})
    if isinstance(error, TooMany):
        assert problem.headers["Retry-After"] == "2", "rounded up: sooner would be refused again"
    if isinstance(error, Invalid):
        assert said["fields"] == {"name": "is missing"}
    if status == 500:
        assert said["incident"]
