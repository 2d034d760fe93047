"""What the client library's errors say for certain, and what they leave unknown.

obstore folds the providers' answers into exceptions that claim too much: every 404 is FileNotFoundError, a bucket
that is gone included, and every 409 to a create is AlreadyExistsError, AWS's "two requests met, ask again"
included. Both would break invariant 7 ("Unknown is an answer"): a wiped store would truthfully seem to hold no
entries, and a slot that nobody filled would seem taken. So the class of an exception decides nothing here. What
decides is the HTTP status together with the provider's own error code, which obstore 0.12 hands on in the text:

    ... Server returned non-2xx status code: 404 Not Found: <Error><Code>NoSuchKey</Code>...

| answer | definite only as | sources |
|---|---|---|
| absent | 404 NoSuchKey (S3, GCS), 404 BlobNotFound (Azure) | S3 "Error responses"; Azure "Blob service error codes" |
| exists | 412 (S3, GCS), 409 BlobAlreadyExists (Azure)      | S3 "Conditional writes"; GCS "Request preconditions" |

A bulk delete tells each key's own fate in another form, ``... failed for key K: The specified blob does not exist.
(code: 404)``, and a range that begins past the end is refused with 416, or by the library itself where the server
answered nonsense (Azurite).

A text that has changed its form with a new version of the library reads as neither: Unknown, which is safe, and
the conformance suite turns red.

The text itself goes no further: it may hold a signed address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_ONE_OF_MANY = re.compile(r"failed for key .*: (.*) \(code: (\w{1,64})\)")
_PAST_THE_END = "Wanted range starting at"
_OTHER_WORDS = {
    "Received non-partial response": "ignored the range that was asked for",
    "Received redirect without LOCATION": "has its bucket in another region",
    "token request": "gave no access token",
}
_TRANSPORT = re.compile(r"HttpError \{\s*kind: (\w+)")
_TRANSPORT_WORDS = {
    "Timeout": "did not answer in time",
    "Connect": "cannot be reached",
    "Interrupted": "broke the connection off",
    "Request": "broke the connection off",
    "Decode": "sent half an answer",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that did not succeed; ``reason`` is short and holds no secret."""

    reason: str
    status: int = 0
    code: str = ""

    @property
    def absent(self) -> bool:
        """The object is definitely not there, and the bucket is."""
        return self.status == 404 and self.code in {"NoSuchKey", "BlobNotFound"}

    @property
    def exists(self) -> bool:
        """A create definitely found an object in its place."""
        return self.status == 412 or (self.status == 409 and self.code == "BlobAlreadyExists")

    @property
    def damaged(self) -> bool:
        """The server noticed by itself that its copy is damaged; only our own says so (storage_server/app.py)."""
        return self.status == 500 and self.code == "ObjectDamaged"

    @property
    def past_the_end(self) -> bool:
        """The object is there, and ends before the range begins."""
        return self.status == 416


def of_status(status: int, text: str) -> Failure:
    """An answer that is not 2xx; ``text`` is its body."""
    code = _CODE.search(text)
    word = code[1] if code is not None else ""
    return Failure(f"answered {status} {word}".rstrip(), status, word)


def understand(error: Exception) -> Failure:
    """Read what ``error`` says for certain."""
    if isinstance(error, TimeoutError):
        return Failure("did not answer in time")
    text, _, debug = str(error).partition("\n\nDebug source:")
    status = _STATUS.search(text)
    if status is not None:
        return of_status(int(status[1]), text[status.end() :])
    one_of_many = _ONE_OF_MANY.search(text)
    if one_of_many is not None:
        if one_of_many.groups() == ("The specified blob does not exist.", "404"):
            return Failure("answered 404 BlobNotFound", 404, "BlobNotFound")
        return Failure(f"answered {one_of_many[2]}")
    if _PAST_THE_END in text:
        return Failure("holds less than that", 416)
    transport = _TRANSPORT.search(debug)
    if transport is not None:
        return Failure(_TRANSPORT_WORDS.get(transport[1], "broke the connection off"))
    for words, reason in _OTHER_WORDS.items():
        if words in text:
            return Failure(reason)
    return Failure(f"failed with {type(error).__name__}")
