"""Webhooks over real connections: signed, once under one id, retried, dead and sent again; nobody delays another."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.crm import EMPLOYEE, Crm, crm
from tests.pg import free_port

from threefold.crm.exchange import webhook_rules, webhooks
from threefold.crm.exchange.courier import Courier, collect
from threefold.crm.exchange.webhook_sending import Sender
from threefold.crm.model.actor import SYSTEM, Actor
from threefold.crm.model.errors import Conflict, Forbidden, Invalid, Stale
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import NotThere

pytestmark = pytest.mark.asyncio(loop_scope="module")
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clean() -> AsyncIterator[Crm]:
    async with crm() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def there(clean: Crm) -> Crm:
    await clean.pg.sql("DELETE FROM crm.webhooks")
    return clean


@dataclass
class Receiver:
    url: str
    answers: list[bytes]  # the last one for ever; empty: hangs
    heads: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def told(self) -> list[tuple[str, str, int]]:
        return [(each["kind"], each["id"], each["version"]) for each in map(json.loads, self.bodies)]


@asynccontextmanager
async def receiver(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A real server on loopback that says what it is told to say."""
    made = Receiver("", list(answers))
    hanging = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line) | {":request": head[0]}
            made.bodies.append(await reader.readexactly(int(headers["content-length"])))
            made.heads.append(headers)
            if not made.answers:
                await hanging.wait()
            else:
                writer.write(made.answers.pop(0) if len(made.answers) > 1 else made.answers[0])
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?x=1"
    try:
        yield made
    finally:
        hanging.set()
        server.close()


@asynccontextmanager
async def courier(there: Crm, timeout: float = 5.0) -> AsyncIterator[Courier]:
    sender = Sender(private=True, timeout=timeout)
    made = Courier(there.database, SystemClock(), sender)
    try:
        yield made
    finally:
        await made.settle()
        sender.close()


async def _do(there: Crm, actor: Actor, what: Callable[..., Awaitable[Any]], *args: Any, **more: Any) -> Any:
    async with there.database.write(actor) as tx:
        return await what(tx, *args, **more)


async def _hook(there: Crm, url: str, *kinds: str) -> Any:
    return await _do(there, SYSTEM, webhooks.subscribe, url, kinds, private=True)


async def _deliveries(there: Crm, hook: Any, **more: Any) -> list[Any]:
    async with there.database.read() as connection:
        return (await webhooks.deliveries(connection, hook["id"], **more))[0]


async def _later(there: Crm) -> None:
    """Whatever is waiting is due now."""
    await there.pg.sql("UPDATE crm.deliveries SET due_at = now() - interval '1 s' WHERE status = 'waiting'")


async def _round(made: Courier) -> None:
    while await made.step():
        pass
    await made.settle()


async def test_each_change_is_told_once_signed_and_without_what_it_holds(there: Crm) -> None:
    await there.create("accounts", name="before anybody listened")
    async with receiver(OK) as mine, receiver(OK) as all_of_it, courier(there) as made:
        hook = await _hook(there, mine.url, "accounts", "contacts")
        await _hook(there, all_of_it.url)
        account = await there.create("accounts", name="Secret Ltd")
        tag = await there.create("tags", name=f"t{uuid4()}")
        await there.update("accounts", account, city="Köln", industry="Food")
        await _round(made)
        await _round(made)
        assert await _do(there, SYSTEM, collect) == 0, "the cursor has moved past all of it"
        id_ = str(account["id"])
        assert mine.told == [("accounts", id_, 1), ("accounts", id_, 2)]
        assert sorted(all_of_it.told) == sorted([*mine.told, ("tags", str(tag["id"]), 1)])
        last = json.loads(mine.bodies[1])
        assert set(last["fields"]) >= {"city", "industry"}
        assert all(b"Secret" not in body and "Köln".encode() not in body for body in mine.bodies)
        head = mine.heads[1]
        assert head[":request"] == "POST /hook?x=1 HTTP/1.1"
        now = int(SystemClock().now().timestamp())
        assert webhook_rules.genuine(hook["secret"], head["webhook-signature"], mine.bodies[1], now)
        assert head["webhook-id"] != mine.heads[0]["webhook-id"]
        rows = await _deliveries(there, hook)
        assert [(row["status"], row["answered"], row["attempts"]) for row in rows] == [("delivered", 204, 1)] * 2


