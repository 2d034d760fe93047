"""Against AWS's published S3 example and against botocore's own signer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from threefold.storage_server.sigv4 import Credentials, SignatureError, Verifier, canonical_query

# Amazon S3 API Reference, "Examples: Signature Calculations", GET Object and PUT Object
EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EXAMPLE_NOW = datetime(2013, 5, 24, tzinfo=UTC)
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
SCOPE = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"


def aws_get() -> dict[str, str]:
    return {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": "20130524T000000Z",
        "authorization": f"AWS4-HMAC-SHA256 Credential={SCOPE},"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    }


def verifier(credentials: Credentials = EXAMPLE) -> Verifier:
    return Verifier({credentials.access_key_id: credentials})


def test_aws_example_get() -> None:
    assert verifier().verify("GET", "/test.txt", "", aws_get(), EXAMPLE_NOW) == EMPTY


def test_aws_example_put() -> None:
    payload = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
    headers = {
        "date": "Fri, 24 May 2013 00:00:00 GMT",
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-content-sha256": payload,
        "x-amz-date": "20130524T000000Z",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "authorization": f"AWS4-HMAC-SHA256 Credential={SCOPE},"
        "SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,"
        "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    }
    assert verifier().verify("PUT", "/test%24file.text", "", headers, EXAMPLE_NOW) == payload


def test_aws_example_query_without_value() -> None:
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": "20130524T000000Z",
        "authorization": f"AWS4-HMAC-SHA256 Credential={SCOPE},"
        "SignedHeaders=host;x-amz-content-sha256;x-amz-date,"
        "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    }
    assert verifier().verify("GET", "/", "lifecycle", headers, EXAMPLE_NOW) == EMPTY


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/b/k", ""),
        ("/b/a%20b/%C3%A4/%2B", ""),
        ("/b/a/../b//c/.", ""),
        ("/b", "list-type=2&prefix=a%2Fb&delimiter=%2F&start-after=x%20y"),
        ("/b", "delete"),
        ("/b/k", "uploadId=abc&partNumber=1"),
    ],
)
def test_what_botocore_signs_is_accepted(path: str, query: str) -> None:
    url = f"http://127.0.0.1:9000{path}" + (f"?{query}" if query else "")
    request = AWSRequest("PUT", url, headers={"if-none-match": "*", "x-amz-meta-note": "a  b "}, data=b"body")
    S3SigV4Auth(BotoCredentials("AK", "secretsecretsecret"), "s3", "khi").add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()} | {"host": "127.0.0.1:9000"}
    mine = verifier(Credentials("AK", "secretsecretsecret"))
    now = datetime.now(UTC)
    mine.verify("PUT", path, query, headers, now)
    for changed in ({"if-none-match": "x"}, {"host": "other"}, {"x-amz-meta-note": "c"}):
        with pytest.raises(SignatureError) as refused:
            mine.verify("PUT", path, query, headers | changed, now)
        assert refused.value.code == "SignatureDoesNotMatch"
    with pytest.raises(SignatureError):
        mine.verify("GET", path, query, headers, now)
    with pytest.raises(SignatureError):
        mine.verify("PUT", path + "x", query, headers, now)


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_request_of_another_time_is_refused(minutes: int) -> None:
    with pytest.raises(SignatureError) as refused:
        verifier().verify("GET", "/test.txt", "", aws_get(), EXAMPLE_NOW + timedelta(minutes=minutes))
    assert refused.value.code == "RequestTimeTooSkewed"


@pytest.mark.parametrize("minutes", [-14, 14])
def test_a_clock_a_little_off_is_fine(minutes: int) -> None:
    verifier().verify("GET", "/test.txt", "", aws_get(), EXAMPLE_NOW + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "AWS4-HMAC-SHA256",
        "Basic abc",
        "AWS4-HMAC-SHA256 Credential=a,SignedHeaders=host,Signature=\xff",
        f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature=\xff\xfe",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/e/f,SignedHeaders=,Signature=",
        (
            f"AWS4-HMAC-SHA256 Credential={SCOPE.replace('20130524', '20130523')},SignedHeaders=host;x-amz-date;"
            "x-amz-content-sha256,Signature=00"
        ),
    ],
)
def test_nonsense_is_refused_and_never_breaks(authorization: str) -> None:
    with pytest.raises(SignatureError):
        verifier().verify("GET", "/test.txt", "", aws_get() | {"authorization": authorization}, EXAMPLE_NOW)


def test_an_amz_header_that_was_slipped_in_is_refused() -> None:
    with pytest.raises(SignatureError):
        verifier().verify("GET", "/test.txt", "", aws_get() | {"x-amz-object-lock-mode": "GOVERNANCE"}, EXAMPLE_NOW)


def test_the_secret_is_not_shown() -> None:
    assert EXAMPLE.secret_access_key not in repr(EXAMPLE)


def test_the_query_is_put_in_order() -> None:
    assert canonical_query("b=2&a=1&delete&c=a%2fb") == "a=1&b=2&c=a%2Fb&delete="
