"""What clients do: random operations, each in the ledger before it is sent and when it is answered."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from tests.torture.client import Answer, Client, Lost, NeverSent
from tests.torture.ledger import Ledger, Name, Shown
from tests.torture.model import Operation, Said, Seen, Verb, Violation, group_of
from tests.torture.server import INLINE_BYTES_MAX

BUCKETS = ("first", "second.one", "third-1")
HOT = ("hot/a", "hot/b", "hot/b c+d", "hot/€/😀", "hot/x%2Fy&<z>", "beacon", "hot")
DELIMITERS = ("", "", "/", "/", "0", "ot/")
_FAR_S = 40 * 24 * 3600
_PUT_SAYS = {200: Said.DONE, 412: Said.OTHER, 403: Said.LOCKED, 404: Said.ABSENT}
_CONTENT = "{http://s3.amazonaws.com/doc/2006-03-01/}"
Page = tuple[dict[str, Shown], list[str], bool]


class Actor:
    """One client. `number` is shared: every log entry of a run has a key of its own."""

    def __init__(self, ledger: Ledger, port: int, chance: random.Random, numbers: list[int]) -> None:
        self._ledger, self._chance, self._numbers = ledger, chance, numbers
        self._client, self._rival = Client(port), Client(port)
        self._acts: dict[Callable[[], Awaitable[None]], float] = {
            self._append: 24,
            self._race: 6,
            self._overwrite: 14,
            self._put_on_condition: 12,
            self._parts: 5,
            self._read: 16,
            self._read_range: 7,
            self._head: 4,
            self._list: 6,
            self._delete: 7,
            self._delete_many: 5,
            self._put_locked: 3,
            self._lengthen: 4,
            self._lock_end: 2,
            self._make_bucket: 1,
        }

    async def act(self) -> None:
        """Raises Lost, NeverSent, Violation."""
        (act,) = self._chance.choices(list(self._acts), list(self._acts.values()))
        self._ledger.operations += 1
        await act()

    def close(self) -> None:
        self._client.close()
        self._rival.close()

    # what it is about

    def _bucket(self) -> str:
        return self._chance.choice(sorted(self._ledger.buckets))

    def _name(self) -> Name:
        """Some more often than others, so that several clients are at one at once."""
        if self._chance.random() < 0.4:
            return BUCKETS[0], HOT[0]
        return self._bucket(), self._chance.choice(HOT)

    def _any_name(self) -> Name:
        bucket = self._bucket()
        others = sorted(self._ledger.known(bucket) - set(HOT)) if self._chance.random() < 0.4 else []
        return (bucket, self._chance.choice(others)) if others else self._name()

    def _fresh(self, kind: str) -> Name:
        self._numbers[0] += 1
        return self._bucket(), f"{kind}/{self._numbers[0] % 3}/{self._numbers[0]:06d}"

    def _body(self) -> bytes:
        size = self._chance.choice([0, 1, 60, 500, 500, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 9_000, 70_000])
        return self._chance.randbytes(size + self._chance.randrange(9) * (0 < size < INLINE_BYTES_MAX - 9))

    # puts

    async def _append(self) -> None:
        """As every commit of a protected database does."""
        await self._put(self._client, self._fresh("log"), create=True)

    async def _race(self) -> None:
        name = self._fresh("log") if self._chance.random() < 0.5 else self._name()
        await _both(self._put(self._client, name, create=True), self._put(self._rival, name, create=True))

    async def _overwrite(self) -> None:
        await self._put(self._client, self._name())

    async def _put_on_condition(self) -> None:
        name = self._name()
        expected = self._ledger.newest.get(name, "0" * 64)
        match self._chance.randrange(4):
            case 0:
                await self._put(self._client, name, create=True)
            case 1:
                await self._put(self._client, name, match="*")
            case _:
                await self._put(self._client, name, match=expected)

    async def _put_locked(self) -> None:
        if self._chance.random() < 0.5:
            await self._put(self._client, self._fresh("pack"), create=True, lock_s=_FAR_S)
        else:
            await self._put(self._client, self._name(), lock_s=self._chance.uniform(0.3, 1.5))

    async def _put(
        self, client: Client, name: Name, *, create: bool = False, match: str | None = None, lock_s: float = 0
    ) -> None:
        body = self._body()
        headers, lock = _locking(lock_s)
        if create:
            headers["if-none-match"] = "*"
        if match is not None:
            headers["if-match"] = match if match == "*" else f'"{match}"'
        etag = self._ledger.body(body)
        operation = self._ledger.begin(name, Verb.PUT, etag=etag, create=create, match=match, lock=lock)
        answer = await self._asked(client, name, operation, "PUT", headers=headers, body=body)
        self._put_ended(name, operation, answer)

    def _put_ended(self, name: Name, operation: Operation, answer: Answer) -> None:
        if answer.status == 400 and operation.lock:  # it came so late that the lock would have ended
            self._too_late(name, operation)
            return
        self._ledger.end(operation, _said(answer, _PUT_SAYS))
        if answer.status == 200:
            self._ledger.newest[name] = operation.etag

    def _too_late(self, name: Name, operation: Operation) -> None:
        if time.time() * 1000 < operation.lock:
            raise Violation(f"{name}: a lock until {operation.lock} was called over")
        self._ledger.never_sent(name, operation)

    async def _parts(self) -> None:
        name, create = (self._fresh("pack"), True) if self._chance.random() < 0.4 else (self._name(), False)
        path = f"/{name[0]}/{name[1]}"
        begun = await self._client.ask("POST", path, {"uploads": ""})
        _expect(begun, 200)
        upload = ET.fromstring(begun.body).findtext(f"{_CONTENT}UploadId") or ""
        bodies = [self._chance.randbytes(self._chance.choice([1, 700, 30_000])) for _ in range(3)]
        etags = {}
        for number in self._chance.sample([1, 2, 3], 3):
            query = {"partNumber": str(number), "uploadId": upload}
            part = await self._client.ask("PUT", path, query, body=bodies[number - 1])
            _expect(part, 200)
            etags[number] = part.etag
        inner = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etags[number]}</ETag></Part>" for number in (1, 2, 3)
        )
        etag = self._ledger.body(b"".join(bodies))
        self._ledger.files.add(etag)
        operation = self._ledger.begin(name, Verb.PUT, etag=etag, create=create)
        headers = {"if-none-match": "*"} if create else {}
        body = f"<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>".encode()
        answer = await self._asked(
            self._client, name, operation, "POST", {"uploadId": upload}, headers=headers, body=body
        )
        self._put_ended(name, operation, answer)

    # reads

    async def _read(self) -> None:
        await self._get(self._any_name())

    async def _read_range(self) -> None:
        start = self._chance.choice([0, 1, 499, INLINE_BYTES_MAX, 65_536])
        await self._get(self._any_name(), (start, start + self._chance.choice([1, 512, 90_000])))

    async def _get(self, name: Name, span: tuple[int, int] | None = None) -> None:
        operation = self._ledger.begin(name, Verb.READ)
        headers = {"range": f"bytes={span[0]}-{span[1] - 1}"} if span else {}
        answer = await self._asked(self._client, name, operation, "GET", headers=headers)
        if answer.status == 416:
            self._ledger.never_sent(name, operation)
            return
        self._ledger.end(operation, Said.DONE, seen_of(self._ledger, answer, span))
        if answer.status in {200, 206}:
            self._ledger.newest[name] = answer.etag

    async def _head(self) -> None:
        name = self._any_name()
        operation = self._ledger.begin(name, Verb.READ)
        answer = await self._asked(self._client, name, operation, "HEAD")
        self._ledger.end(operation, Said.DONE, seen_of(self._ledger, answer, None, head=True))

    async def _lock_end(self) -> None:
        """Until when it is locked. Of its bytes nothing is said, so only the ledger can tell whose lock it was."""
        name = self._any_name()
        answer = await self._client.ask("GET", f"/{name[0]}/{name[1]}", {"retention": ""})
        _expect(answer, 200, 404)

    async def _list(self) -> None:
        bucket, chance = self._bucket(), self._chance
        prefix = chance.choice(["", "", "log/", "log/1/", "hot", "hot/", "pack/", "none"])
        after = chance.choice(["", "", "hot/b", "log/", f"log/1/{self._numbers[0]:06d}", "zz"])
        delimiter, limit = chance.choice(DELIMITERS), chance.choice([1, 7, 1000, 1000, 1000])
        began = self._ledger.moment()
        shown, groups, more = await list_page(
            self._client, bucket, prefix=prefix, after=after, delimiter=delimiter, limit=limit
        )
        end = max([*shown, *groups]) if more else None
        for key in self._ledger.known(bucket) | shown.keys():
            if not key.startswith(prefix) or key <= after:
                if key in shown:
                    raise Violation(f"{key} was listed with prefix {prefix!r} after {after!r}")
                continue
            group = group_of(key, prefix, delimiter)
            if group and key in shown:
                raise Violation(f"{key} was listed though {group} stands for it")
            if group in groups or (group and after.startswith(group)) or (end is not None and (group or key) > end):
                continue  # nothing is said of this one
            self._ledger.listed((bucket, key), began, shown.get(key))

    # deletes, locks, buckets

    async def _delete(self) -> None:
        name = self._name() if self._chance.random() < 0.7 else self._any_name()
        operation = self._ledger.begin(name, Verb.DELETE)
        answer = await self._asked(self._client, name, operation, "DELETE")
        self._ledger.end(operation, _said(answer, {204: Said.DONE, 403: Said.LOCKED}))

    async def _delete_many(self) -> None:
        """What trimming does: the oldest entries, and what may not be there."""
        bucket = self._bucket()
        log = sorted((key for key in self._ledger.known(bucket) if key.startswith("log/")), key=lambda key: key[6:])
        keys = [*log[: self._chance.choice([3, 30])], self._chance.choice(HOT), "never/there"]
        operations = {key: self._ledger.begin((bucket, key), Verb.DELETE) for key in keys}
        inner = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
        body = f"<Delete>{inner}</Delete>".encode()
        try:
            answer = await self._client.ask("POST", f"/{bucket}", {"delete": ""}, body=body)
        except NeverSent:
            for key, operation in operations.items():
                self._ledger.never_sent((bucket, key), operation)
            raise
        _expect(answer, 200)
        root = ET.fromstring(answer.body)
        done = {item.findtext(f"{_CONTENT}Key") for item in root.iter(f"{_CONTENT}Deleted")}
        refused = {item.findtext(f"{_CONTENT}Key") for item in root.iter(f"{_CONTENT}Error")}
        codes = {item.findtext(f"{_CONTENT}Code") for item in root.iter(f"{_CONTENT}Error")}
        if done & refused or done | refused != operations.keys() or codes - {"AccessDenied"}:
            raise Violation(f"a delete of {keys} was answered with {answer.body!r}")
        for key, operation in operations.items():
            self._ledger.end(operation, Said.DONE if key in done else Said.LOCKED)

    async def _lengthen(self) -> None:
        name = self._any_name()
        if name[1].startswith("log/"):
            return
        seconds = (
            _FAR_S + self._chance.uniform(0, 9999) if name[1].startswith("pack/") else self._chance.uniform(0.3, 2)
        )
        until = _until(seconds)
        mode = self._chance.choice(["GOVERNANCE", "COMPLIANCE"])
        body = f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{_iso(until)}</RetainUntilDate></Retention>".encode()
        operation = self._ledger.begin(name, Verb.LOCK, lock=until)
        answer = await self._asked(self._client, name, operation, "PUT", {"retention": ""}, body=body)
        if answer.status == 400:
            self._too_late(name, operation)
            return
        self._ledger.end(operation, _said(answer, {200: Said.DONE, 403: Said.LOCKED, 404: Said.ABSENT}))

    async def _make_bucket(self) -> None:
        bucket = self._chance.choice(BUCKETS)
        self._ledger.asked_buckets.add(bucket)
        answer = await self._client.ask("PUT", f"/{bucket}")
        _expect(answer, 200, 409)
        self._ledger.buckets.add(bucket)

    async def _asked(
        self,
        client: Client,
        name: Name,
        operation: Operation,
        method: str,
        query: dict[str, str] | None = None,
        *,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        try:
            return await client.ask(method, f"/{name[0]}/{name[1]}", query, headers=headers, body=body)
        except NeverSent:
            self._ledger.never_sent(name, operation)
            raise
        except Lost:
            if operation.verb is Verb.READ:  # it changed nothing and said nothing
                self._ledger.never_sent(name, operation)
            raise


def seen_of(ledger: Ledger, answer: Answer, span: tuple[int, int] | None = None, *, head: bool = False) -> Seen:
    """What an answer to a read shows. Raises Violation where its bytes are not those that its ETag names."""
    _expect(answer, 206 if span else 200, 404)
    if answer.status == 404:
        if not head and b"<Code>NoSuchKey</Code>" not in answer.body:
            raise Violation(f"a bucket that stands was not found: {answer.body!r}")
        return Seen(None)
    whole = ledger.bodies.get(answer.etag)
    if whole is None:
        raise Violation(f"bytes that nobody put: {answer.etag}")
    if head:
        right = int(answer.headers["content-length"]) == len(whole)
    else:
        start, end = span or (0, len(whole))
        right = answer.body == whole[start:end]
    if not right:
        raise Violation(f"other bytes than those of {answer.etag}, {span}")
    until = answer.headers.get("x-amz-object-lock-retain-until-date")
    return Seen(answer.etag, round(datetime.fromisoformat(until).timestamp() * 1000) if until else 0)


async def list_page(client: Client, bucket: str, *, prefix: str, after: str, delimiter: str, limit: int) -> Page:
    """Objects, common prefixes, whether more follows. Raises Violation where the page is not in order."""
    query = {"list-type": "2", "prefix": prefix, "start-after": after, "delimiter": delimiter, "max-keys": str(limit)}
    answer = await client.ask("GET", f"/{bucket}", {name: value for name, value in query.items() if value})
    _expect(answer, 200)
    root = ET.fromstring(answer.body)
    shown = {
        item.findtext(f"{_CONTENT}Key") or "": Shown(
            (item.findtext(f"{_CONTENT}ETag") or "").strip('"'), int(item.findtext(f"{_CONTENT}Size") or 0)
        )
        for item in root.iter(f"{_CONTENT}Contents")
    }
    groups = [item.findtext(f"{_CONTENT}Prefix") or "" for item in root.iter(f"{_CONTENT}CommonPrefixes")]
    more = root.findtext(f"{_CONTENT}IsTruncated") == "true"
    count = len(list(root.iter(f"{_CONTENT}Contents"))) + len(groups)
    in_order = list(shown) == sorted(shown) and groups == sorted(set(groups))
    if not in_order or count != len(shown) + len(groups) or count > limit or (more and count < limit):
        raise Violation(f"not a page in order: {answer.body!r}")
    return shown, groups, more


def _said(answer: Answer, says: dict[int, Said]) -> Said:
    _expect(answer, *says)
    return says[answer.status]


def _expect(answer: Answer, *statuses: int) -> None:
    if answer.status not in statuses:
        raise Violation(f"answered {answer.status}: {answer.body[:500]!r}")


async def _both(*puts: Awaitable[None]) -> None:
    for answer in await asyncio.gather(*puts, return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer


def _until(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


def _iso(until_ms: int) -> str:
    moment = datetime.fromtimestamp(until_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{until_ms % 1000:03d}Z"


def _locking(seconds: float) -> tuple[dict[str, str], int]:
    if not seconds:
        return {}, 0
    until = _until(seconds)
    return {"x-amz-object-lock-mode": "COMPLIANCE", "x-amz-object-lock-retain-until-date": _iso(until)}, until