async def test_what_fails_is_tried_again_under_its_id_until_it_is_a_dead_letter(there: Crm) -> None:
    async with receiver(b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nno\x1b!", OK) as mine, courier(there) as made:
        hook = await _hook(there, mine.url)
        await there.create("accounts", name="A")
        await _round(made)
        (row,) = await _deliveries(there, hook)
        assert (row["status"], row["attempts"], row["answered"]) == ("waiting", 1, 500)
        assert row["error"].startswith("answered 500")
        assert row["due_at"] > row["created_at"]
        await _round(made)
        assert len(mine.bodies) == 1, "it waits"
        await _later(there)
        await _round(made)
        assert len({head["webhook-id"] for head in mine.heads}) == 1
        assert (await _deliveries(there, hook))[0]["status"] == "delivered"
        mine.answers[:] = [b"HTTP/1.1 503 Busy\r\n\r\n"]
        await there.create("accounts", name="B")
        for _ in range(webhook_rules.ATTEMPTS + 2):
            await _round(made)
            await _later(there)
        (dead,) = await _deliveries(there, hook, status="dead")
        assert dead["attempts"] == webhook_rules.ATTEMPTS
        assert len(mine.bodies) == 2 + webhook_rules.ATTEMPTS
        mine.answers[:] = [OK]
        again = await _do(there, SYSTEM, webhooks.resend, hook["id"], dead["id"])
        assert (again["status"], again["attempts"]) == ("waiting", 0)
        await _round(made)
        assert await _deliveries(there, hook, status="dead") == []
        assert mine.heads[-1]["webhook-id"] == str(dead["id"])


async def test_one_that_hangs_delays_nobody(there: Crm) -> None:
    async with receiver() as hangs, receiver(OK) as mine, courier(there, timeout=3) as made:
        hook = await _hook(there, hangs.url)
        await _hook(there, f"http://127.0.0.1:{free_port()}/")
        await _hook(there, mine.url)
        await there.create("accounts", name="A")
        started = SystemClock().monotonic()
        await made.step()
        while not mine.bodies and SystemClock().monotonic() - started < 2.5:
            await asyncio.sleep(0.02)
            await made.step()
        assert len(mine.bodies) == 1
        assert SystemClock().monotonic() - started < 2.5
        await _do(there, SYSTEM, webhooks.change, hook["id"], {"active": False})
        await made.settle()
        assert (await _deliveries(there, hook))[-1]["error"] == "no answer within 3 s"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "redirects are not followed"),
        (b"SSH-2.0-OpenSSH_9\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "does not end"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n", "closed before"),
        (b"", "closed before"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, ""),
    ],
)
async def test_odd_answers_are_no_delivery(there: Crm, answer: bytes, says: str) -> None:
    async with receiver(answer) as mine, courier(there) as made:
        hook = await _hook(there, mine.url)
        await there.create("accounts", name="A")
        await _round(made)
        (row,) = await _deliveries(there, hook)
        assert row["status"] == "waiting"
        assert says in row["error"]


async def test_gone_is_dead_at_once_and_large_bodies_do_not_matter(there: Crm) -> None:
    async with receiver(b"HTTP/1.1 410 Gone\r\n\r\n") as gone, courier(there) as made:
        large = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 1_000_000
        async with receiver(large) as chatty:
            one, two = await _hook(there, gone.url), await _hook(there, chatty.url)
            await there.create("accounts", name="A")
            await _round(made)
            assert [row["status"] for row in await _deliveries(there, one)] == ["dead"]
            assert [row["status"] for row in await _deliveries(there, two)] == ["delivered"]
            assert await _do(there, SYSTEM, webhooks.resend_dead, one["id"]) == 1


