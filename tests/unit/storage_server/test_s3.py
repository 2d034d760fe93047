"""Names, ranges, locks, XML, payloads, throttling: the parts that decide without acting."""

from __future__ import annotations

import zlib
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threefold.storage_server import s3
from threefold.storage_server.catalog import Bucket
from threefold.storage_server.entries import INLINE, Entry, Place, decode_put, encode_put
from threefold.storage_server.payload import Payload
from threefold.storage_server.s3 import S3Error
from threefold.storage_server.throttle import FREE_FAILURES, HOLD_MAX_S, Throttle

PLACE = Place(1, 2, 3, 4, 5, 6, 7)
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def entry(**changes: Any) -> Entry:
    fields = {
        "size": 1,
        "modified_ms": 2,
        "locked_until_ms": 3,
        "lock_mode": 2,
        "sha256": bytes(32),
        "file_id": INLINE,
        "attributes": b"{}",
        "checksums": b"abcdefgh",
        "place": PLACE,
    }
    return Entry(**fields | changes)


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=5-500", (5, 10)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,4-5", None),
        ("lines=1-2", None),
    ],
)
def test_ranges(header: str | None, span: tuple[int, int] | None) -> None:
    assert s3.parse_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=11-20", "bytes=-0"])
def test_a_range_that_holds_nothing_is_416(header: str | None) -> None:
    with pytest.raises(S3Error) as error:
        s3.parse_range(header, 10)
    assert error.value.status == 416


@pytest.mark.parametrize("name", ["", "a", "ab", "A.b", "..", "a..b", "-ab", "a/b", "a" * 64, "a b c", "../etc"])
def test_bucket_names_that_are_none(name: str) -> None:
    with pytest.raises(S3Error):
        s3.check_bucket(name)


@pytest.mark.parametrize("key", ["", "a\nb", "\0", "a\x7f\x1f", "ä" * 513, "￾"])
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(S3Error):
        s3.check_key(key)


@pytest.mark.parametrize("key", ["../../etc/passwd", "/abs", "a//b", "ä€😀", "a b+c%", "."])
def test_keys_are_only_letters(key: str) -> None:
    assert s3.check_key(key) == key


def test_a_lock_never_ends_early() -> None:
    mode, until = s3.parse_lock(
        {"x-amz-object-lock-mode": "COMPLIANCE", "x-amz-object-lock-retain-until-date": "2026-11-23T00:00:00.0005Z"},
        NOW,
    )
    assert mode == "COMPLIANCE"
    assert until >= datetime(2026, 11, 23, tzinfo=UTC).timestamp() * 1000 + 0.5


@pytest.mark.parametrize(
    ("mode", "until"),
    [
        ("COMPLIANCE", ""),
        ("", "2026-11-23T00:00:00Z"),
        ("FOREVER", "2026-11-23T00:00:00Z"),
        ("GOVERNANCE", "tomorrow"),
        ("GOVERNANCE", "2026-11-23T00:00:00"),
        ("GOVERNANCE", "2026-11-21T00:00:00Z"),
    ],
)
def test_half_a_lock_is_refused_not_dropped(mode: str, until: str) -> None:
    headers = {"x-amz-object-lock-mode": mode, "x-amz-object-lock-retain-until-date": until}
    with pytest.raises(S3Error):
        s3.parse_lock(headers, NOW)


def test_meta_is_read_back() -> None:
    meta = encode_put("bucket", "kéy", entry())
    assert decode_put(meta, PLACE, damaged=False) == ("bucket", "kéy", entry())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_xml_with_a_document_type_is_refused(encoding: str) -> None:
    text = '<!DOCTYPE x [<!ENTITY a "b">]><Delete><Object><Key>&a;</Key></Object></Delete>'
    with pytest.raises(S3Error):
        s3.parse_delete(text.encode(encoding))


def test_a_body_that_was_not_signed_is_refused() -> None:
    payload = Payload(sha256(b"good").hexdigest(), {}, secure=False)
    payload.feed(b"evil")
    with pytest.raises(S3Error) as error:
        payload.finish()
    assert error.value.code == "XAmzContentSHA256Mismatch"


def test_an_unsigned_body_needs_tls() -> None:
    Payload("UNSIGNED-PAYLOAD", {}, secure=True)
    with pytest.raises(S3Error):
        Payload("UNSIGNED-PAYLOAD", {}, secure=False)


def frames(body: bytes, size: int, crc: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    wire = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts)
    return wire + b"0\r\nx-amz-checksum-crc32:" + b64encode(crc.to_bytes(4, "big")) + b"\r\n\r\n"


def trailer_payload() -> Payload:
    return Payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER", {"x-amz-trailer": "x-amz-checksum-crc32"}, secure=True)


@given(st.binary(min_size=1, max_size=200), st.integers(1, 50), st.integers(1, 30))
def test_framed_bodies_come_apart_however_they_arrive(body: bytes, size: int, step: int) -> None:
    wire = frames(body, size, zlib.crc32(body))
    payload = trailer_payload()
    assert b"".join(payload.feed(wire[at : at + step]) for at in range(0, len(wire), step)) == body
    assert payload.finish() == sha256(body).digest()


def test_framed_bodies_are_proved() -> None:
    payload = trailer_payload()
    payload.feed(frames(b"body", 4, 123))
    with pytest.raises(S3Error) as error:
        payload.finish()
    assert error.value.code == "BadDigest"


def test_a_framed_body_cut_short_is_refused() -> None:
    wire = frames(b"body" * 5, 4, zlib.crc32(b"body" * 5))
    for cut in range(len(wire) - 4):
        payload = trailer_payload()
        with pytest.raises(S3Error):
            _ = payload.feed(wire[:cut]), payload.finish()


keys = st.text("ab/c", min_size=1, max_size=6)


@given(
    st.lists(st.tuples(keys, st.booleans())),
    st.text("ab/", max_size=3),
    st.sampled_from(["", "/"]),
    st.integers(1, 4),
)
def test_listings_page_through_all_and_only_what_is_there(
    operations: list[tuple[str, bool]], prefix: str, delimiter: str, limit: int
) -> None:
    bucket, there = Bucket(PLACE), {}
    for key, put in operations:
        if put:
            bucket.put(key, entry())
            there[key] = True
        else:
            bucket.delete(key)
            there.pop(key, None)
        bucket.list(prefix="", after="", delimiter="", limit=1)
    seen, groups, after = [], [], ""
    for _ in range(100):
        page = bucket.list(prefix=prefix, after=after, delimiter=delimiter, limit=limit)
        seen += [key for key, _ in page.objects]
        groups += page.prefixes
        assert len(page.objects) + len(page.prefixes) <= limit
        after = page.last
        if not page.more:
            break
    expected_groups, expected = set(), []
    for key in sorted(key for key in there if key.startswith(prefix)):
        head, found, _ = key[len(prefix) :].partition("/")
        if delimiter and found:
            expected_groups.add(prefix + head + "/")
        else:
            expected.append(key)
    assert seen == expected
    assert groups == sorted(expected_groups)


def test_only_failures_wait_and_they_wait_longer() -> None:
    throttle = Throttle()
    holds = [throttle.failed("1.2.3.4", 0.0) for _ in range(20)]
    assert holds[:FREE_FAILURES] == [0.0] * FREE_FAILURES
    assert holds == sorted(holds)
    assert holds[-1] == HOLD_MAX_S
    assert throttle.failed("5.6.7.8", 0.0) == 0.0
    assert throttle.failed("1.2.3.4", 100.0) == 0.0
