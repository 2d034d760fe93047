"""The words of S3: errors, names, ranges, locks, and the XML around them (Amazon S3 API Reference).

Keys never become paths: a small object is bytes in the journal, a large one a file under a random name. So ``..``,
``//`` and a leading ``/`` are letters like others, and no key can reach out of the data folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

KEY_BYTES_MAX = 1024
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_DELETE_MAX = 1000
_UNLISTABLE = re.compile("[\x00-\x08\x0a-\x1f\ufffe\uffff]")  # XML 1.0 cannot carry them: no listing could name the key


class S3Error(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def bad_request(message: str, code: str = "InvalidArgument") -> S3Error:
    return S3Error(400, code, message)


def no_such_bucket() -> S3Error:
    return S3Error(404, "NoSuchBucket", "the bucket does not exist here: was this disk emptied?")


def no_such_key() -> S3Error:
    return S3Error(404, "NoSuchKey", "the key does not exist")


def precondition_failed() -> S3Error:
    return S3Error(412, "PreconditionFailed", "the object is there already, or is another one than expected")


def locked() -> S3Error:
    return S3Error(403, "AccessDenied", "the object is under retention lock")


def disk_full() -> S3Error:
    return S3Error(507, "InsufficientStorage", "the disk is nearly full: reading and deleting go on")


def slow_down() -> S3Error:
    return S3Error(503, "SlowDown", "too much at once, ask again a little later")


def check_bucket(name: str) -> str:
    if not _BUCKET.fullmatch(name) or ".." in name:
        raise bad_request("not a bucket name: 3 to 63 of a-z, 0-9, - and .", "InvalidBucketName")
    return name


def check_key(key: str) -> str:
    if not key:
        raise bad_request("the key is empty")
    if len(key.encode()) > KEY_BYTES_MAX:
        raise bad_request(f"the key is longer than {KEY_BYTES_MAX} bytes", "KeyTooLongError")
    if _UNLISTABLE.search(key):
        raise bad_request("the key holds a control character")
    return key


def decode(raw: str) -> str:
    """A part of the URL. Raises S3Error where it is not UTF-8."""
    if "%" not in raw and raw.isascii():
        return raw
    try:
        return unquote_to_bytes(raw.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise bad_request("the URL is not UTF-8", "InvalidURI") from None


def split_path(raw: str) -> tuple[str, str]:
    """``/bucket/key`` to bucket and key, either may be empty."""
    bucket, _, key = raw.removeprefix("/").partition("/")
    return decode(bucket), decode(key)


def parse_query(raw: str) -> dict[str, str]:
    query = {}
    for part in raw.split("&") if raw else ():
        name, _, value = part.partition("=")
        query[decode(name)] = decode(value.replace("+", " "))
    return query


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None: the whole object (RFC 9110, 14.1.2)."""
    match = _RANGE.fullmatch(header) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start == end:
        raise S3Error(416, "InvalidRange", f"the object has {size} bytes")
    return start, end


@dataclass(frozen=True, slots=True)
class Condition:
    """If-None-Match and If-Match. ``create``: only where nothing stands; else ``etag`` has to match, "*" any."""

    create: bool = False
    etag: str | None = None

    def holds(self, etag: str | None) -> bool:
        """For an object with this ETag, None: no object."""
        if self.create:
            return etag is None
        return self.etag is None or (etag is not None and self.etag in {"*", etag})


def put_condition(headers: Mapping[str, str]) -> Condition:
    none_match, match = headers.get("if-none-match"), headers.get("if-match")
    if none_match is not None and none_match.strip() != "*":
        raise S3Error(501, "NotImplemented", "if-none-match of a write is * or nothing")
    return Condition(create=none_match is not None, etag=match.strip().strip('"') if match is not None else None)


def parse_lock(headers: Mapping[str, str], now: datetime) -> tuple[str, int]:
    """Mode and the moment until which it holds, in ms; ("", 0): no lock."""
    mode = headers.get("x-amz-object-lock-mode", "")
    until = headers.get("x-amz-object-lock-retain-until-date", "")
    if headers.get("x-amz-object-lock-legal-hold", "OFF") != "OFF":
        raise S3Error(501, "NotImplemented", "legal hold is not offered: use a retention lock")
    if not mode and not until:
        return "", 0
    if mode not in {"GOVERNANCE", "COMPLIANCE"} or not until:
        raise bad_request("a lock has a mode (GOVERNANCE or COMPLIANCE) and a retain-until-date")
    try:
        moment = datetime.fromisoformat(until)
    except ValueError:
        raise bad_request("the retain-until-date is not a date") from None
    if moment.tzinfo is None:
        raise bad_request("the retain-until-date has no time zone")
    if moment <= now:
        raise bad_request("the retain-until-date has to lie in the future")
    # Rounded up: a lock never ends early.
    return mode, int(moment.timestamp() * 1000) + 1


