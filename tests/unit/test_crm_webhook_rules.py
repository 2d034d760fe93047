"""Webhooks: a signature that proves the bytes, patience that ends, and no way into one's own network."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from threefold.crm.exchange import webhook_rules
from threefold.crm.model.errors import Invalid

SECRET, BODY, AT = "shh", b'{"id":"1"}', 1_800_000_000


def test_the_signature_is_what_the_docs_say() -> None:
    expected = hmac.new(b"shh", b'1800000000.{"id":"1"}', hashlib.sha256).hexdigest()
    assert webhook_rules.sign(SECRET, AT, BODY) == f"t=1800000000,v1={expected}"


def test_only_the_very_bytes_under_the_secret_within_minutes_are_genuine() -> None:
    header = webhook_rules.sign(SECRET, AT, BODY)
    assert webhook_rules.genuine(SECRET, header, BODY, AT + 299)
    assert not webhook_rules.genuine(SECRET, header, BODY + b" ", AT)
    assert not webhook_rules.genuine("other", header, BODY, AT)
    assert not webhook_rules.genuine(SECRET, header, BODY, AT + 301)
    for bad in ("", "t=,v1=", "v1=00", "t=x,v1=y", header.replace("t=18", "t=19"), "t=²,v1=é", header[:-1]):
        assert not webhook_rules.genuine(SECRET, bad, BODY, AT)


def test_pauses_grow_spread_and_end_after_about_a_day() -> None:
    pauses = [webhook_rules.pause(attempts, 0.5) for attempts in range(1, webhook_rules.ATTEMPTS)]
    assert None not in pauses
    known = [float(seconds or 0) for seconds in pauses]
    assert known == sorted(known)
    assert 20 * 3600 < sum(known) < 36 * 3600
    assert webhook_rules.pause(webhook_rules.ATTEMPTS, 0.5) is None
    assert webhook_rules.pause(1, 0.0) != webhook_rules.pause(1, 0.99)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "not an address",
        "",
    ],
)
def test_local_addresses_are_not_public_however_they_are_written(address: str) -> None:
    assert not webhook_rules.public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_the_internet_is_public(address: str) -> None:
    assert webhook_rules.public(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://example.com/",
        "https://",
        "https:///path",
        "https://me:pass@example.com/",
        "https://@example.com/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: evil",
        "https://[::1/",
        "https://ex%2fample.com/",
        "https://münchen.example/",
        "https://example.com/" + "x" * 2000,
    ],
)
def test_what_is_no_receivers_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as raised:
        webhook_rules.check_url(url, private=False)
    assert "url" in raised.value.fields


def test_plain_http_is_for_ones_own_network() -> None:
    webhook_rules.check_url("https://example.com/hook?x=1", private=False)
    webhook_rules.check_url("https://[2606:4700::1]:8443/hook", private=False)
    webhook_rules.check_url("http://localhost:8080/", private=True)
