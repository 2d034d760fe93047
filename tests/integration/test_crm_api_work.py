"""The API beyond single records: cases, merges, batches, files, views, the feed of changes, and who may what."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.api_world import Api, api

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[Api]:
    async with api() as made:
        yield made


async def test_a_case_goes_from_report_to_rating(world: Api) -> None:
    case = await world.make("requests", {"subject": "It hums", "kind": "repair"}, by="customer")
    at = f"/requests/{case['id']}"
    assert case["first_response_due_at"] is not None
    me = world.who("employee")["id"]
    assigned = await world.ask("POST", f"{at}/assign", {"assignee_id": me})
    assert (assigned.status, assigned.json()["assignee_id"], assigned.json()["status"]) == (200, me, "assigned")
    assert (await world.ask("POST", f"{at}/assign", {})).status == 422
    assert (await world.ask("POST", f"{at}/watch", {})).json()["watchers"] == [me]
    assert (await world.ask("POST", f"{at}/watch", {"watching": False})).json()["watchers"] == []

    mine = (await world.ask("GET", "/queue", mine="true")).json()["items"]
    assert [one["id"] for one in mine] == [case["id"]]
    note = await world.ask("POST", f"{at}/answers", {"body": "odd one", "internal": True})
    assert (note.status, note.json()["internal"]) == (201, True)
    said = await world.ask("POST", f"{at}/answers", {"body": "We come on Monday.", "status": "done"})
    assert said.headers["location"] == f"/api/v1/interactions/{said.json()['id']}"
    seen = (await world.ask("GET", "/interactions", request_id=case["id"], by="customer")).json()["items"]
    assert [one["body"] for one in seen] == ["We come on Monday."]
    assert (await world.ask("GET", f"/interactions/{note.json()['id']}", by="customer")).status == 404

    assert (await world.ask("POST", f"{at}/rating", {"satisfaction": 6}, by="customer")).status == 422
    rated = await world.ask("POST", f"{at}/rating", {"satisfaction": 5}, by="customer")
    assert (rated.status, rated.json()["satisfaction"], rated.json()["status"]) == (200, 5, "done")
    back = await world.ask("POST", f"{at}/answers", {"body": "It hums again."}, by="customer")
    assert (back.json()["direction"], back.json()["channel"]) == ("in", "chat")
    assert (await world.ask("GET", at)).json()["status"] == "in progress"
    beyond = await world.ask("POST", f"{at}/answers", {"body": "x", "internal": True}, by="customer")
    assert beyond.status == 403
    assert (await world.ask("POST", f"{at}/answers", {"body": "mine now"}, by="other")).status == 404
    assert (await world.ask("POST", f"{at}/rating", {"satisfaction": 1}, by="other")).status == 404
    wrong = await world.ask("POST", f"{at}/status", {"status": "assigned"})
    assert wrong.status == 200
    again = await world.ask("POST", f"{at}/status", {"status": "new"})
    assert (again.status, again.json()["type"]) == (409, "urn:threefold:problem:conflict")


async def test_two_cases_and_two_contacts_become_one_and_part_again(world: Api) -> None:
    one, two = [await world.make("queries", {"subject": name}, by="customer") for name in ("One", "Two")]
    merged = await world.ask("POST", f"/queries/{one['id']}/merge", {"other": two["id"]})
    assert merged.status == 200
    listed = (await world.ask("GET", "/queries/merges")).json()["items"]
    assert (await world.ask("GET", f"/queries/{two['id']}")).json()["merged_into_id"] == one["id"]
    assert (await world.ask("POST", f"/merges/{listed[0]['id']}/undo")).status == 200
    assert (await world.ask("GET", f"/queries/{two['id']}")).json()["merged_into_id"] is None

    people = [
        await world.make("contacts", {"full_name": "Eve", "email": "eve@example.com", "phone": phone})
        for phone in ("", "123")
    ]
    found = (await world.ask("GET", "/contacts/duplicates")).json()["items"]
    assert [{row["id"] for row in group["rows"]} for group in found] == [{person["id"] for person in people}]
    both = {"keep": people[0]["id"], "drop": people[1]["id"], "choices": {"phone": "drop"}}
    made = await world.ask("POST", "/contacts/merge", both)
    assert made.status == 201
    assert (await world.ask("GET", f"/contacts/{people[0]['id']}")).json()["phone"] == "123"
    assert (await world.ask("GET", f"/contacts/{people[1]['id']}")).status == 404
    assert (await world.ask("POST", f"/merges/{made.json()['id']}/undo")).status == 200
    assert (await world.ask("GET", f"/contacts/{people[1]['id']}")).json()["phone"] == "123"
    assert (await world.ask("POST", f"/merges/{made.json()['id']}/undo")).status == 409
    assert (await world.ask("POST", "/contacts/merge", {**both, "drop": people[0]["id"]})).status == 422


async def test_a_batch_is_done_and_taken_back(world: Api) -> None:
    account = await world.make("accounts", {"name": "Acme"})
    deals = [await world.make("deals", {"name": name, "account_id": account["id"]}) for name in ("a", "b")]
    items = [{"id": deal["id"], "version": 1} for deal in deals]
    done = await world.ask("POST", "/deals/batches", {"what": "set", "items": items, "changes": {"stage": "won"}})
    assert (done.status, done.json()["records"]) == (201, 2)
    assert {one["stage"] for one in (await world.ask("GET", "/deals")).json()["items"]} == {"won"}
    stale = await world.ask("POST", "/deals/batches", {"what": "delete", "items": items})
    assert stale.status == 412
    tag = await world.make("tags", {"name": "big"})
    tagged = {"what": "tag", "items": [{"id": deal["id"]} for deal in deals], "tag_id": tag["id"]}
    assert (await world.ask("POST", "/deals/batches", tagged)).status == 201
    back = await world.ask("POST", f"/batches/{done.json()['id']}/undo")
    assert (back.status, back.json()["left_over"]) == (200, [])
    assert {one["stage"] for one in (await world.ask("GET", "/deals")).json()["items"]} == {"lead"}
    assert len((await world.ask("GET", "/batches")).json()["items"]) == 2


async def test_files_come_back_as_they_were_and_only_as_attachments(world: Api) -> None:
    case = await world.make("queries", {"subject": "With a picture"}, by="customer")
    at = f"/queries/{case['id']}/attachments"
    page = b"<script>alert(1)</script>"
    octets = {"Content-Type": "application/octet-stream"}
    made = await world.ask("POST", at, raw=page, headers=octets, name='../../a"b\u202egnp.html')
    assert made.status == 201
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="p.svg"\r\nContent-Type: image/svg+xml\r\n\r\n'
        b"<svg/>\r\n--x--\r\n"
    )
    as_form = {"Content-Type": "multipart/form-data; boundary=x"}
    second = await world.ask("POST", at, raw=form, headers=as_form, by="customer")
    assert (second.status, second.json()["name"], second.json()["media_type"]) == (201, "p.svg", "image/svg+xml")
    got = await world.ask("GET", f"/attachments/{made.json()['id']}", by="customer")
    assert got.body == page
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-disposition"].startswith("attachment; filename=")
    assert ".." not in got.headers["content-disposition"]
    assert got.headers["etag"] == f'"{hashlib.sha256(page).hexdigest()}"'
    same = await world.ask("GET", f"/attachments/{made.json()['id']}", headers={"If-None-Match": got.headers["etag"]})
    assert (same.status, same.body) == (304, b"")
    assert (await world.ask("GET", f"/attachments/{made.json()['id']}", by="other")).status == 404
    assert (await world.ask("GET", at, by="other")).status == 404
    assert (await world.ask("DELETE", f"/attachments/{made.json()['id']}", by="customer")).status == 404
    assert (await world.ask("DELETE", f"/attachments/{made.json()['id']}")).status == 204
    assert len((await world.ask("GET", at)).json()["items"]) == 1
    assert (await world.ask("POST", f"/attachments/{made.json()['id']}/restore")).status == 204
    for raw, headers, status in (
        (b"", octets, 422),
        (b"x", {"Content-Type": "text/plain"}, 415),
        (b"--x--\r\n", as_form, 422),
        (b"nonsense", as_form, 400),
        (b"x", {"Content-Type": "multipart/form-data"}, 400),
        (bytes(10 * 2**20 + 1), octets, 413),
        (form.replace(b'"file"', b'"fiel"'), as_form, 422),
    ):
        assert (await world.ask("POST", at, raw=raw, headers=headers)).status == status, (raw[:20], headers)
    assert len((await world.ask("GET", at)).json()["items"]) == 2


async def test_views_are_kept_for_oneself_or_for_all(world: Api) -> None:
    view = {"kind": "deals", "name": "Won", "asked": "stage=won&sort=-value_cents", "columns": ["name"]}
    own = await world.ask("POST", "/views", view)
    assert (own.status, own.json()["mine"]) == (200, True)
    assert (await world.ask("POST", "/views", {**view, "asked": "stage=wno"})).status == 422
    assert (await world.ask("GET", "/views", kind="deals", by="administrator")).json()["items"] == []
    everybody = await world.ask("POST", "/views", {**view, "shared": True})
    seen = (await world.ask("GET", "/views", kind="deals", by="administrator")).json()["items"]
    assert [one["id"] for one in seen] == [everybody.json()["id"]]
    assert (await world.ask("GET", "/views")).status == 422
    assert (await world.ask("DELETE", f"/views/{own.json()['id']}")).status == 204
    assert (await world.ask("GET", "/views", kind="deals", by="customer")).status == 404


async def test_the_search_finds_what_one_may_see(world: Api) -> None:
    await world.make("queries", {"subject": "Zebra crossing"}, by="customer")
    await world.make("queries", {"subject": "Zebra stripes"}, by="other")
    found = (await world.ask("GET", "/search", q="zebr")).json()["items"]
    assert {one["title"] for one in found} == {"Zebra crossing", "Zebra stripes"}
    assert [one["title"] for one in (await world.ask("GET", "/search", q="zebra", by="customer")).json()["items"]] == [
        "Zebra crossing"
    ]
    for odd in ("'", "%", "a & | ! ( ) :*", "\u200b", "\U0001f600"):
        assert (await world.ask("GET", "/search", q=odd)).status == 200, odd
    assert (await world.ask("GET", "/search")).status == 422


async def test_changes_are_told_once_each_and_a_waiting_reader_hears_at_once(world: Api) -> None:
    start = (await world.ask("GET", "/changes", after="now")).json()["next"]
    assert (await world.ask("GET", "/changes", after=start)).json() == {"items": [], "next": start}
    waiting = asyncio.ensure_future(world.ask("GET", "/changes", after=start, wait=20))
    await asyncio.sleep(0.3)
    began = asyncio.get_running_loop().time()
    made = await world.make("tags", {"name": "heard"})
    heard = (await waiting).json()
    assert asyncio.get_running_loop().time() - began < 3
    assert [(one["kind"], one["record_id"], one["op"]) for one in heard["items"]] == [("tags", made["id"], "create")]
    await world.ask("PATCH", f"/tags/{made['id']}", {"colour": "red"}, match='"1"')
    more = (await world.ask("GET", "/changes", after=heard["next"])).json()["items"]
    assert [(one["version"], one["changes"]["colour"]) for one in more] == [(2, ["", "red"])]
    seen: list[tuple[str, int]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await world.ask("GET", "/changes", limit=7, **cursor)).json()
        seen += [(one["record_id"], one["version"]) for one in page["items"]]
        cursor = {"after": page["next"]}
        if not page["items"]:
            break
    assert len(seen) == len(set(seen)) == (await world.pg.sql("SELECT count(*) FROM crm.log"))[0][0]
    assert (await world.ask("GET", "/changes", after="nonsense")).status == 400
    assert (await world.ask("GET", "/changes", by="customer")).status == 404


async def test_one_is_told_who_one_is_and_what_one_may(world: Api) -> None:
    told = (await world.ask("GET", "/me", by="customer")).json()
    assert told["role"] == "customer"
    assert told["may"]["create"] == ["queries", "requests", "interactions"]
    assert "change" not in told["may"]
    assert "erase" not in (await world.ask("GET", "/me")).json()["may"]
    assert "erase" in (await world.ask("GET", "/me", by="administrator")).json()["may"]


async def test_webhooks_are_the_administrators_and_their_secret_is_told_once(world: Api) -> None:
    hook = {"url": "https://example.com/hook", "kinds": ["queries"], "description": "Ours"}
    assert (await world.ask("POST", "/webhooks", hook)).status == 403
    assert (await world.ask("GET", "/webhooks", by="customer")).status == 404
    made = await world.ask("POST", "/webhooks", hook, by="administrator")
    assert (made.status, made.json()["secret"][:6]) == (201, "whsec_")
    at = f"/webhooks/{made.json()['id']}"
    read = await world.ask("GET", at, by="administrator")
    assert "secret" not in read.json()
    assert "secret" not in (await world.ask("GET", "/webhooks", by="administrator")).json()["items"][0]
    changed = await world.ask("PATCH", at, {"active": False}, match='"1"', by="administrator")
    assert (changed.json()["active"], changed.json()["url"]) == (False, hook["url"])
    assert (await world.ask("PATCH", at, {"active": True}, match='"1"', by="administrator")).status == 412
    again = await world.ask("POST", f"{at}/secret", by="administrator")
    assert again.json()["secret"] != made.json()["secret"]
    for url in (
        "http://example.com/", "ftp://example.com/", "https:///x", "https://a:b@c/", "https://x:99999/", "https://x\n",
        "https://-x/", "//example.com", "",
    ):  # fmt: skip
        refused = await world.ask("POST", "/webhooks", {"url": url}, by="administrator")
        assert (refused.status, set(refused.json().get("fields", ()))) == (422, {"url"}), (url, refused.body)
    assert (await world.ask("GET", f"{at}/deliveries", by="administrator")).json() == {
        "items": [],
        "next": None,
        "prev": None,
    }
    assert (await world.ask("POST", f"{at}/deliveries/{made.json()['id']}/resend", by="administrator")).status == 404
    assert (await world.ask("DELETE", at, match=again.headers["etag"], by="administrator")).status == 204


async def test_a_person_is_erased_by_administrators_alone(world: Api) -> None:
    person = await world.make("contacts", {"full_name": "Zoe Zander", "email": "zoe@example.com"})
    case = await world.make("queries", {"subject": "About Zoe", "contact_id": person["id"]})
    at = f"/contacts/{person['id']}"
    assert (await world.ask("POST", f"{at}/erasure", {})).status == 403
    assert (await world.ask("POST", f"{at}/erasure", {}, by="customer")).status == 404
    gone = await world.ask("POST", f"{at}/erasure", {"reason": "letter"}, by="administrator")
    assert gone.status == 200, gone.body
    left = b"".join(
        [
            (await world.ask("GET", path)).body
            for path in (at, f"{at}/timeline", f"/queries/{case['id']}", f"/queries/{case['id']}/timeline", "/contacts")
        ]
    )
    assert b"Zoe" not in left
    assert b"zoe@" not in left
    assert person["id"] in world.ledger.read_text()


async def test_what_was_answered_and_asked_about_an_erased_person_is_kept_no_more(world: Api) -> None:
    """Answers wait for their Idempotency-Key to come again, and the audit says what was exported: by whom, and whom."""

    async def kept(path: str, content: Any = None, **more: Any) -> Any:
        answer = await world.ask("POST", path, content, key=uuid4().hex, **more)
        assert answer.status in (200, 201), answer.body
        return answer.json()

    octets = {"Content-Type": "application/octet-stream"}
    person = await kept("/contacts", {"full_name": "Quentin Quist", "email": "quentin@example.com"})
    case = await kept("/queries", {"subject": "Quentin", "contact_id": person["id"]})
    task = await kept("/tasks", {"subject": "Call Quentin", "record_kind": "queries", "record_id": case["id"]})
    await kept(f"/tasks/{task['id']}/attachments?name=Quentin.txt", raw=b"Quentin's", headers=octets)
    await kept("/queries/batches", {"what": "set", "items": [{"id": case["id"]}], "changes": {"body": "Quentin's"}})
    await kept("/views", {"kind": "contacts", "name": "Mine", "asked": "email=quentin%40example.com"})
    await kept("/imports/contacts?dry_run=true", raw=b"full_name,email,Quentin\n", headers={"Content-Type": "text/csv"})
    other = await kept("/tasks", {"subject": "Call somebody else"})
    await world.ask("GET", "/exports/contacts.csv?email=quentin@example.com")
    await world.ask("GET", "/exports/contacts.csv?email=another@example.com")
    exported = (
        "SELECT detail ->> 'query' FROM edge.audit WHERE what = 'exported' AND detail::text ~ '@example' ORDER BY 1"
    )
    async with asyncio.timeout(10):
        while len(await world.pg.sql(exported)) < 2:
            await asyncio.sleep(0.1)
    erased = await world.ask("POST", f"/contacts/{person['id']}/erasure", {}, by="administrator", key=uuid4().hex)
    assert erased.status == 200, erased.body
    left = "SELECT encode(body, 'escape') FROM edge.replies WHERE encode(body, 'escape') ~* 'quentin'"
    assert await world.pg.sql(left) == []
    assert await world.pg.sql(left.replace("quentin", "somebody else")) != [], other
    assert await world.pg.sql(exported) == [("email=another@example.com",)]


async def test_a_file_is_tried_taken_in_or_refused_whole(world: Api) -> None:
    csv = {"Content-Type": "text/csv"}
    good = "name;city\r\nÄpfel AG;Köln\r\n=cmd();Bonn\r\n".encode()
    before = (await world.pg.sql("SELECT count(*) FROM crm.accounts"))[0][0]
    tried = await world.ask("POST", "/imports/accounts", raw=b"\xef\xbb\xbf" + good, headers=csv, dry_run="true")
    assert (tried.status, tried.json()["status"], tried.json()["created"]) == (201, "checked", 2), tried.body
    bad = await world.ask("POST", "/imports/accounts", raw=good + b";Rom\r\n", headers=csv)
    assert (bad.status, list(bad.json()["fields"])) == (422, ["row 4, name"])
    assert (await world.pg.sql("SELECT count(*) FROM crm.accounts"))[0][0] == before
    begun = await world.ask("POST", f"/imports/{tried.json()['id']}/run")
    assert begun.status == 202
    for _ in range(100):
        told = (await world.ask("GET", f"/imports/{tried.json()['id']}")).json()
        if told["status"] == "done":
            break
        await asyncio.sleep(0.1)
    assert (told["status"], told["done"], told["created"]) == ("done", 2, 2)
    assert (await world.ask("GET", "/accounts", name="=cmd()")).json()["items"][0]["city"] == "Bonn"
    assert (await world.ask("POST", f"/imports/{tried.json()['id']}/check")).status == 409
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\nname\r\nUtf\xff\r\n\r\n--x--\r\n'
    )
    odd = await world.ask(
        "POST", "/imports/accounts", raw=form, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert odd.status == 422, odd.body
    assert (await world.ask("POST", "/imports/accounts", raw=good, headers=csv, by="customer")).status == 404
    assert (await world.ask("POST", "/imports/users", raw=good, headers=csv)).status == 405


async def test_a_list_goes_out_as_a_file_as_it_was_asked_for(world: Api) -> None:
    for name in ("=1+1", 'Quoted "Ltd", Bonn', "Zürich AG"):
        await world.make("accounts", {"name": name, "city": "Exportstadt"})
    file = await world.ask(
        "GET", "/exports/accounts.csv", city="Exportstadt", sort="name", columns="name,city", bom="true"
    )
    assert file.status == 200, file.body
    assert file.headers["content-type"] == "text/csv; charset=utf-8"
    assert file.headers["content-disposition"] == 'attachment; filename="accounts.csv"'
    lines = file.body.decode("utf-8-sig").splitlines()
    assert lines[0] == "name,city"
    assert sorted(lines[1:]) == sorted(
        ["'=1+1,Exportstadt", '"Quoted ""Ltd"", Bonn",Exportstadt', "Zürich AG,Exportstadt"]
    )
    for odd in (
        {"columns": "nmae"},
        {"columns": "name,name"},
        {"columns": ""},
        {"limit": "5"},
        {"nmae": "x"},
        {"bom": "1"},
    ):
        assert (await world.ask("GET", "/exports/accounts.csv", **odd)).status == 422, odd
    assert (await world.ask("GET", "/exports/accounts.csv", by="customer")).status == 404


async def test_while_the_database_takes_no_changes_reads_go_on_and_writes_are_told_to_come_back(world: Api) -> None:
    tag = await world.make("tags", {"name": "before"})
    await world.pg.set(default_transaction_read_only="on")
    try:
        assert (await world.ask("GET", f"/tags/{tag['id']}")).status == 200
        for method, path, content in (
            ("POST", "/tags", {"name": "during"}),
            ("PATCH", f"/tags/{tag['id']}", {"name": "during"}),
            ("DELETE", f"/tags/{tag['id']}", None),
            ("POST", "/tags/bulk", {"items": [{"do": "create", "record": {"name": "during"}}]}),
        ):
            refused = await world.ask(method, path, content, match='"1"', key="the-same-later")
            assert refused.status == 503, refused.body
            assert int(refused.headers["retry-after"]) > 0
    finally:
        await world.pg.set(default_transaction_read_only="off")
    assert (await world.ask("POST", "/tags", {"name": "during"}, key="the-same-later")).status == 201
    assert (await world.ask("GET", f"/tags/{tag['id']}")).json()["name"] == "before"