def parse_retention(document: bytes, now: datetime) -> tuple[str, int]:
    """PutObjectRetention's body, as `parse_lock`. Raises S3Error; a lock is never taken away."""
    root = _parse(document)
    said = {_local(part): (part.text or "").strip() for part in root}
    lock = parse_lock(
        {
            "x-amz-object-lock-mode": said.get("Mode", ""),
            "x-amz-object-lock-retain-until-date": said.get("RetainUntilDate", ""),
        },
        now,
    )
    if not lock[0]:
        raise bad_request("a retention has a mode and a date", "MalformedXML")
    return lock


def retention_xml(mode: str, until_ms: int) -> bytes:
    until = f"<Mode>{mode}</Mode><RetainUntilDate>{iso(until_ms)}</RetainUntilDate>"
    return f'<?xml version="1.0" encoding="UTF-8"?><Retention xmlns="{_NAMESPACE}">{until}</Retention>'.encode()


def no_lock() -> S3Error:
    return S3Error(404, "NoSuchObjectLockConfiguration", "the object has no retention lock")


def iso(moment_ms: int) -> str:
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment_ms % 1000:03d}Z"


def error_xml(error: S3Error, resource: str) -> bytes:
    return _document(
        "Error", (("Code", error.code), ("Message", error.message), ("Resource", resource)), namespace=False
    )


def _document(root: str, fields: Iterable[tuple[str, str]], inner: str = "", *, namespace: bool = True) -> bytes:
    text = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields)
    spec = f' xmlns="{_NAMESPACE}"' if namespace else ""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}{spec}>{text}{inner}</{root}>'.encode()


def list_xml(
    fields: Iterable[tuple[str, str]], contents: Iterable[tuple[str, int, int, str]], prefixes: Iterable[str]
) -> bytes:
    """``contents``: key, modified in ms, size, ETag."""
    inner = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>{iso(modified)}</LastModified>"
        f"<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key, modified, size, etag in contents
    )
    inner += "".join(f"<CommonPrefixes><Prefix>{escape(text)}</Prefix></CommonPrefixes>" for text in prefixes)
    return _document("ListBucketResult", fields, inner)


def buckets_xml(names: Iterable[str]) -> bytes:
    inner = "".join(
        f"<Bucket><Name>{name}</Name><CreationDate>{iso(0)}</CreationDate></Bucket>" for name in sorted(names)
    )
    return _document("ListAllMyBucketsResult", (), f"<Buckets>{inner}</Buckets>")


def upload_xml(root: str, bucket: str, key: str, *fields: tuple[str, str]) -> bytes:
    return _document(root, (("Bucket", bucket), ("Key", key), *fields))


def deleted_xml(deleted: Iterable[str], errors: Iterable[tuple[str, S3Error]]) -> bytes:
    inner = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in deleted)
    inner += "".join(
        f"<Error><Key>{escape(key)}</Key><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
        for key, error in errors
    )
    return _document("DeleteResult", (), inner)


def parse_delete(body: bytes) -> tuple[list[str], bool]:
    """Keys, and whether only errors are to be told."""
    root = _parse(body)
    keys = [_text(item, "Key") for item in root if _local(item) == "Object"]
    if not keys or len(keys) > _DELETE_MAX:
        raise bad_request(f"1 to {_DELETE_MAX} keys at once", "MalformedXML")
    return keys, any(_local(item) == "Quiet" and (item.text or "").strip() == "true" for item in root)


def parse_complete(body: bytes) -> list[tuple[int, str]]:
    """Part numbers and ETags, in the order given."""
    try:
        parts = [
            (int(_text(item, "PartNumber")), _text(item, "ETag").strip('"'))
            for item in _parse(body)
            if _local(item) == "Part"
        ]
    except ValueError:
        raise bad_request("a part number is not a number", "MalformedXML") from None
    if not parts:
        raise bad_request("no parts are named", "MalformedXML")
    return parts


def _parse(body: bytes) -> ET.Element:
    try:
        text = body.decode()
        # No document type: no entities to blow up or to fetch. The parser would find out about UTF-16 by itself.
        if "<!" in text or "\0" in text:
            raise bad_request("declarations have no place in this XML", "MalformedXML")
        return ET.fromstring(text)  # noqa: S314 - without a DTD there is nothing to expand
    except (ET.ParseError, UnicodeDecodeError):
        raise bad_request("the body is not XML", "MalformedXML") from None


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ET.Element, name: str) -> str:
    for child in element:
        if _local(child) == name:
            return child.text or ""
    raise bad_request(f"{name} is missing", "MalformedXML")
