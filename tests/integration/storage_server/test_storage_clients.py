"""obstore and boto3, unchanged and plainly configured, against the real process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import obstore
import psutil
import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError
from storage_clients import open_boto, open_obstore
from storage_process import BUCKET, Launch

from threefold.kernel.errors import Refused
from threefold.storage_server.credentials import ENV_KEY, ENV_SECRET
from threefold.storage_server.http import CONNECTIONS_MAX
from threefold.storage_server.serve import ServeConfig, serve

ODD_KEYS = ["a b/c+d", "ä/€/😀", "x%2Fy", "tilde~dots..", "q?a=b&c#d", "..."]
SIZES = [0, 1, 8192, 64 << 10, (64 << 10) + 1, 3 << 20]


def code(error: Any) -> tuple[str, int]:
    return error.value.response["Error"]["Code"], error.value.response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize("size", SIZES)
def test_obstore_reads_back_what_it_put(launch: Launch, size: int) -> None:
    store, body = open_obstore(launch()), os.urandom(size)
    obstore.put(store, "log/1", body, mode="create", use_multipart=False)
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "log/1", b"rival", mode="create", use_multipart=False)
    assert bytes(obstore.get(store, "log/1").bytes()) == body
    assert obstore.head(store, "log/1")["size"] == size
    if size > 1:
        assert bytes(obstore.get_range(store, "log/1", start=1, end=size // 2 + 1)) == body[1 : size // 2 + 1]
        suffix = obstore.get(store, "log/1", options={"range": {"suffix": 5}}).bytes()
        assert bytes(suffix) == body[-5:]
    obstore.delete(store, ["log/1", "log/2"])
    with pytest.raises((NotFoundError, FileNotFoundError)):
        obstore.get(store, "log/1")
    obstore.put(store, "log/1", b"again", mode="create")


def test_obstore_updates_only_what_it_knows(launch: Launch) -> None:
    store = open_obstore(launch())
    first = obstore.put(store, "k", b"1")
    obstore.put(store, "k", b"2", mode={"e_tag": first["e_tag"].strip('"')})
    with pytest.raises(PreconditionError):
        obstore.put(store, "k", b"3", mode={"e_tag": first["e_tag"]})
    assert bytes(obstore.get(store, "k").bytes()) == b"2"


def test_obstore_multipart(launch: Launch, tmp_path: Path) -> None:
    server = launch()
    store, body = open_obstore(server), os.urandom(12 << 20)
    obstore.put(store, "pack", body, use_multipart=True, chunk_size=5 << 20, max_concurrency=3)
    assert bytes(obstore.get(store, "pack").bytes()) == body
    assert (
        bytes(obstore.get_range(store, "pack", start=(5 << 20) - 3, end=(6 << 20) + 7))
        == body[(5 << 20) - 3 : (6 << 20) + 7]
    )
    assert not list((server.data_dir / "uploads").iterdir())


def test_parts_out_of_order_and_replaced(launch: Launch) -> None:
    s3 = open_boto(launch())
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="m", Metadata={"note": "kept"})["UploadId"]
    named = {}
    for number, body in ((3, b"c" * 10), (1, b"x"), (2, b"b" * 7), (1, b"a" * 5)):
        part = s3.upload_part(Bucket=BUCKET, Key="m", UploadId=upload, PartNumber=number, Body=body)
        named[number] = {"PartNumber": number, "ETag": part["ETag"]}
    with pytest.raises(ClientError) as error:
        s3.complete_multipart_upload(
            Bucket=BUCKET, Key="m", UploadId=upload, MultipartUpload={"Parts": [named[2], named[1]]}
        )
    assert code(error) == ("InvalidPartOrder", 400)
    parts = {"Parts": [named[1], named[2], named[3]]}
    s3.complete_multipart_upload(Bucket=BUCKET, Key="m", UploadId=upload, MultipartUpload=parts)
    got = s3.get_object(Bucket=BUCKET, Key="m")
    assert got["Body"].read() == b"a" * 5 + b"b" * 7 + b"c" * 10
    assert got["Metadata"] == {"note": "kept"}
    with pytest.raises(ClientError) as error:
        s3.upload_part(Bucket=BUCKET, Key="m", UploadId=upload, PartNumber=1, Body=b"late")
    assert code(error) == ("NoSuchUpload", 404)


def test_listings(launch: Launch) -> None:
    server = launch()
    store, s3 = open_obstore(server), open_boto(server)
    keys = sorted(
        [f"log/1/{n:04d}" for n in range(25)] + [f"log/2/{n}" for n in range(3)] + [f"odd/{k}" for k in ODD_KEYS]
    )
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 7})
    assert [item["Key"] for page in pages for item in page["Contents"]] == keys
    after = s3.list_objects_v2(Bucket=BUCKET, Prefix="log/1/", StartAfter="log/1/0020")
    assert [item["Key"] for item in after["Contents"]] == [f"log/1/{n:04d}" for n in range(21, 25)]
    grouped = s3.list_objects_v2(Bucket=BUCKET, Delimiter="/")
    assert [item["Prefix"] for item in grouped["CommonPrefixes"]] == ["log/", "odd/"]
    for key in keys:
        assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == key.encode()
    listed = [item["path"] for page in obstore.list(store, "log", offset="log/1/0022") for item in page]
    assert listed == ["log/1/0023", "log/1/0024", "log/2/0", "log/2/1", "log/2/2"]
    level = obstore.list_with_delimiter(store, "log")
    assert list(level["common_prefixes"]) == ["log/1", "log/2"]


def test_boto3_buckets_metadata_conditions_and_deletes(launch: Launch) -> None:
    s3 = open_boto(launch())
    s3.create_bucket(Bucket="another", CreateBucketConfiguration={"LocationConstraint": "khi"})
    with pytest.raises(ClientError) as error:
        s3.create_bucket(Bucket="another")
    assert code(error) == ("BucketAlreadyOwnedByYou", 409)
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["another", BUCKET]
    s3.head_bucket(Bucket="another")
    put = s3.put_object(
        Bucket=BUCKET, Key="k", Body=b"v", ContentType="text/plain", Metadata={"a": "b"}, IfNoneMatch="*"
    )
    head = s3.head_object(Bucket=BUCKET, Key="k")
    assert (head["ContentType"], head["Metadata"], head["ETag"]) == ("text/plain", {"a": "b"}, put["ETag"])
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=BUCKET, Key="k", Body=b"w", IfNoneMatch="*")
    assert code(error) == ("PreconditionFailed", 412)
    for wrong in ("missing-one", "another"):
        with pytest.raises(ClientError) as error:
            s3.get_object(Bucket=wrong, Key="k")
        assert code(error)[1] == 404
    answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "k"}, {"Key": "never"}]})
    assert [item["Key"] for item in answer["Deleted"]] == ["k", "never"]
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=BUCKET, Key="k")
    assert code(error) == ("NoSuchKey", 404)


def test_a_bucket_is_never_made_by_using_it(launch: Launch) -> None:
    s3 = open_boto(launch(bucket=""))
    for ask in (
        lambda: s3.put_object(Bucket=BUCKET, Key="k", Body=b"v"),
        lambda: s3.get_object(Bucket=BUCKET, Key="k"),
        lambda: s3.list_objects_v2(Bucket=BUCKET),
        lambda: s3.delete_object(Bucket=BUCKET, Key="k"),
        lambda: s3.create_multipart_upload(Bucket=BUCKET, Key="k"),
        lambda: s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "k"}]}),
    ):
        with pytest.raises(ClientError) as error:
            ask()
        assert code(error) == ("NoSuchBucket", 404)


def test_a_lock_holds_for_the_owner_too_and_over_a_restart(launch: Launch) -> None:
    server = launch()
    s3 = open_boto(server)
    until = datetime.now(UTC) + timedelta(seconds=6)
    locked = {"Bucket": BUCKET, "Key": "pack", "ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    s3.put_object(Body=b"v" * 100_000, **locked)
    s3.put_object(Body=b"v", **locked | {"Key": "small"})
    server.kill()
    server.start()
    s3 = open_boto(server)
    for key in ("pack", "small"):
        for act in (
            lambda key=key: s3.delete_object(Bucket=BUCKET, Key=key),
            lambda key=key: s3.put_object(Bucket=BUCKET, Key=key, Body=b"w"),
        ):
            with pytest.raises(ClientError) as error:
                act()
            assert code(error) == ("AccessDenied", 403)
        answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key}]})
        assert answer["Errors"][0]["Code"] == "AccessDenied"
        head = s3.head_object(Bucket=BUCKET, Key=key)
        assert head["ObjectLockMode"] == "COMPLIANCE"
        assert abs(head["ObjectLockRetainUntilDate"] - until) < timedelta(seconds=1)
    time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds() + 0.1))
    s3.delete_object(Bucket=BUCKET, Key="pack")
    s3.put_object(Bucket=BUCKET, Key="small", Body=b"w")


def test_a_lock_is_made_longer_and_never_shorter_over_a_restart(launch: Launch) -> None:
    server = launch()
    s3 = open_boto(server)
    now = datetime.now(UTC)
    for key, body in (("pack", b"v" * 300_000), ("small", b"v")):
        place = {"Bucket": BUCKET, "Key": key}
        s3.put_object(Body=body, **place)
        with pytest.raises(ClientError) as error:
            s3.get_object_retention(**place)
        assert code(error) == ("NoSuchObjectLockConfiguration", 404)
        for days in (1, 9):
            until = now + timedelta(days=days)
            s3.put_object_retention(Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until}, **place)
    server.kill()
    server.start()
    s3 = open_boto(server)
    for key in ("pack", "small"):
        place = {"Bucket": BUCKET, "Key": key}
        for retention in (
            {"Mode": "GOVERNANCE", "RetainUntilDate": now + timedelta(days=2)},
            {"Mode": "COMPLIANCE", "RetainUntilDate": now + timedelta(days=8)},
            {},
        ):
            with pytest.raises(ClientError):
                s3.put_object_retention(Retention=retention, BypassGovernanceRetention=True, **place)
        with pytest.raises(ClientError) as error:
            s3.delete_object(**place)
        assert code(error) == ("AccessDenied", 403)
        found = s3.get_object_retention(**place)["Retention"]
        assert found["Mode"] == "COMPLIANCE"
        assert abs(found["RetainUntilDate"] - now - timedelta(days=9)) < timedelta(seconds=1)
    with pytest.raises(ClientError) as error:
        s3.put_object_retention(
            Bucket=BUCKET, Key="none", Retention={"Mode": "COMPLIANCE", "RetainUntilDate": now + timedelta(days=1)}
        )
    assert code(error) == ("NoSuchKey", 404)


async def test_of_twenty_racing_creates_one_wins(launch: Launch) -> None:
    store = open_obstore(launch())

    async def attempt(number: int, key: str) -> tuple[bytes | None, bytes | None]:
        body = f"writer {number}".encode() * 500
        try:
            await obstore.put_async(store, key, body, mode="create")
        except AlreadyExistsError:
            seen = bytes(await (await obstore.get_async(store, key)).bytes_async())
            return None, seen
        return body, None

    for turn in range(10):
        answers = await asyncio.gather(*(attempt(number, f"race/{turn}") for number in range(20)))
        winners = [body for body, _ in answers if body is not None]
        assert len(winners) == 1
        assert all(seen == winners[0] for body, seen in answers if body is None)


def test_a_wrong_secret_is_refused_and_slowed_down_but_the_owner_is_not(launch: Launch) -> None:
    server = launch()
    stranger, owner = open_boto(server, aws_secret_access_key="guess"), open_boto(server)
    took = []
    for _ in range(9):
        began = time.monotonic()
        with pytest.raises(ClientError) as error:
            stranger.put_object(Bucket=BUCKET, Key="k", Body=b"v")
        assert code(error) == ("SignatureDoesNotMatch", 403)
        took.append(time.monotonic() - began)
    assert took[-1] > 0.7 > 0.35 > took[0]
    began = time.monotonic()
    with pytest.raises(ClientError) as error:
        owner.get_object(Bucket=BUCKET, Key="k")
    assert code(error) == ("NoSuchKey", 404)
    assert time.monotonic() - began < 0.35


def test_a_nearly_full_disk_refuses_puts_and_nothing_else(launch: Launch) -> None:
    server = launch()
    s3 = open_boto(server)
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"v")
    s3.put_object(Bucket=BUCKET, Key="large", Body=b"v" * 100_000)
    server.stop()
    server.options["min_free_bytes"] = 1 << 60
    server.start()
    s3 = open_boto(server)
    for size in (1, 100_000):
        with pytest.raises(ClientError) as error:
            s3.put_object(Bucket=BUCKET, Key="more", Body=b"v" * size)
        assert code(error) == ("InsufficientStorage", 507)
    assert s3.get_object(Bucket=BUCKET, Key="large")["Body"].read() == b"v" * 100_000
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 2
    s3.delete_object(Bucket=BUCKET, Key="large")
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1


def test_what_is_too_large_is_refused(launch: Launch) -> None:
    s3 = open_boto(launch(object_bytes_max=200_000))
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"v" * 200_000)
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=BUCKET, Key="l", Body=b"v" * 200_001)
    assert code(error) == ("EntityTooLarge", 400)


def test_too_many_bytes_at_once_are_told_to_come_again(launch: Launch) -> None:
    s3 = open_boto(launch(memory_bytes_max=10_000))
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"v" * 10_000)
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=BUCKET, Key="l", Body=b"v" * 10_001)
    assert code(error) == ("SlowDown", 503)


@pytest.mark.parametrize("path", ["/../etc/passwd", f"/{BUCKET}/../../etc/passwd", "//", "/%2e%2e/x", f"/{BUCKET}/%00"])
def test_paths_lead_nowhere(launch: Launch, path: str) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from storage_process import KEY, SECRET

    server = launch()
    before = sorted(server.data_dir.rglob("*"))
    for method, body in (("PUT", b"x"), ("GET", b"")):
        request = AWSRequest(method, f"{server.endpoint}{path}", data=body)
        S3SigV4Auth(Credentials(KEY, SECRET), "s3", "khi").add_auth(request)
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request(method, path, body, dict(request.headers.items()))
        answer = connection.getresponse()
        answer.read()
        # "/bucket/../../etc/passwd" is an odd key of that bucket, as on S3, and nothing else.
        assert answer.status in ((200,) if "/../.." in path else (400, 403, 404, 501))
    assert sorted(server.data_dir.rglob("*")) == before


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 40_000, b"431"),
        (b"PUT /b/k HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n", b"400"),
        (b"PUT /b/k HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", b"400"),
        (b"GET http://a/b HTTP/1.1\r\nhost: a\r\n\r\n", b"400"),
        (b"PUT /b/k HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999999\r\n\r\n", b"403"),
        (b"GET /b/k HTTP/1.1\r\nhost: a\r\n\r\nGET /b/l HTTP/1.1\r\nhost: a\r\n\r\n", b"403"),
    ],
)
def test_what_is_no_request_is_turned_away(launch: Launch, sent: bytes, status: bytes) -> None:
    server = launch()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(sent)
        assert client.recv(1000).split(b" ")[1] == status
    open_boto(server).head_bucket(Bucket=BUCKET)


def test_trailers_are_bounded_too(launch: Launch) -> None:
    """They come after the answer to a stranger, and would be kept in memory for as long as he sends."""
    server = launch()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"PUT /b/k HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        time.sleep(0.3)
        with pytest.raises(OSError):
            client.sendall(b"".join(b"x-%d: %s\r\n" % (number, b"y" * 1000) for number in range(6000)))


def test_who_never_reads_is_not_answered_for_ever(launch: Launch) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from storage_process import KEY, SECRET

    server = launch()
    open_boto(server).put_object(Bucket=BUCKET, Key="k", Body=b"v" * 60_000)
    request = AWSRequest("GET", f"{server.endpoint}/{BUCKET}/k")
    S3SigV4Auth(Credentials(KEY, SECRET), "s3", "khi").add_auth(request)
    headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    asked = f"GET /{BUCKET}/k HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\n{headers}\r\n".encode()
    before = psutil.Process(server.process.pid).memory_info().rss
    with socket.socket() as client:
        client.connect(("127.0.0.1", server.port))
        client.settimeout(1)
        with contextlib.suppress(TimeoutError):
            for _ in range(2000):
                client.sendall(asked)
        assert client.recv(12) == b"HTTP/1.1 200"
        time.sleep(2)
        assert psutil.Process(server.process.pid).memory_info().rss - before < 30 << 20


def test_idle_strangers_do_not_keep_the_owner_out(launch: Launch) -> None:
    server = launch()
    with contextlib.ExitStack() as strangers:
        for _ in range(CONNECTIONS_MAX + 20):
            strangers.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        owner = open_boto(server)
        for _ in range(20):
            strangers.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            owner.head_bucket(Bucket=BUCKET)  # on the connection that it has: that one is worth more than a stranger's


def test_an_answer_before_the_body_is_read_still_arrives(launch: Launch) -> None:
    """A client that is still sending must not lose the answer to a reset."""
    server = launch()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"PUT /b/k HTTP/1.1\r\nhost: a\r\ncontent-length: 8000000\r\n\r\n")
        time.sleep(0.3)
        for _ in range(8):
            client.sendall(bytes(1_000_000))
        assert client.recv(1000).startswith(b"HTTP/1.1 403")
        while client.recv(10_000):  # and then it ends
            pass


def certificates(folder: Path) -> None:
    """A CA, and a certificate for 127.0.0.1 that it signed."""
    now = datetime.now(UTC)

    def make(name: str, issuer: Any, public: Any, signer: Any, *extensions: Any) -> bytes:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("test ca", "s1"))
    ca_rules = x509.BasicConstraints(ca=True, path_length=None)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    (folder / "ca.pem").write_bytes(make(ca_name, ca_name, ca_key.public_key(), ca_key, ca_rules, usage))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    (folder / "s1.pem").write_bytes(make(name, ca_name, key.public_key(), ca_key, address))
    (folder / "s1.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "s1.example"])
def test_other_machines_are_served_over_tls_alone(tmp_path: Path, host: str) -> None:
    """Somebody between could answer "stored" in our place."""
    with pytest.raises(Refused):
        serve(ServeConfig(tmp_path, host, 0), environment={ENV_KEY: "k", ENV_SECRET: "s" * 20})
    assert not list(tmp_path.iterdir())


def test_over_tls(launch: Launch, tmp_path: Path) -> None:
    certificates(tmp_path)
    server = launch(tls_cert=str(tmp_path / "s1.pem"), tls_key=str(tmp_path / "s1.key"))
    s3 = open_boto(server, verify=str(tmp_path / "ca.pem"))
    for size in SIZES:
        body = os.urandom(size)
        s3.put_object(Bucket=BUCKET, Key="k", Body=body)  # boto3 sends chunks with a trailing checksum here
        assert s3.get_object(Bucket=BUCKET, Key="k")["Body"].read() == body
    store = open_obstore(server, client_options={"root_certificate": (tmp_path / "ca.pem").read_bytes()})
    obstore.put(store, "o", b"v" * 100_000, mode="create")
    assert bytes(obstore.get(store, "o").bytes()) == b"v" * 100_000
    connection = http.client.HTTPSConnection("127.0.0.1", server.port)
    with pytest.raises(ssl.SSLError):
        connection.request("GET", "/")
