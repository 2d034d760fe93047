"""How people get in: invitations, passkeys, passwords; what each role may do with others'; and what the audit tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from tests.edge_client import Authenticator, Client
from tests.edge_server import PASSWORD, Crm, edge_crm

from threefold.connectivity import invitations
from threefold.connectivity.audit import Audit
from threefold.connectivity.erasing import forget
from threefold.crm.erasing import erasure
from threefold.crm.erasing.erasure_ledger import ErasureLedger
from threefold.crm.model.actor import SYSTEM
from threefold.crm.sql.database import Database
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Refused

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crm() -> AsyncIterator[Crm]:
    async with edge_crm() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(crm: Crm) -> Client:
    return await crm.administrator()


@pytest_asyncio.fixture(loop_scope="module")
async def emil(crm: Crm, ada: Client) -> Client:
    return crm.employee(ada, f"Emil{uuid4().hex[:8]}")


async def contact(crm: Crm) -> str:
    rows = await crm.cluster.sql(
        "INSERT INTO crm.contacts (id, full_name, email) VALUES (gen_random_uuid(), 'Cora', %s) RETURNING id",
        (f"{uuid4().hex}@customer.example",),
    )
    return str(rows[0][0])


def with_passkey(crm: Crm, token: str) -> tuple[Client, Authenticator]:
    client, authenticator = crm.client(), Authenticator(crm.origin)
    options = client.post("/connect/enrol/options", {"token": token})
    assert options.status == 200, options.body
    answer = client.enrol(token, "A phone", registration=authenticator.create(options.json()))
    assert answer.status == 201, answer.body
    return client, authenticator


def sign_in(client: Client, authenticator: Authenticator, **changed: Any) -> Any:
    options = client.post("/connect/signin/options").json()
    return client.post("/connect/signin", {"assertion": authenticator.get(options, **changed), "bearer": True})


async def test_the_first_administrator_is_let_in_once(crm: Crm, ada: Client) -> None:
    async with Database(crm.cluster.dsn(), SystemClock()) as database:
        with pytest.raises(Refused, match="already"):
            await invitations.first_administrator(database, name="Eve", email="eve@example.com")
        assert await invitations.first_administrator(database, name="Ada", email="ADA@example.com", again=True)
    people = ada.get("/connect/people").json()["people"]
    assert [p["email"] for p in people if p["role"] == "administrator"] == ["ada@example.com"]


async def test_a_link_shows_whom_it_is_for_and_keeps_its_secret_in_the_fragment(crm: Crm, ada: Client) -> None:
    invited = ada.post("/connect/invitations", {"full_name": "Nia", "email": "nia@example.com", "role": "employee"})
    url = invited.json()["url"]
    assert url.startswith(f"{crm.origin}/join#")
    token = url.partition("#")[2]
    shown = crm.client().post("/connect/invitation", {"token": token}, headers={"DPoP": None}).json()
    assert (shown["name"], shown["role"], shown["methods"]) == ("Nia", "employee", [])
    kept = await crm.cluster.sql("SELECT row_to_json(i)::text FROM edge.invitations i")
    assert not any(token in row[0] for row in kept)
    assert token not in str(ada.get("/connect/invitations").json())


async def test_an_invitation_opens_once_however_many_try(crm: Crm, ada: Client) -> None:
    token = crm.invite(ada, full_name="Many", email="many@example.com", role="employee")
    clients = [crm.client() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = await asyncio.to_thread(
            lambda: list(pool.map(lambda c: c.enrol(token, "x", password=PASSWORD), clients))
        )
    assert sorted(answer.status for answer in answers) == [201] + [410] * 5
    user = next(a.json()["user"]["id"] for a in answers if a.status == 201)
    assert len(ada.get(f"/connect/people/{user}/devices").json()["devices"]) == 1
    assert crm.client().post("/connect/invitation", {"token": token}).code == "gone"


@pytest.mark.parametrize("how", ["expired", "withdrawn", "inactive", "another role"])
async def test_an_invitation_that_does_not_hold_any_more_is_refused(crm: Crm, ada: Client, how: str) -> None:
    invited = ada.post(
        "/connect/invitations", {"full_name": "Late", "email": f"{uuid4().hex}@example.com", "role": "employee"}
    ).json()
    token = invited["url"].partition("#")[2]
    user = invited["user"]["id"]
    if how == "withdrawn":
        assert ada.post(f"/connect/invitations/{invited['id']}/withdraw").json()["state"] == "withdrawn"
    changes = {
        "expired": ("UPDATE edge.invitations SET expires_at = now() WHERE id = %s", invited["id"]),
        "inactive": ("UPDATE crm.users SET active = false, version = version + 1 WHERE id = %s", user),
        "another role": ("UPDATE crm.users SET role = 'administrator', version = version + 1 WHERE id = %s", user),
    }
    if how in changes:
        statement, id_ = changes[how]
        await crm.cluster.sql(statement, (id_,))
    client = crm.client()
    assert client.post("/connect/invitation", {"token": token}).code == "gone"
    assert client.post("/connect/enrol/options", {"token": token}).code == "gone"
    refused = client.enrol(token, "x", password=PASSWORD)
    assert (refused.status, refused.code) == (410, "gone")
    assert refused.json()["hint"]
    assert (await crm.cluster.sql("SELECT count(*) FROM edge.devices WHERE user_id = %s", (user,)))[0][0] == 0
    assert (await crm.cluster.sql("SELECT count(*) FROM edge.passwords WHERE user_id = %s", (user,)))[0][0] == 0


async def test_what_is_wrong_with_an_enrolment_is_said_and_uses_nothing_up(crm: Crm, ada: Client) -> None:
    token = crm.invite(ada, full_name="Wrong", email="wrong@example.com", role="employee")
    client = crm.client()
    for sent, field in (
        ({"device": "x"}, "registration"),
        ({"device": "x", "password": "short"}, "password"),
        ({"device": "x", "password": "a" * 20}, "password"),
        ({"device": "  ", "password": PASSWORD}, "device"),
        ({"device": "x" * 100, "password": PASSWORD}, "device"),
        ({"device": "x", "registration": {"id": "x"}}, "registration"),
        ({"device": "x", "registration": {"response": {"clientDataJSON": "!"}}}, "registration"),
    ):
        answer = client.post("/connect/enrol", {"token": token, **sent})
        assert (answer.status, set(answer.json()["fields"])) == (422, {field}), sent
    assert client.post("/connect/invitation", {"token": "unknown"}).code == "not-found"
    assert client.post("/connect/enrol", {"token": token, "device": "x"}, headers={"DPoP": None}).code == "proof"
    assert client.enrol(token, "x", password=PASSWORD).status == 201
    again = crm.invite(ada, user_id=client.who["user"]["id"])
    assert client.enrol(again, "x").code == "conflict", "the same key twice"


async def test_a_browsers_session_is_in_a_cookie_that_no_script_reads(crm: Crm, ada: Client) -> None:
    token = crm.invite(ada, full_name="Bro", email="bro@example.com", role="employee")
    client = crm.client()
    answer = client.enrol(token, "Browser", password=PASSWORD, bearer=False)
    assert "token" not in answer.json()
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-threefold=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert client.get("/connect/me").json()["user"]["name"] == "Bro"
    out = client.post("/connect/signout")
    assert (out.status, "Max-Age=0" in out.headers["set-cookie"]) == (204, True)
    assert client.get("/connect/me").status == 401


async def test_passkeys_let_people_in_and_nothing_else_does(crm: Crm, ada: Client) -> None:
    client, authenticator = with_passkey(
        crm, crm.invite(ada, full_name="Pia", email="pia@example.com", role="employee")
    )
    answer = sign_in(client, authenticator)
    assert (answer.status, answer.json()["user"]["name"]) == (200, "Pia")
    for changed in ({"origin": "https://evil.example"}, {"type": "webauthn.create"}, {"challenge": "AAAA"}):
        assert sign_in(client, authenticator, **changed).code == "credentials", changed
    options = client.post("/connect/signin/options").json()
    assertion = authenticator.get(options)
    assert client.post("/connect/signin", {"assertion": assertion}).status == 200
    for again in (assertion, authenticator.get(options)):
        assert client.post("/connect/signin", {"assertion": again}).code == "credentials", "a challenge holds once"
    authenticator.count = 0
    assert sign_in(client, authenticator).code == "credentials", "a copy of the authenticator counts on its own"
    authenticator.count = 50
    stranger = Authenticator(crm.origin)
    stranger.user = authenticator.user
    assert sign_in(client, stranger).code == "credentials"
    assert sign_in(client, authenticator).status == 200
    for broken in ({}, {"rawId": 5}, {"rawId": "AA", "response": {}}, {"rawId": "AA", "response": None}):
        assert client.post("/connect/signin", {"assertion": broken}).code == "credentials"
    await crm.cluster.sql("UPDATE edge.challenges SET expires_at = now()")
    options = client.post("/connect/signin/options").json()
    await crm.cluster.sql("UPDATE edge.challenges SET expires_at = now()")
    assert client.post("/connect/signin", {"assertion": authenticator.get(options)}).code == "credentials"


async def test_a_passkey_without_a_verified_person_is_not_taken(crm: Crm, ada: Client) -> None:
    token = crm.invite(ada, full_name="Uma", email="uma@example.com", role="employee")
    client, careless = crm.client(), Authenticator(crm.origin, verifies=False)
    options = client.post("/connect/enrol/options", {"token": token}).json()
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert client.enrol(token, "x", registration=careless.create(options)).status == 422
    authenticator = Authenticator(crm.origin)
    options = client.post("/connect/enrol/options", {"token": token}).json()
    assert client.enrol(token, "x", registration=authenticator.create(options)).status == 201
    authenticator.verifies = False
    assert sign_in(client, authenticator).code == "credentials"


async def test_a_challenge_belongs_to_the_device_that_asked(crm: Crm, ada: Client) -> None:
    pia, passkey = with_passkey(crm, crm.invite(ada, full_name="P", email="p@example.com", role="employee"))
    other, others = with_passkey(crm, crm.invite(ada, full_name="O", email="o@example.com", role="employee"))
    options = pia.post("/connect/signin/options").json()
    assert other.post("/connect/signin", {"assertion": passkey.get(options)}).code == "credentials"
    assert sign_in(other, passkey).code == "credentials", "somebody else's passkey on this device"
    assert sign_in(other, others).status == 200
    assert sign_in(pia, passkey).status == 200
    pia.token = sign_in(pia, passkey).json()["token"]
    second = crm.client()
    link = pia.post("/connect/devices/invitation").json()["url"]
    assert second.enrol(link.partition("#")[2], "Another of hers").status == 201
    options = pia.post("/connect/signin/options").json()
    moved = second.post("/connect/signin", {"assertion": passkey.get(options)})
    assert moved.code == "credentials", "the challenge was another device's"
    assert sign_in(second, passkey).status == 200
    unknown = crm.client()
    assert unknown.post("/connect/signin/options").code == "unknown-device"
    assert unknown.sign_in("p@example.com", PASSWORD).code == "unknown-device"


async def test_passkeys_are_added_and_removed_but_not_the_last_way_in(crm: Crm, ada: Client) -> None:
    client, _ = with_passkey(crm, crm.invite(ada, full_name="Two", email="two@example.com", role="employee"))
    first = client.get("/connect/passkeys").json()["passkeys"][0]["id"]
    assert client.post(f"/connect/passkeys/{first}/remove").code == "conflict"
    second = Authenticator(crm.origin)
    options = client.post("/connect/passkeys/options").json()
    assert [held["id"] for held in options["excludeCredentials"]] == [first]
    made = client.post("/connect/passkeys", {"name": "Key ring", "registration": second.create(options)})
    assert made.status == 201
    assert client.post(f"/connect/passkeys/{first}/remove").status == 204
    assert [key["name"] for key in client.get("/connect/passkeys").json()["passkeys"]] == ["Key ring"]
    assert client.post("/connect/passkeys/nothing/remove").code == "not-found"
    assert sign_in(client, second).status == 200


async def test_wrong_passwords_are_slowed_down_and_tell_nothing(crm: Crm, ada: Client, emil: Client) -> None:
    email = emil.who["user"]["email"]
    spent = {}
    for tried in (email, f"{uuid4().hex}@example.com"):
        answers, took = [], []
        for _ in range(3):
            since = time.monotonic()
            answers.append(emil.twin().sign_in(tried, "wrong wrong wrong"))
            took.append(time.monotonic() - since)
        spent[tried] = min(took)
        assert [a.code for a in answers] == ["credentials"] * 3
        assert len({a.body for a in answers}) == 1
        assert [emil.twin().sign_in(tried, "wrong wrong wrong").code for _ in range(2)] == ["credentials", "too-many"]
    assert max(spent.values()) < 4 * min(spent.values()), "the time tells who exists"
    await crm.cluster.sql("UPDATE edge.attempts SET wait_until = now() + interval '1 minute'")
    limited = emil.twin().sign_in(email, PASSWORD)
    assert limited.status == 429, "the right one has to wait as well"
    assert int(limited.headers["retry-after"]) >= 1
    await crm.cluster.sql("UPDATE edge.attempts SET wait_until = now()")
    assert emil.sign_in(email.upper(), PASSWORD).status == 200
    assert (await crm.cluster.sql("SELECT count(*) FROM edge.attempts"))[0][0] == 1, "the other's is still counted"


async def test_nobody_locks_somebody_else_out(crm: Crm, ada: Client, emil: Client) -> None:
    victim = crm.employee(ada, f"Victim{uuid4().hex[:6]}")
    email = victim.who["user"]["email"]
    answers = [emil.twin().sign_in(email, f"wrong wrong wrong {n}").status for n in range(5)]
    assert answers[-1] == 429, "guessing is slowed down"
    assert victim.sign_in(email, PASSWORD).status == 200


async def test_guesses_at_once_are_counted_one_by_one(crm: Crm, ada: Client) -> None:
    someone = crm.employee(ada, f"Guess{uuid4().hex[:6]}")
    email = someone.who["user"]["email"]
    with ThreadPoolExecutor(20) as pool:
        answers = await asyncio.to_thread(
            lambda: list(pool.map(lambda n: someone.twin().sign_in(email, f"wrong wrong {n}").status, range(20)))
        )
    assert set(answers) == {401, 429}
    assert answers.count(401) <= 4


async def test_a_password_is_of_one_person_on_their_own_device(crm: Crm, ada: Client, emil: Client) -> None:
    assert emil.twin().sign_in("ada@example.com", PASSWORD).code == "credentials"


async def test_changing_the_password_asks_for_the_old_one_and_ends_other_sessions(crm: Crm, emil: Client) -> None:
    other = emil.twin()
    assert other.sign_in(emil.who["user"]["email"], PASSWORD).status == 200
    assert emil.post("/connect/password", {"new": "another good sentence"}).code == "invalid"
    wrong = emil.post("/connect/password", {"current": "not it at all", "new": "another good sentence"})
    assert wrong.code == "credentials"
    assert other.get("/connect/me").status == 200
    changed = emil.post("/connect/password", {"current": PASSWORD, "new": "another good sentence"})
    assert changed.status == 204
    assert other.get("/connect/me").status == 401
    assert emil.get("/connect/me").status == 200
    assert emil.get("/connect/password").json()["set"] is True
    assert other.sign_in(emil.who["user"]["email"], "another good sentence").status == 200


async def test_a_further_device_comes_by_a_link_of_ones_own(crm: Crm, emil: Client) -> None:
    invited = emil.post("/connect/devices/invitation").json()
    token = invited["url"].partition("#")[2]
    phone = crm.client()
    assert phone.post("/connect/invitation", {"token": token}).json()["methods"] == ["password"]
    assert phone.enrol(token, "Phone").status == 201, "the password is there already"
    listed = emil.get("/connect/devices").json()["devices"]
    assert {device["name"]: device["this"] for device in listed} == {"Phone": False, listed[-1]["name"]: True}
    renamed = emil.post(f"/connect/devices/{listed[0]['id']}/name", {"name": "My  phone"})
    assert renamed.json()["name"] == "My phone"
    assert len(emil.get("/connect/sessions").json()["sessions"]) == 2
    assert emil.post(f"/connect/devices/{listed[0]['id']}/revoke").json()["revoked_at"]
    assert phone.get("/connect/me").status == 401
    assert len(emil.get("/connect/sessions").json()["sessions"]) == 1
    assert phone.sign_in(emil.who["user"]["email"], PASSWORD).code == "unknown-device"


async def test_a_customer_is_invited_by_an_employee_and_is_only_themselves(crm: Crm, ada: Client, emil: Client) -> None:
    of = await contact(crm)
    token = crm.invite(emil, contact_id=of)
    cora = crm.client()
    assert cora.enrol(token, "Cora's phone", password=PASSWORD).status == 201
    assert (cora.who["user"]["role"], cora.who["user"]["contact_id"]) == ("customer", of)
    assert cora.get("/t/me").json()["role"] == "customer"
    again = emil.post("/connect/invitations", {"contact_id": of}).json()
    assert again["user"]["id"] == cora.who["user"]["id"], "one user for a contact"
    logged = await crm.cluster.sql("SELECT actor::text FROM crm.log WHERE record_id = %s", (cora.who["user"]["id"],))
    assert logged == [(emil.who["user"]["id"],)]
    someone = emil.who["user"]["id"]
    for target in ("/connect/people", "/connect/invitations", "/connect/audit", f"/connect/people/{someone}/devices"):
        assert cora.get(target).code == "not-found", target
    device = emil.who["device"]["id"]
    for target in (f"/connect/people/{someone}/revoke", f"/connect/devices/{device}/revoke", "/connect/invitations"):
        assert cora.post(target, {"user_id": someone} if target.endswith("invitations") else {}).code == "not-found"
    assert emil.get("/connect/me").status == 200


async def test_employees_invite_customers_and_administrators_everybody(crm: Crm, ada: Client, emil: Client) -> None:
    of = {"full_name": "X", "email": f"{uuid4().hex}@example.com", "role": "administrator"}
    assert emil.post("/connect/invitations", of).code == "forbidden"
    assert emil.post("/connect/invitations", {"user_id": ada.who["user"]["id"]}).code == "forbidden"
    assert emil.post("/connect/invitations", {"contact_id": str(uuid4())}).code == "not-found"
    for sent in ({}, {"user_id": str(uuid4()), "contact_id": str(uuid4())}, {"full_name": "X"}, {"hours": 0}):
        assert ada.post("/connect/invitations", sent).code == "invalid", sent
    taken = {"full_name": "X", "email": "ada@example.com", "role": "employee"}
    assert ada.post("/connect/invitations", taken).status in {409, 422}
    for target in ("/connect/people", "/connect/audit", f"/connect/people/{ada.who['user']['id']}/devices"):
        assert emil.get(target).code == "forbidden"
    mine = ada.post("/connect/invitations", {"user_id": emil.who["user"]["id"]}).json()
    assert emil.post(f"/connect/invitations/{mine['id']}/withdraw").code == "not-found", "it is not theirs"
    assert mine["id"] in str(ada.get("/connect/invitations").json())
    assert mine["id"] not in str(emil.get("/connect/invitations").json())


async def test_revoking_a_person_takes_all_they_could_get_in_with(crm: Crm, ada: Client, emil: Client) -> None:
    user = emil.who["user"]["id"]
    token = emil.post("/connect/devices/invitation").json()["url"].partition("#")[2]
    assert ada.post(f"/connect/people/{user}/revoke").json() == {"devices": 1, "sessions": 1}
    assert emil.get("/connect/me").status == 401
    assert crm.client().enrol(token, "x").code == "gone"
    assert ada.post(f"/connect/people/{uuid4()}/revoke").code == "not-found"


async def test_the_audit_tells_who_saw_and_did_what_and_is_only_added_to(crm: Crm, ada: Client, emil: Client) -> None:
    assert emil.get("/t/me").status == 200
    emil.twin().sign_in(emil.who["user"]["email"], "wrong wrong wrong")
    user = emil.who["user"]["id"]
    for _ in range(40):
        entries = ada.get(f"/connect/audit?user={user}").json()["entries"]
        if {"saw", "signin-failed"} <= {entry["what"] for entry in entries}:
            break
        await asyncio.sleep(0.1)
    saw = next(entry for entry in entries if entry["what"] == "saw")
    assert (saw["name"], saw["device_id"], saw["kind"]) == (
        emil.who["user"]["name"],
        emil.who["device"]["id"],
        "contacts",
    )
    assert {"enrolled", "saw", "signin-failed"} <= {entry["what"] for entry in entries}
    page = ada.get("/connect/audit?limit=2").json()
    following = ada.get(f"/connect/audit?limit=2&after={page['next']}").json()
    assert [e["id"] for e in page["entries"]] > [e["id"] for e in following["entries"]]
    assert ada.get("/connect/audit?limit=0").code == "invalid"
    for statement in (
        "DELETE FROM edge.audit",
        "UPDATE edge.audit SET what = 'x'",
        "UPDATE edge.audit SET address = '', detail = '{}', user_id = NULL",
        "TRUNCATE edge.audit",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await crm.cluster.sql(statement)


async def test_the_audit_is_asked_by_date_and_is_kept_as_long_as_administrators_say(crm: Crm, ada: Client) -> None:
    """Entries of a hundred days, each day two of them, are put there by hand."""
    person = uuid4()
    await crm.cluster.sql(
        "INSERT INTO edge.audit (at, what, user_id)"
        " SELECT now() - n / 2 * interval '1 day' - interval '1 hour', 'saw', %s FROM generate_series(200, 1, -1) n",
        (person,),
    )

    def told(**asked: str) -> list[str]:
        query = urlencode({"user": person, "limit": "200", **asked})
        return [entry["at"] for entry in ada.get(f"/connect/audit?{query}").json()["entries"]]

    everything = told()
    assert (len(everything), everything) == (200, sorted(everything, reverse=True))
    since, until = everything[50], everything[20]
    assert told(since=since) == [at for at in everything if at >= since]
    assert told(until=until) == [at for at in everything if at < until]
    assert told(since=since, until=until, what="saw") == [at for at in everything if since <= at < until]
    assert told(since=since, until=until, what="signin") == []
    assert ada.get("/connect/audit?since=2026-01-01").code == "invalid", "a time without its offset"

    async with Database(crm.cluster.dsn(), SystemClock()) as database:
        kept = Audit(database, SystemClock())
        assert await kept.trim() == 0, "nothing goes unless somebody said so"
        await crm.cluster.sql("UPDATE crm.settings SET audit_days = 40")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await crm.cluster.sql("DELETE FROM edge.audit WHERE at > now() - interval '39 days'")
        gone = await kept.trim()
        left = [at for at in everything if at > (datetime.now(UTC) - timedelta(days=40)).isoformat()]
        assert (len(left), told()) == (79, left)  # an hour more than n / 2 days: of day 40 none is left
        assert gone >= 121
        assert await kept.trim() == 0
        await crm.cluster.sql("UPDATE crm.settings SET audit_days = NULL")
    said = ada.get("/connect/audit?what=trimmed").json()["entries"]
    assert [entry["detail"] for entry in said] == [{"entries": str(gone), "days": "40"}]


async def test_nothing_in_the_edges_tables_lets_its_reader_in(crm: Crm, emil: Client) -> None:
    rows = await crm.cluster.sql(
        "SELECT row_to_json(s)::text FROM edge.sessions s UNION ALL SELECT row_to_json(p)::text FROM edge.passwords p"
    )
    text = str(rows)
    assert emil.token
    assert emil.token not in text
    assert emil.token.encode().hex() not in text
    assert PASSWORD not in text
    assert "$argon2id$" in text


async def test_an_erased_person_leaves_nothing_here_and_cannot_come_back(
    crm: Crm, ada: Client, emil: Client, tmp_path: Path
) -> None:
    of = await contact(crm)
    cora = crm.client()
    assert cora.enrol(crm.invite(emil, contact_id=of), "Cora's own phone", password=PASSWORD).status == 201
    key = uuid4().hex
    assert emil.post("/t/do", {"what": "Cora", "about": of, "echo": "Cora"}, key=key).status == 201
    async with Database(crm.cluster.dsn(), SystemClock()) as database, database.write(SYSTEM) as tx:
        await erasure.erase(tx, UUID(of), "asked for", ErasureLedger(tmp_path / "erasures"), [forget])
    assert cora.get("/connect/me").status == 401
    assert cora.sign_in(cora.who["user"]["email"], PASSWORD).code == "unknown-device"
    user = cora.who["user"]["id"]
    for table in ("passwords", "passkeys", "sessions", "invitations"):
        assert await crm.cluster.sql(f"SELECT count(*) FROM edge.{table} WHERE user_id = %s", (user,)) == [(0,)]
    devices = await crm.cluster.sql("SELECT name, revoked_at IS NULL FROM edge.devices WHERE user_id = %s", (user,))
    assert devices == [("Erased device", False)]
    told = await crm.cluster.sql("SELECT DISTINCT address, detail::text FROM edge.audit WHERE user_id = %s", (user,))
    assert told == [("", "{}")]
    replayed = emil.post("/t/do", {"what": "Cora", "about": of, "echo": "Cora"}, key=key)
    assert (replayed.status, replayed.body) == (201, b"{}"), "what was kept told of them"