async def test_ones_own_network_is_out_of_reach_unless_allowed() -> None:
    async with receiver(OK) as mine:
        port = mine.url.split(":")[2].partition("/")[0]
        sender = Sender(timeout=3)
        for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1", "127.1"):
            answer = await sender.post(f"https://{host}:{port}/", b"{}", {})
            assert answer.status == 0, host
            assert "private network" in answer.error or "no connection" in answer.error, answer
        assert (await sender.post(mine.url, b"{}", {})).error.startswith("the URL has to begin with https")
        assert mine.bodies == []
        sender.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    tls, trusting = _certificate(tmp_path)
    async with receiver(OK, tls=tls) as mine:
        url = mine.url.replace("http://127.0.0.1", "https://localhost")
        for client, says in ((ssl.create_default_context(), "no trusted connection"), (trusting, "")):
            sender = Sender(private=True, timeout=3, tls=client)
            answer = await sender.post(url, b"{}", {})
            assert answer.error.startswith(says), answer
            assert answer.taken == (says == "")
            sender.close()
    assert len(mine.bodies) == 1


def _certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, for localhost, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = SystemClock().now()
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(secret + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "both.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_webhooks_are_for_administrators_and_change_by_version(there: Crm) -> None:
    with pytest.raises(Forbidden):
        await _do(there, EMPLOYEE, webhooks.subscribe, "https://example.com/")
    for wrong in ({"url": "http://example.com/"}, {"kinds": ["nonsense"]}, {"description": "a\nb"}):
        with pytest.raises(Invalid):
            await _do(there, SYSTEM, webhooks.subscribe, **{"url": "https://example.com/", **wrong})
    hook = await _do(there, SYSTEM, webhooks.subscribe, "https://example.com/")
    changed = await _do(there, SYSTEM, webhooks.change, hook["id"], {"kinds": ["tags"]}, 1)
    assert (changed["version"], changed["kinds"], "secret" in changed) == (2, ["tags"], False)
    with pytest.raises(Stale):
        await _do(there, SYSTEM, webhooks.change, hook["id"], {"active": False}, 1)
    fresh = await _do(there, SYSTEM, webhooks.new_secret, hook["id"])
    assert fresh["secret"] != hook["secret"]
    async with there.database.read() as connection:
        assert [row["id"] for row in await webhooks.subscriptions(connection)] == [hook["id"]]
        with pytest.raises(NotThere):
            await webhooks.deliveries(connection, uuid4())
    with pytest.raises(NotThere):
        await _do(there, SYSTEM, webhooks.resend, hook["id"], uuid4())
    await _do(there, SYSTEM, webhooks.unsubscribe, hook["id"])
    await there.pg.sql(
        "INSERT INTO crm.webhooks (id, url, kinds, secret) SELECT gen_random_uuid(), 'x', '{}', '' FROM"
        " generate_series(1, 50)"
    )
    with pytest.raises(Conflict):
        await _do(there, SYSTEM, webhooks.subscribe, "https://example.com/")


async def test_deliveries_are_paged_and_two_couriers_send_each_once(there: Crm) -> None:
    async with receiver(OK) as mine, courier(there) as one, courier(there) as two:
        hook = await _hook(there, mine.url, "tags")
        for _ in range(45):
            await there.create("tags", name=f"t{uuid4()}")
        await asyncio.gather(_round(one), _round(two))
        await asyncio.gather(_round(one), _round(two))
        assert len(mine.told) == len(set(mine.told)) == 45
        seen, after = [], None
        async with there.database.read() as connection:
            while True:
                rows, _, after = await webhooks.deliveries(connection, hook["id"], after=after, limit=20)
                seen += [row["id"] for row in rows]
                if after is None:
                    break
        assert len(set(seen)) == len(seen) == 45
