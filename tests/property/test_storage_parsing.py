"""Anybody's bytes at our storage server: a clear refusal, or what they say; never an exception, never a wedge."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conformance import servers
from tests.conformance.servers import Server

from threefold.storage_server import s3
from threefold.storage_server.s3 import S3Error
from threefold.stores.open import open_store
from threefold.stores.store import ABSENT

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DELETE = b"<Delete><Quiet>true</Quiet><Object><Key>a/b</Key></Object><Object><Key>c</Key></Object></Delete>"
COMPLETE = (
    b'<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"aa"</ETag></Part></CompleteMultipartUpload>'
)
RETENTION = b"<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2027-01-01T00:00:00Z</RetainUntilDate></Retention>"
LONG = st.integers(1, 9000).map(lambda many: "9" * many)


@st.composite
def hurt(draw: st.DrawFn, wholes: tuple[bytes, ...]) -> bytes:
    """A good document in which a stretch was replaced, repeated or cut out."""
    whole = draw(st.sampled_from(wholes))
    start, end = sorted((draw(st.integers(0, len(whole))), draw(st.integers(0, len(whole)))))
    middle = draw(st.one_of(st.binary(max_size=40), LONG.map(str.encode), st.just(whole), st.just(b"")))
    return whole[:start] + middle + whole[end:]


@given(st.one_of(st.binary(max_size=300), hurt((DELETE, COMPLETE, RETENTION))))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    with suppress(S3Error):
        keys, _ = s3.parse_delete(body)
        assert keys
        assert all(isinstance(key, str) for key in keys)
    with suppress(S3Error):
        assert s3.parse_complete(body)
    with suppress(S3Error):
        mode, until_ms = s3.parse_retention(body, NOW)
        assert mode
        assert until_ms > NOW.timestamp() * 1000


def test_the_whole_ones_are_read() -> None:
    assert s3.parse_delete(DELETE) == (["a/b", "c"], True)
    assert s3.parse_complete(COMPLETE) == [(1, "aa")]
    assert s3.parse_retention(RETENTION, NOW)[0] == "COMPLIANCE"


@given(st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_url_is_read_or_refused(raw: str) -> None:
    with suppress(S3Error):
        bucket, key = s3.split_path(raw)
        s3.check_bucket(bucket)
        s3.check_key(key)
        assert ".." not in bucket
    with suppress(S3Error):
        s3.parse_query(raw)


@given(
    st.one_of(st.text(max_size=40), st.builds("bytes={}-{}".format, st.one_of(LONG, st.just("")), LONG)),
    st.integers(0, 10**12),
)
def test_any_range_is_one_within_the_object(header: str, size: int) -> None:
    with suppress(S3Error):
        span = s3.parse_range(header, size)
        assert span is None or 0 <= span[0] < span[1] <= size


REQUESTS = (
    b"GET /crm-dr/a HTTP/1.1\r\nHost: x\r\nRange: bytes=0-5\r\n\r\n",
    (
        b"PUT /crm-dr/a HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\nContent-Length: 5\r\n"
        b"Authorization: AWS4-HMAC-SHA256 Credential=key/20261122/khi/s3/aws4_request, SignedHeaders=host, "
        b"Signature=00\r\nx-amz-date: 20261122T000000Z\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n\r\nhello"
    ),
    b"POST /crm-dr?delete HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /crm-dr?list-type=2&prefix=a HTTP/1.1\r\nHost: x\r\n\r\n",
)
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with servers.own() as server:
        yield server


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=300), hurt(REQUESTS)), st.integers(1, 400))
def test_any_bytes_on_the_wire_are_refused_and_the_server_goes_on(server: Server, raw: bytes, step: int) -> None:
    said = _say(server.port, raw, step)
    # Nobody signed anything: nothing may be done, and the server's own fault it is not.
    assert all(400 <= int(status) < 500 for status in STATUS.findall(said)), said
    # Answers to failures are held back by now; whoever signs well never waits.
    assert asyncio.run(_read(server)) is ABSENT
    assert server.process is not None
    assert server.process.poll() is None


async def _read(server: Server) -> object:
    store = open_store(server.config)
    try:
        return await store.read("nothing")
    finally:
        await store.close()


def _say(port: int, raw: bytes, step: int, patience: float = 0.05) -> bytes:
    """What comes back until the server closes, or says nothing for so long: it may wait for more of a request."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link, suppress(OSError):
        for at in range(0, len(raw), step):
            link.sendall(raw[at : at + step])
        link.settimeout(patience)
        while piece := link.recv(65536):
            said += piece
    return said
