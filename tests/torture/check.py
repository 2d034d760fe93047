"""After a restart, with nothing under way: every bucket, object, listing, lock and file against the ledger."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.torture.acts import DELIMITERS, list_page, seen_of
from tests.torture.client import Client
from tests.torture.ledger import Ledger, Name, Shown
from tests.torture.model import Version, Violation, page
from tests.torture.server import INLINE_BYTES_MAX

_CLIENTS = 6
_S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"


async def check(ledger: Ledger, port: int, data_dir: Path, chance: random.Random) -> None:
    """Raises Violation. What is found counts from now on."""
    clients = [Client(port) for _ in range(_CLIENTS)]
    try:
        await _buckets(ledger, clients[0])
        for bucket in sorted(ledger.buckets):
            listed = await _whole_listing(clients[0], bucket, limit=chance.choice([7, 100, 1000]))
            names = [(bucket, key) for key in sorted(ledger.known(bucket) | listed.keys())]
            for name in names:
                ledger.found(name, ledger.seen_listed(name, listed.get(name[1])))
            await asyncio.gather(*(_objects(ledger, client, names[at::_CLIENTS]) for at, client in enumerate(clients)))
            await _listings(clients[0], bucket, sorted(listed), chance)
            await _locks(clients[0], bucket, ledger.standing(bucket), chance)
        _files(ledger, data_dir)
    finally:
        for client in clients:
            client.close()


async def _buckets(ledger: Ledger, client: Client) -> None:
    answer = await client.ask("GET", "/")
    there = {item.text or "" for item in ET.fromstring(answer.body).iter(f"{_S3}Name")}
    if not ledger.buckets <= there <= ledger.buckets | ledger.asked_buckets:
        raise Violation(f"buckets {there}, made {ledger.buckets}, asked for {ledger.asked_buckets}")
    ledger.buckets, ledger.asked_buckets = there, set(there)


async def _whole_listing(client: Client, bucket: str, *, limit: int) -> dict[str, Shown]:
    listed: dict[str, Shown] = {}
    more, after = True, ""
    while more:
        shown, _, more = await list_page(client, bucket, prefix="", after=after, delimiter="", limit=limit)
        listed |= shown
        after = max(shown, default=after)
    return listed


async def _objects(ledger: Ledger, client: Client, names: list[Name]) -> None:
    for name in names:
        answer = await client.ask("GET", f"/{name[0]}/{name[1]}")
        ledger.found(name, seen_of(ledger, answer))


async def _listings(client: Client, bucket: str, keys: list[str], chance: random.Random) -> None:
    for _ in range(6):
        asked = {
            "prefix": chance.choice(["", "", "log/", "hot", "pack/1", chance.choice([*keys, "none"])[:5]]),
            "after": chance.choice(["", "", "hot/b", "log/1/", chance.choice([*keys, ""])]),
            "delimiter": chance.choice(DELIMITERS),
            "limit": chance.choice([1, 5, 1000]),
        }
        shown, groups, more = await list_page(client, bucket, **asked)
        if (list(shown), groups, more) != page(keys, **asked):
            raise Violation(f"{bucket}, {asked}: listed {list(shown)}, {groups}, {more}; there are {keys}")


async def _locks(client: Client, bucket: str, there: dict[str, Version], chance: random.Random) -> None:
    """A lock that holds for a while yet is tried; the ledger need not know, as nothing may come of it."""
    locked = [key for key, version in sorted(there.items()) if version.locked_until > (time.time() + 60) * 1000]
    for key in chance.sample(locked, min(3, len(locked))):
        for method in ("DELETE", "PUT"):
            answer = await client.ask(method, f"/{bucket}/{key}", body=b"" if method == "DELETE" else b"another")
            if answer.status != 403:
                raise Violation(f"{method} of {key}, locked until {there[key].locked_until}: {answer.status}")


def _files(ledger: Ledger, data_dir: Path) -> None:
    """Whatever the journal does not name was swept."""
    standing = [version.etag for bucket in ledger.buckets for version in ledger.standing(bucket).values()]
    large = sum(len(ledger.bodies[etag]) > INLINE_BYTES_MAX or etag in ledger.files for etag in standing)
    there = sum(1 for _ in (data_dir / "objects").glob("??/*"))
    if there != large:
        raise Violation(f"{there} files for {large} large objects")


async def check_room(ledger: Ledger, data_dir: Path, file_bytes: int) -> None:
    """The journal shrinks to what docs/reference/storage-server.md promises, once nobody writes. Raises Violation."""
    live = 0
    for name, states in ledger.allowed.items():
        for state in states:
            body = ledger.bodies[state.etag] if state else b""
            inline = len(body) <= INLINE_BYTES_MAX and state is not None and state.etag not in ledger.files
            live += 160 + len("/".join(name).encode()) + (len(body) if inline else 0)
    most = 2 * live + (4 + 3) * file_bytes  # the active file, and two made ahead
    for _ in range(100):
        used = sum(path.stat().st_size for path in (data_dir / "journal").glob("*.journal"))
        if used <= most:
            return
        await asyncio.sleep(0.05)
    raise Violation(f"the journal takes {used} bytes for {live} that live")
