"""What errors say for certain. Statuses come over a real connection, so that a new obstore that words them differently
turns this red."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from tests.fault_proxy import Fault, FaultProxy

from threefold.stores.answers import understand
from threefold.stores.open import StoreConfig, open_store
from threefold.stores.store import ABSENT, Listed, Made, ObjectStore, Page, Unknown


@pytest.fixture
def server() -> Iterator[FaultProxy]:
    with FaultProxy() as proxy:
        yield proxy


def _s3(port: int) -> ObjectStore:
    endpoint = f"http://127.0.0.1:{port}"
    return open_store(
        StoreConfig("S1", "s3://bkt/p", endpoint, access_key_id="AKID", secret_access_key="hush", log_timeout=1)
    )


def _gs(port: int) -> ObjectStore:
    account = {"gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True}
    account |= {"client_email": "", "private_key": "", "private_key_id": ""}
    endpoint = f"http://127.0.0.1:{port}"
    return open_store(StoreConfig("S2", "gs://bkt/p", endpoint, secret_access_key=json.dumps(account), log_timeout=1))


def _az(port: int) -> ObjectStore:
    endpoint = f"http://127.0.0.1:{port}/acc"
    return open_store(
        StoreConfig("S3", "az://bkt/p", endpoint, access_key_id="acc", secret_access_key="aGFzaA==", log_timeout=1)
    )


_ANSWERS = [
    (_s3, 412, "PreconditionFailed", Made.EXISTS, None),
    (_s3, 409, "ConditionalRequestConflict", None, None),
    (_s3, 409, "", None, None),
    (_s3, 404, "NoSuchKey", None, ABSENT),
    (_s3, 404, "NoSuchBucket", None, None),
    (_s3, 404, "", None, None),
    (_s3, 416, "InvalidRange", None, b""),
    (_s3, 429, "SlowDown", None, None),
    (_gs, 412, "PreconditionFailed", Made.EXISTS, None),
    (_gs, 404, "NoSuchKey", None, ABSENT),
    (_gs, 404, "NoSuchBucket", None, None),
    (_gs, 429, "SlowDown", None, None),
    (_az, 409, "BlobAlreadyExists", Made.EXISTS, None),
    (_az, 409, "ContainerBeingDeleted", None, None),
    (_az, 404, "BlobNotFound", None, ABSENT),
    (_az, 404, "ContainerNotFound", None, None),
]


@pytest.mark.parametrize(("client", "status", "code", "to_create", "to_read"), _ANSWERS)
async def test_only_a_definite_answer_is_definite(
    server: FaultProxy,
    client: Callable[[int], ObjectStore],
    status: int,
    code: str,
    to_create: object,
    to_read: object,
) -> None:
    """``None`` in the table stands for Unknown."""
    server.do(Fault.ANSWER, status=status, code=code)
    store = client(server.port)
    for answer, wanted in (
        (await store.create("k", b"x"), to_create),
        (await store.read("k", start=7, length=3), to_read),
    ):
        if wanted is None:
            assert isinstance(answer, Unknown)
            assert answer.reason == f"{store.name} answered {status} {code}".rstrip()
        else:
            assert answer == wanted
    assert isinstance(await store.list("k"), Unknown)


async def test_a_server_that_neither_sorts_nor_goes_on_after(server: FaultProxy) -> None:
    """S3 directory buckets do not sort; one server ignores start-after."""
    numbers = [*range(300, 100, -1), 1, 8, 2]  # more than the client hands on at once
    item = "<Contents><Key>p/log/{}</Key><Size>{}</Size><LastModified>2026-11-01T00:00:00Z</LastModified></Contents>"
    items = "".join(item.format(number, number) for number in numbers)
    listing = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
    server.do(Fault.ANSWER, status=200, body=listing.encode())
    page = await _s3(server.port).list("log", after="log/104", limit=3)
    assert page == Page((Listed("log/105", 105), Listed("log/106", 106), Listed("log/107", 107)), last=False)
    page = await _s3(server.port).list("log", after="log/300", limit=2)
    assert page == Page((Listed("log/8", 8),), last=True)
    page = await _s3(server.port).list("log", limit=2)
    assert page == Page((Listed("log/1", 1), Listed("log/101", 101)), last=False)


async def test_one_missing_key_does_not_spare_the_others(server: FaultProxy) -> None:
    """GCS calls a missing key an error, at which the client gives the other deletes up."""
    server.do(Fault.ANSWER, status=404, code="NoSuchKey")
    keys = [f"log/{number:02}" for number in range(40)]
    assert await _gs(server.port).delete(keys) is None
    asked = {head.split()[1].rpartition("%2F")[2] for head in server.heads if head.startswith("DELETE ")}
    assert asked == {key[-2:] for key in keys}


async def test_reasons_hold_no_secret_and_no_address(server: FaultProxy) -> None:
    server.do(Fault.CUT)
    store = _s3(server.port)
    reasons = [
        answer.reason for answer in (await store.read("k"), await store.list("k")) if isinstance(answer, Unknown)
    ]
    assert reasons == ["S1 broke the connection off"] * 2
    with FaultProxy() as gone:
        port = gone.port
    answer = await _s3(port).create("k", b"")
    assert answer == Unknown("S1 cannot be reached")


async def test_the_environment_of_another_provider_is_left_alone(
    server: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_SESSION_TOKEN": "of another account",
        "AWS_SKIP_SIGNATURE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    server.do(Fault.ANSWER, status=404, code="NoSuchKey")
    assert await _s3(server.port).read("k") is ABSENT
    head = server.heads[0].lower()
    assert "credential=akid/" in head
    assert "x-amz-security-token" not in head


async def test_headers_of_the_store_are_sent(server: FaultProxy) -> None:
    server.do(Fault.ANSWER, status=404, code="NoSuchKey")
    config = StoreConfig(
        "S1",
        "s3://bkt",
        f"http://127.0.0.1:{server.port}",
        access_key_id="a",
        secret_access_key="b",
        headers={"x-amz-storage-class": "STANDARD"},
    )
    await open_store(config).create("k", b"x")
    head = server.heads[0].lower()
    assert "x-amz-storage-class: standard" in head
    assert "if-none-match: *" in head


async def test_a_bucket_of_another_region(server: FaultProxy) -> None:
    server.do(Fault.ANSWER, status=301, code="PermanentRedirect")
    assert await _s3(server.port).read("k") == Unknown("S1 has its bucket in another region")


def test_a_text_of_another_form_is_unknown() -> None:
    failure = understand(FileNotFoundError("Object at location k not found"))
    assert not failure.absent
    assert not failure.exists
    assert failure.reason == "failed with FileNotFoundError"


def test_a_bulk_delete_tells_each_keys_own_fate() -> None:
    text = "Object at location k not found: Bulk delete request failed for key k: {} (code: 404)"
    assert understand(FileNotFoundError(text.format("The specified blob does not exist."))).absent
    assert not understand(FileNotFoundError(text.format("The specified container does not exist."))).absent
