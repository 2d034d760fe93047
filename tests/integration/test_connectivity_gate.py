"""The gate, before a real server and a real PostgreSQL: who gets in, who does not, and who is put out at once."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import pytest_asyncio
from tests.edge_client import Answer, Client
from tests.edge_server import PASSWORD, Crm, edge_crm

from threefold.connectivity import streams

pytestmark = pytest.mark.asyncio(loop_scope="module")
PAGE = {"Accept": "text/html", "DPoP": None, "Sec-Fetch-Mode": "navigate"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crm() -> AsyncIterator[Crm]:
    async with edge_crm() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def ada(crm: Crm) -> Client:
    return await crm.administrator()


async def at_once(client: Client, times: int, method: str, target: str, **more: object) -> list[Answer]:
    def one(_: int) -> Answer:
        twin = client.twin()
        try:
            return twin.request(method, target, **more)  # type: ignore[arg-type]  # as the caller wrote them
        finally:
            twin.close()

    with ThreadPoolExecutor(times) as pool:
        return await asyncio.to_thread(lambda: list(pool.map(one, range(times))))


async def test_without_a_session_or_a_proof_there_is_nothing(crm: Crm, ada: Client) -> None:
    assert ada.get("/t/me").status == 200
    stranger = crm.client()
    for client, left_out in ((stranger, None), (ada, "DPoP"), (ada, "Authorization")):
        answer = client.get("/t/me", headers={left_out: None} if left_out else {})
        assert answer.status == 401, left_out
        assert answer.headers["www-authenticate"].startswith('DPoP algs="ES256"')
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
    assert ada.get("/t/me", headers={"DPoP": None}).code == "proof"
    assert "now" in ada.get("/t/me", headers={"DPoP": None}).json(), "a device learns how far its clock is off"


async def test_the_token_is_worth_nothing_without_the_devices_key(crm: Crm, ada: Client) -> None:
    thief = crm.client()
    thief.token = ada.token
    assert thief.get("/t/me").code == "proof"
    thief.token, thief.cookie = None, f"__Host-threefold={ada.token}"
    assert thief.get("/t/me").status == 401
    ada_by_cookie = ada.twin()
    ada_by_cookie.token, ada_by_cookie.cookie = None, f"__Host-threefold={ada.token}"
    assert ada_by_cookie.get("/t/me").code == "unauthenticated", "a bearer's session is no browser's"


async def test_a_proof_is_good_once(ada: Client) -> None:
    for method, target in (("GET", "/t/me"), ("POST", "/t/do")):
        proof = ada.headers(method, target)["DPoP"]
        sent = {"what": "once"} if method == "POST" else None
        assert ada.request(method, target, sent, headers={"DPoP": proof}).status < 300
        again = ada.request(method, target, sent, headers={"DPoP": proof})
        assert (again.status, again.code) == (401, "proof")
        assert "used before" in again.json()["detail"]


async def test_of_many_at_once_with_one_proof_one_gets_through(ada: Client) -> None:
    proof = ada.headers("GET", "/t/me")["DPoP"]
    answers = await at_once(ada, 12, "GET", "/t/me", headers={"DPoP": proof})
    assert sorted(answer.status for answer in answers) == [200] + [401] * 11


async def test_a_proof_stays_spent_when_the_server_starts_again(crm: Crm, ada: Client) -> None:
    proofs = {method: ada.headers(method, target)["DPoP"] for method, target in (("GET", "/t/me"), ("POST", "/t/do"))}
    assert ada.get("/t/me", headers={"DPoP": proofs["GET"]}).status == 200
    assert ada.post("/t/do", {"what": "once"}, headers={"DPoP": proofs["POST"]}).status == 201
    crm.stop()
    await crm.start()
    assert ada.get("/t/me", headers={"DPoP": proofs["GET"]}).status == 401
    assert ada.post("/t/do", {"what": "once"}, headers={"DPoP": proofs["POST"]}).status == 401
    assert ada.get("/t/me").status == 200


async def test_a_proof_for_something_else_is_refused(crm: Crm, ada: Client) -> None:
    for method, address in (("POST", "/t/me"), ("GET", "/t/mee"), ("GET", "//t/me")):
        proof = ada.key.proof(method, crm.origin + address, token=ada.token)
        assert ada.get("/t/me", headers={"DPoP": proof}).code == "proof"
    two = ada.headers("GET", "/t/me")["DPoP"] + ", " + ada.headers("GET", "/t/me")["DPoP"]
    assert ada.get("/t/me", headers={"DPoP": two}).code == "proof"
    assert ada.get("/t/me?x=1&y=%20").status == 200, "the query is no part of it"


async def test_a_browser_that_cannot_sign_yet_gets_the_shell_and_no_data(crm: Crm, ada: Client) -> None:
    browser = ada.twin()
    browser.token, browser.cookie = None, "__Host-threefold=whatever"
    shell = browser.get("/t/me", headers=PAGE)
    assert (shell.status, shell.body) == (200, b"<p>shell")
    assert shell.headers["cache-control"] == "no-store"
    browser.cookie = ""
    held_back = browser.get("/t/me", headers={**PAGE, "Sec-Fetch-Site": "cross-site"})
    assert held_back.body == b"<p>shell"
    out = browser.get("/t/me?x=1", headers={**PAGE, "Sec-Fetch-Site": "none"})
    assert (out.status, out.headers["location"]) == (303, "/signin?to=%2Ft%2Fme%3Fx%3D1")
    browser.cookie = "__Host-threefold=ended"
    ended = browser.get("/t/me", headers={"Accept": "text/html"})
    assert ended.status == 303
    assert "Max-Age=0" in ended.headers["set-cookie"]
    part = browser.get("/t/me", headers={"HX-Request": "true", "Accept": "text/html"})
    assert (part.status, part.headers["hx-redirect"]) == (401, "/signin")


async def test_another_name_than_ours_is_refused_or_led_home(crm: Crm, ada: Client) -> None:
    led = ada.get("/t/me?x=1", headers={"Host": f"127.0.0.1:{crm.port}"})
    assert (led.status, led.headers["location"]) == (307, f"{crm.origin}/t/me?x=1")
    assert ada.post("/t/do", {"what": "x"}, headers={"Host": "evil.example"}).status == 421
    assert ada.get("/healthz", headers={"Host": "10.0.0.1"}).status == 200


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_a_change_that_another_site_asked_for_is_refused(ada: Client, headers: dict[str, str]) -> None:
    assert ada.post("/t/do", {"what": "x"}, headers=headers).code == "forbidden"
    assert ada.post("/connect/signin", {}, headers=headers).code == "forbidden"


async def test_what_is_public_needs_nothing_and_every_answer_has_the_headers(crm: Crm) -> None:
    stranger = crm.client()
    for target, status in (("/healthz", 200), ("/readyz", 200), ("/join", 200), ("/nothing", 401), ("/static/no", 404)):
        answer = stranger.get(target, headers={"DPoP": None})
        assert answer.status == status, target
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_failures_are_problems(ada: Client) -> None:
    assert ada.get("/nothing").code == "not-found"
    assert (ada.get("/t/do").status, ada.get("/t/do").headers["allow"]) == (405, "POST")
    wrong = ada.post("/connect/password", {"new": 5, "more": 1})
    assert wrong.code == "invalid"
    assert set(wrong.json()["fields"]) == {"new", "more"}
    assert ada.post("/connect/password", b"{", headers={"Content-Type": "application/json"}).code == "invalid"
    crash = ada.post("/t/do", {"what": "x", "fail": "crash"})
    assert (crash.status, crash.code) == (500, "internal")
    assert len(crash.json()["incident"]) == 12
    assert b"mistake" not in crash.body
    assert ada.post("/t/do", {"what": "nul \0"}).code == "invalid"


async def test_what_is_too_large_is_refused(ada: Client) -> None:
    assert ada.post("/t/do", {"what": "x" * 2**20}).status == 413
    assert ada.post("/connect/password", {"new": "x" * 70_000}).status == 413
    assert ada.get("/t/me", headers={"X-Long": "x" * 17_000}).status == 413
    assert ada.get("/t/me", headers={"DPoP": "x" * 3000}).code == "proof"


async def test_a_read_whose_connection_breaks_is_made_once_more(crm: Crm, ada: Client) -> None:
    """The server may have died in the midst of it; nobody has to see that who only wanted to look."""

    async def kill(times: int) -> None:
        for _ in range(times):
            for _ in range(200):
                killed = await crm.cluster.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE 'SELECT pg_sleep(0.5)%' AND state = 'active'"
                )
                if killed:
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)

    killing = asyncio.create_task(kill(1))
    assert (await asyncio.to_thread(ada.get, "/t/slow")).status == 200
    await killing
    killing = asyncio.create_task(kill(2))
    answer = await asyncio.to_thread(ada.get, "/t/slow")
    assert (answer.status, answer.headers["retry-after"] != "") == (503, True), "once, not for ever"
    await killing


async def test_a_body_that_does_not_say_its_size_is_bounded_too(crm: Crm, ada: Client) -> None:
    connection = http.client.HTTPConnection("localhost", crm.port, timeout=10)
    headers = {**ada.headers("POST", "/t/do"), "Content-Type": "application/json"}
    connection.request("POST", "/t/do", (b"x" * 65536 for _ in range(17)), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("announced", [True, False])
async def test_whoever_sends_much_too_much_is_told_so_and_not_cut_off(crm: Crm, ada: Client, announced: bool) -> None:
    """A reset under a sender who is still sending takes the answer with it: a page would show "no connection"."""
    connection = http.client.HTTPConnection("localhost", crm.port, timeout=20)
    said = {**ada.headers("POST", "/t/do"), "Content-Type": "application/json"}
    pieces = (b"x" * 65536 for _ in range(16 * 20))
    if announced:
        said["Content-Length"] = str(20 * 2**20)
    began = time.monotonic()
    connection.request("POST", "/t/do", pieces, said, encode_chunked=not announced)
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["hint"]
    assert time.monotonic() - began < 4, "and at once where all of it has come"
    connection.close()


async def test_a_session_that_somebody_is_ending_keeps_nobody_waiting(crm: Crm, ada: Client) -> None:
    """An end that waits for its stores holds the row meanwhile, and everybody comes in through one connection."""
    session = ada.who["session"]["id"]
    await crm.cluster.sql("UPDATE edge.sessions SET seen_at = now() - interval '1 hour' WHERE id = %s", (session,))
    async with await psycopg.AsyncConnection.connect(crm.cluster.dsn()) as ending:
        for table, id_ in (("sessions", session), ("devices", ada.who["device"]["id"])):
            await ending.execute(f"UPDATE edge.{table} SET seen_at = seen_at WHERE id = %s".encode(), (id_,))
        began = time.monotonic()
        for _ in range(3):
            assert (await asyncio.to_thread(ada.get, "/t/me")).status == 200
        assert time.monotonic() - began < 2
        await ending.rollback()
    assert (await asyncio.to_thread(ada.get, "/t/me")).status == 200
    for _ in range(50):
        seen = "SELECT seen_at > now() - interval '1 minute' FROM edge.sessions WHERE id = %s"
        if (await crm.cluster.sql(seen, (session,)))[0][0]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it was not noted when the session was seen")


async def test_a_revoked_device_is_out_with_the_next_request(crm: Crm, ada: Client) -> None:
    emil = crm.employee(ada, "Rea")
    assert emil.get("/t/me").status == 200
    device = emil.who["device"]["id"]
    user = emil.who["user"]["id"]
    assert ada.post(f"/connect/people/{user}/devices/{device}/revoke").status == 200
    assert emil.get("/t/me").code == "unauthenticated"
    assert emil.post("/t/do", {"what": "x"}).status == 401
    assert emil.sign_in("rea@example.com", "correct horse battery").code == "unknown-device"


@pytest.mark.parametrize(
    "how",
    [
        "UPDATE crm.users SET active = false, version = version + 1 WHERE id = %s",
        "UPDATE crm.users SET deleted_at = now(), version = version + 1 WHERE id = %s",
        "UPDATE edge.sessions SET idle_until = now() WHERE user_id = %s",
        "UPDATE edge.sessions SET expires_at = now() WHERE user_id = %s",
    ],
)
async def test_a_session_ends_with_its_person_and_its_time(crm: Crm, ada: Client, how: str) -> None:
    name = f"U{abs(hash(how))}"
    someone = crm.employee(ada, name)
    assert someone.get("/t/me").status == 200
    await crm.cluster.sql(how, (someone.who["user"]["id"],))
    assert someone.get("/t/me").code == "unauthenticated"


async def test_a_role_that_changed_holds_at_once(crm: Crm, ada: Client) -> None:
    someone = crm.employee(ada, "Rolf", role="administrator")
    assert someone.get("/connect/people").status == 200
    await crm.cluster.sql(
        "UPDATE crm.users SET role = 'employee', version = version + 1 WHERE id = %s", (someone.who["user"]["id"],)
    )
    assert someone.get("/connect/people").code == "forbidden"


@pytest.mark.parametrize("kind", ["text/event-stream", "text/csv"])
async def test_a_running_answer_is_cut_when_its_device_is_revoked(crm: Crm, ada: Client, kind: str) -> None:
    someone = crm.employee(ada, f"Stream{kind[-3:]}")
    response = someone.stream(f"/t/stream?kind={kind}")
    assert response.readline() == b"data: first\n"
    since = time.monotonic()
    # As another process would do it: this server is not told.
    await crm.cluster.sql("UPDATE edge.devices SET revoked_at = now() WHERE user_id = %s", (someone.who["user"]["id"],))
    if kind == "text/event-stream":
        rest = await asyncio.to_thread(response.read)
        assert rest.endswith(b"event: signed-out\ndata: {}\n\n")
    else:
        with pytest.raises(http.client.IncompleteRead):
            await asyncio.to_thread(response.read)
    assert time.monotonic() - since < 2


async def test_who_waits_for_news_when_the_device_is_revoked_hears_none(crm: Crm, ada: Client) -> None:
    someone = crm.employee(ada, "Waits")
    waits = asyncio.create_task(asyncio.to_thread(someone.get, "/t/wait"))
    await asyncio.sleep(0.3)
    await crm.cluster.sql("UPDATE edge.devices SET revoked_at = now() WHERE user_id = %s", (someone.who["user"]["id"],))
    answer = await asyncio.wait_for(waits, 2)
    assert (answer.status, answer.code) == (401, "unauthenticated")


async def test_a_role_that_changed_ends_what_was_begun_under_the_other(crm: Crm, ada: Client) -> None:
    someone = crm.employee(ada, "Ruth", role="administrator")
    response = someone.stream("/t/stream")
    assert response.readline() == b"data: first\n"
    await crm.cluster.sql(
        "UPDATE crm.users SET role = 'employee', version = version + 1 WHERE id = %s", (someone.who["user"]["id"],)
    )
    rest = await asyncio.wait_for(asyncio.to_thread(response.read), 2)
    assert b"signed-out" not in rest, "the page comes again by itself, as who it is now"
    assert someone.get("/t/me").json()["role"] == "employee"


async def test_one_person_has_only_so_many_requests_at_once(crm: Crm, ada: Client) -> None:
    many, other = crm.employee(ada, "Many"), crm.employee(ada, "Other")
    running = [many.stream("/t/stream") for _ in range(streams.AT_ONCE)]
    assert {response.status for response in running} == {200}
    again = many.twin()
    assert again.sign_in("many@example.com", PASSWORD).status == 200, "with another session, too"
    assert again.get("/t/me").code == "too-many"
    assert other.get("/t/me").status == 200
    for response in running:
        response.close()
    async with asyncio.timeout(5):
        while again.get("/t/me").status != 200:
            await asyncio.sleep(0.1)


async def test_one_customer_cannot_take_all_of_the_database(crm: Crm, ada: Client) -> None:
    (of,) = (await crm.cluster.sql("SELECT gen_random_uuid()"))[0]
    await crm.cluster.sql("INSERT INTO crm.contacts (id, full_name, email) VALUES (%s, 'Cora', 'c@x.example')", (of,))
    cora = crm.client()
    assert cora.enrol(crm.invite(ada, contact_id=str(of)), "a phone", password=PASSWORD).status == 201
    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(cora.twin().get, "/t/slow") for _ in range(30)]
        await asyncio.sleep(0.3)
        since = time.monotonic()
        assert (await asyncio.to_thread(ada.get, "/t/me")).status == 200
        assert time.monotonic() - since < 0.4, "there was a connection at once"
        assert {answer.result().status for answer in asked} <= {200, 429}, "all get theirs, or are told"


async def test_other_streams_go_on(crm: Crm, ada: Client) -> None:
    stays, goes = crm.employee(ada, "Stays"), crm.employee(ada, "Goes")
    kept, cut = stays.stream("/t/stream"), goes.stream("/t/stream")
    assert kept.readline() == cut.readline() == b"data: first\n"
    assert goes.post("/connect/signout").status == 204
    assert b"signed-out" in await asyncio.to_thread(cut.read)
    kept.fp.raw._sock.settimeout(1.0)  # type: ignore[union-attr]  # the socket under the response
    with pytest.raises((TimeoutError, socket.timeout)):
        kept.readline(), kept.readline()
    kept.close()


async def test_one_session_cannot_take_all(crm: Crm, ada: Client) -> None:
    await ada_waits_for_limits(crm, ada)


async def ada_waits_for_limits(crm: Crm, ada: Client) -> None:
    crm.stop()
    crm.settings = json.dumps({"session": 3, "begin": 2, "failures": 2})
    await crm.start()
    try:
        answers = [ada.get("/t/me") for _ in range(6)]
        assert [answer.status for answer in answers].count(429) >= 2
        limited = next(answer for answer in answers if answer.status == 429)
        assert limited.code == "too-many"
        assert int(limited.headers["retry-after"]) >= 1
        looks = [crm.client().post("/connect/invitation", {"token": "x"}).status for _ in range(4)]
        assert looks[:2] == [404, 404]
        assert 429 in looks
        guesses = [crm.client().get("/t/me").status for _ in range(4)]
        assert 429 in guesses
    finally:
        crm.stop()
        crm.settings = "{}"
        await crm.start()
