"""Creates that the server takes without a task: the same answers, and the same objects, as by the long way."""

from __future__ import annotations

import socket
from contextlib import closing
from datetime import UTC, datetime

import obstore
import pytest
from storage_clients import open_obstore
from storage_process import BUCKET, KEY, SECRET, Launch, StorageProcess

from threefold.kernel.clock import SystemClock
from threefold.stores.s3_create import S3Creates


def _signed(server: StorageProcess, key: str, body: bytes, *, secret: str = SECRET) -> bytes:
    """A whole request, as the DRaaS server makes it."""
    creates = S3Creates(
        server.endpoint,
        BUCKET,
        region="khi",
        access_key_id=KEY,
        secret_access_key=secret,
        tls=None,
        clock=SystemClock(),
    )
    return creates._head(key, body) + body


def _statuses(server: StorageProcess, *pieces: bytes, answers: int = 1) -> list[int]:
    """What is answered to bytes that are sent piece by piece over one connection."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        said = b""
        while said.count(b"HTTP/1.1 ") < answers or not said.endswith((b"\r\n\r\n", b"</Error>")):
            got = connection.recv(65536)
            if not got:
                break
            said += got
    return [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]


def test_it_is_there_for_everybody_and_only_once(launch: Launch) -> None:
    server = launch()
    assert _statuses(server, _signed(server, "log/1/1", b"first")) == [200]
    assert _statuses(server, _signed(server, "log/1/1", b"second")) == [412]
    store = open_obstore(server)
    assert bytes(obstore.get(store, "log/1/1").bytes()) == b"first"
    assert [each["path"] for page in obstore.list(store, "log") for each in page] == ["log/1/1"]


def test_it_outlives_a_kill(launch: Launch) -> None:
    server = launch()
    for number in range(50):
        assert _statuses(server, _signed(server, f"log/1/{number}", b"%d" % number)) == [200]
    server.kill()
    server.start()
    store = open_obstore(server)
    assert [bytes(obstore.get(store, f"log/1/{number}").bytes()) for number in range(50)] == [
        b"%d" % number for number in range(50)
    ]


def test_several_in_one_piece_are_answered_in_order(launch: Launch) -> None:
    server = launch()
    keys = ("a", "b", "a", "c")
    together = b"".join(_signed(server, key, b"v") for key in keys)
    assert _statuses(server, together, answers=4) == [200, 200, 412, 200]


def test_what_follows_in_the_same_piece_is_answered_after_it(launch: Launch) -> None:
    """An unsigned read behind a create: by another way, and not before."""
    server = launch()
    read = b"GET /crm-dr/a HTTP/1.1\r\nhost: x\r\n\r\n"
    assert _statuses(server, _signed(server, "a", b"v") + read + _signed(server, "b", b"v"), answers=3) == [
        200,
        403,
        200,
    ]


def test_wherever_it_is_cut_it_is_one_request(launch: Launch) -> None:
    server = launch()
    length = len(_signed(server, "cut/000", b"some bytes"))
    for at in range(1, length, 7):
        request = _signed(server, f"cut/{at:03}", b"some bytes")
        assert _statuses(server, request[:at], request[at:]) == [200], at
    store = open_obstore(server)
    found = {each["path"] for page in obstore.list(store, "cut") for each in page}
    assert found == {f"cut/{at:03}" for at in range(1, length, 7)}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda request: request.replace(b"Signature=", b"Signature=0", 1), 403),
        (lambda request: request.replace(b"\r\nx-amz-date", b"\r\nx-amz-meta-not-signed: 1\r\nx-amz-date", 1), 403),
        (lambda request: request[:-1] + b"!", 400),
        (lambda request: request.replace(b"/log/1/1 ", b"/log/1/2 ", 1), 403),
        (lambda request: request.replace(b"if-none-match: *\r\n", b"", 1), 403),
    ],
)
def test_what_does_not_prove_itself_is_not_there(launch: Launch, change: object, status: int) -> None:
    server = launch()
    assert callable(change)
    assert _statuses(server, change(_signed(server, "log/1/1", b"body"))) == [status]
    assert [each for page in obstore.list(open_obstore(server)) for each in page] == []


def test_a_stranger_is_told_apart_from_the_owner(launch: Launch) -> None:
    server = launch()
    assert _statuses(server, _signed(server, "k", b"v", secret="another one")) == [403]


def test_what_a_header_asks_for_is_kept(launch: Launch) -> None:
    """A create with more in its head than bytes and a key goes the long way."""
    server = launch()
    store = open_obstore(server)
    obstore.put(store, "described", b"v", mode="create", attributes={"Content-Type": "text/csv"})
    assert obstore.get(store, "described").attributes["Content-Type"] == "text/csv"


def test_a_bucket_that_is_not_there_is_named(launch: Launch) -> None:
    server = launch(bucket="another")
    assert _statuses(server, _signed(server, "k", b"v")) == [404]


def test_who_never_reads_is_not_answered_for_ever(launch: Launch) -> None:
    """Thousands of requests without taking one answer: the server stops reading, and others are served."""
    server = launch()
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(2)
        request = _signed(server, "same", b"v")
        sent = 0
        try:
            while sent < 64 << 20:
                sent += connection.send(request * 50)
        except TimeoutError:
            pass
        assert sent < 64 << 20
        assert _statuses(server, _signed(server, f"other/{datetime.now(UTC):%f}", b"v")) == [200]
