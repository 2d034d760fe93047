from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from threefold.kernel.errors import BadInput
from threefold.stores.open import StoreConfig, open_store, same_place

AWS = StoreConfig("S1", "s3://bkt/crm", region="eu-central-1", access_key_id="AKID", secret_access_key="hush hush")
OWN = StoreConfig("S2", "s3://bkt/crm", "https://s2.example:9101", access_key_id="AKID", secret_access_key="hush hush")


def test_a_config_opens_without_asking_anybody() -> None:
    assert open_store(AWS).name == "S1"
    assert open_store(OWN).name == "S2"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no url of a kind that is known"),
        ("bucket/prefix", "no url of a kind that is known"),
        ("http://bucket/prefix", "no url of a kind that is known"),
        ("file:///tmp/x", "no url of a kind that is known"),
        ("s3://", "no valid bucket"),
        ("s3:///prefix", "no valid bucket"),
        ("s3://bkt/../up", "no valid bucket"),
        ("s3://bkt/a//b", "no valid bucket"),
        ("s3://bkt/a b", "no valid bucket"),
        ("s3://bkt/münchen", "no valid bucket"),
        ("s3://bkt:9000/x", "more than a bucket"),
        ("s3://AKID:hush@bkt/x", "more than a bucket"),
        ("s3://bkt/x?region=y", "more than a bucket"),
        ("s3://bkt/x#y", "more than a bucket"),
        ("s3://[bkt/x", "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_meant(url: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        open_store(replace(AWS, url=url))
    assert caught.value.hint
    assert "hush" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "endpoint", ["s2.example", "ftp://s2.example", "https://", "https://a:b@s2.example", "https://s:99999"]
)
def test_an_endpoint_that_is_no_address(endpoint: str) -> None:
    with pytest.raises(BadInput, match="not an address"):
        open_store(replace(OWN, endpoint=endpoint))


def test_plain_http_is_for_this_machine_alone() -> None:
    for loopback in ("http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000", "http://s1.localhost:9000"):
        open_store(replace(OWN, endpoint=loopback))
    for other in ("http://s2.example:9000", "http://10.0.0.1", "http://localhost.example", "http://127.0.0.1.example"):
        with pytest.raises(BadInput, match="in the clear"):
            open_store(replace(OWN, endpoint=other))
        open_store(replace(OWN, endpoint=other, allow_http=True))


def test_aws_needs_a_region() -> None:
    with pytest.raises(BadInput, match="neither endpoint nor region"):
        open_store(replace(AWS, region=""))


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        open_store(replace(OWN, ca_file=tmp_path / "absent.pem"))
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(BadInput, match="cannot be opened"):
        open_store(replace(OWN, ca_file=tmp_path / "junk.pem"))


@pytest.mark.parametrize("url", ["az://c/p", "gs://b/p"])
def test_a_secret_of_the_wrong_form_is_not_repeated(url: str) -> None:
    with pytest.raises(BadInput) as caught:
        open_store(replace(AWS, url=url, secret_access_key="hush {hush"))
    assert "hush" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_secrets_are_not_shown() -> None:
    shown = repr(replace(AWS, headers={"authorization": "hush hush"}))
    assert "hush" not in shown
    assert "AKID" in shown


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (AWS, replace(AWS, name="S2"), True),
        (AWS, replace(AWS, region="us-east-1"), True),  # bucket names are unique across AWS
        (AWS, replace(AWS, endpoint="https://s3.eu-central-1.amazonaws.com"), True),
        (AWS, replace(AWS, url="s3://bkt/crm/"), True),
        (AWS, replace(AWS, url="s3://bkt/crm/inside"), True),
        (AWS, replace(AWS, url="s3://bkt"), True),
        (AWS, replace(AWS, url="s3://bkt/crm2"), False),
        (AWS, replace(AWS, url="s3://other/crm"), False),
        (AWS, OWN, False),
        (OWN, replace(OWN, endpoint="https://S2.Example:9101/"), True),
        (OWN, replace(OWN, endpoint="https://s2.example:9102"), False),
        (replace(OWN, endpoint="https://s2.example"), replace(OWN, endpoint="https://s2.example:443"), True),
        (replace(OWN, endpoint="http://127.0.0.1:9"), replace(OWN, endpoint="http://localhost:9"), True),
        (replace(AWS, url="az://c/p", access_key_id="one"), replace(AWS, url="az://c/p", access_key_id="two"), False),
        (replace(AWS, url="gs://bkt/crm"), AWS, False),
    ],
)
def test_same_place(a: StoreConfig, b: StoreConfig, same: bool) -> None:
    assert same_place(a, b) is same
    assert same_place(b, a) is same
