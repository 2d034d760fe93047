"""An administrator's day: letting people in and out, service levels, webhooks, and who saw what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.world import Person, Served, served
from threefold.crm.erasing import erasure
from threefold.crm.erasing.erasure_ledger import ErasureLedger
from threefold.crm.model.actor import SYSTEM
from threefold.crm.pages.admin.webhook_pages import VERIFY

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crm(browser: Browser) -> AsyncIterator[Served]:
    """One whose settings let webhooks go to this machine."""
    del browser
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THREEFOLD_CRM__WEBHOOKS_TO_PRIVATE", "true")
        async with served() as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(crm: Served, browser: Browser) -> AsyncIterator[Person]:
    async with crm.person(browser, await crm.invite_administrator()) as person:
        await person.join()
        yield person


@dataclass
class Receiver:
    """What a webhook's other end does. ``status``: its answer."""

    url: str
    status: int = 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    found = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


async def test_an_empty_crm_says_what_to_do(ada: Person) -> None:
    page = ada.page
    await page.goto("/admin")
    await expect(page.get_by_role("heading", name="Administration")).to_be_visible()
    await expect(page.get_by_role("navigation", name="Main").get_by_role("link", name="Overview")).to_have_attribute(
        "aria-current", "page"
    )
    await ada.accessible()
    for path, words in (
        ("/admin/teams", "No teams yet"),
        ("/admin/customers", "No customer was invited yet"),
        ("/admin/webhooks", "Nobody is told yet"),
        ("/admin/audit/erasures", "Nobody was erased"),
    ):
        await page.goto(path)
        await expect(page.get_by_role("heading", name=words)).to_be_visible()
        if path == "/admin/customers":  # the others are looked at with something in them, below
            await ada.accessible()
    await page.goto("/records/products")
    await expect(page.get_by_role("heading", name="No products yet")).to_be_visible()


async def test_invites_an_employee_and_puts_the_device_out_at_once(crm: Served, browser: Browser, ada: Person) -> None:
    page = ada.page
    await crm.create("teams", name="Field service", description="Whoever drives out")
    await page.goto("/admin/people")
    await page.get_by_role("button", name="Invite somebody").click()
    dialog = page.get_by_role("dialog", name="Invite somebody")
    await dialog.get_by_label("Name").fill("Emil Employee")
    await dialog.get_by_label("Mail address").fill("ada@example.com")
    await dialog.get_by_label("Team").select_option(label="Field service")
    await dialog.get_by_role("button", name="Make the link").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("Somebody has this mail address")
    await dialog.get_by_label("Mail address").fill("emil@example.com")
    await dialog.get_by_role("button", name="Make the link").click()
    await expect(dialog.get_by_text("Emil Employee is invited.")).to_be_visible()
    link = await dialog.get_by_label("The link").input_value()
    await ada.accessible()
    await ada.picture("admin-invited")
    await page.keyboard.press("Escape")
    await expect(page.locator("[data-invited-link]")).to_have_value("")  # shown once
    await expect(page.locator("[data-invitations]")).to_contain_text("emil@example.com")

    async with crm.person(browser, link.partition("#")[2]) as emil:
        await emil.join()
        await emil.page.goto("/admin/people")
        await expect(emil.page.get_by_role("heading", name="This is not for you")).to_be_visible()
        await emil.page.goto("/queue")
        await asyncio.sleep(0.5)  # the live stream is open

        await page.reload()
        await expect(page.locator("[data-invitations]")).to_contain_text("Nobody is invited at the moment")
        row = page.get_by_role("row").filter(has_text="Emil Employee")
        await expect(row.locator("[data-devices-of]")).to_have_text("1")
        await ada.accessible()
        await ada.picture("admin-people")
        await page.get_by_role("link", name="Emil Employee").click()
        await expect(page.locator("[data-person-devices]")).to_contain_text("Browser on")
        await ada.accessible()
        await ada.picture("admin-person")
        await page.get_by_label("Team").select_option(label="None")
        await page.get_by_role("button", name="Save").click()
        await expect(page.locator("#toasts")).to_contain_text("Saved.")
        assert await crm.cluster.sql("SELECT team_id FROM crm.users WHERE email = 'emil@example.com'") == [(None,)]
        await page.locator("[data-person-devices]").get_by_role("button", name="Revoke").click()
        await page.get_by_role("dialog", name="Revoke?").get_by_role("button", name="Revoke").click()
        await expect(page.locator("[data-person-devices] .badge")).to_have_text("Revoked")
        await emil.page.wait_for_url("**/signin?*", timeout=5_000)
    assert ada.complaints() == []


async def test_nobody_takes_their_own_rights(ada: Person) -> None:
    page = ada.page
    await page.goto("/admin/people")
    await page.get_by_role("link", name="Ada Admin (you)").click()
    await page.get_by_label("Role").select_option(label="Employee")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("You cannot take your own rights")).to_be_visible()
    await expect(page.get_by_label("Role")).to_have_value("employee")


async def test_a_customer_is_invited_from_the_contacts_page(crm: Served, ada: Person) -> None:
    page = ada.page
    contact = await crm.create("contacts", full_name="Carla Customer", email="carla@example.com")
    await page.goto(f"/records/contacts/{contact['id']}")
    await page.get_by_role("button", name="More to do").click()
    await page.get_by_role("button", name="Invite to the customer's pages").click()
    dialog = page.get_by_role("dialog", name="Invite Carla Customer")
    await dialog.get_by_role("button", name="Make the link").click()
    await expect(dialog.get_by_text("Carla Customer is invited.")).to_be_visible()
    assert "/join#" in await dialog.get_by_label("The link").input_value()
    await page.goto("/admin/customers?q=carl")
    await page.get_by_role("link", name="Carla Customer").click()
    await expect(page.get_by_text("No device yet")).to_be_visible()
    await page.goto("/admin/people")
    invited = page.locator("[data-invitations] li").filter(has_text="carla@example.com")
    await invited.get_by_role("button", name="Withdraw").click()
    await expect(page.locator("[data-invitations]")).to_contain_text("Nobody is invited at the moment")
    assert await crm.cluster.sql("SELECT count(*) FROM edge.invitations WHERE withdrawn_at IS NOT NULL") == [(1,)]


async def test_changes_a_service_level_where_it_stands(crm: Served, ada: Person) -> None:
    page = ada.page
    await page.goto("/admin/policies")
    await page.get_by_role("button", name="Change: Queries, urgent").click()
    form = page.get_by_role("form", name="Queries, urgent")
    await expect(form.get_by_label("First answer in")).to_be_focused()
    await form.get_by_label("First answer in").fill("soon")
    await form.get_by_role("button", name="Save").click()
    await expect(form.get_by_text("This is no length of time")).to_be_visible()
    await ada.accessible()
    await ada.picture("admin-level")
    await form.get_by_label("First answer in").fill("30 min")
    await form.get_by_label("Resolved in").fill("1 d 4h")
    await form.get_by_label("Escalates to").select_option(label="Field service")
    await form.get_by_label("The clock runs in office hours only").check()
    await page.keyboard.press("Enter")
    row = page.locator("#policy-queries-1")
    await expect(row).to_contain_text("1 d 4 h")
    await expect(row).to_contain_text("in office hours")
    await expect(row.get_by_role("button")).to_be_focused()
    rows = "SELECT first_response_minutes, resolution_minutes FROM crm.policies WHERE deleted_at IS NULL"
    assert await crm.cluster.sql(rows) == [(30, 1680)]

    await page.get_by_label("Time zone").fill("Europe/Nowhere")
    await page.get_by_role("button", name="Save the office hours").click()
    await expect(page.get_by_text("Is not a time zone")).to_be_visible()
    await page.get_by_label("Time zone").fill("Europe/Berlin")
    await page.get_by_role("button", name="Save the office hours").click()
    await expect(page.locator("#toasts")).to_contain_text("The office hours are saved.")
    assert await crm.cluster.sql("SELECT zone FROM crm.office") == [("Europe/Berlin",)]
    await ada.picture("admin-policies")

    await row.get_by_role("button").click()
    await form.get_by_role("button", name="Back to the default").click()
    await expect(row).to_contain_text("Default")
    assert await crm.cluster.sql(rows) == []


async def test_a_webhook_is_told_and_its_dead_letters_are_sent_again(
    crm: Served, ada: Person, receiver: Receiver
) -> None:
    page = ada.page
    await page.goto("/admin/webhooks")
    await page.get_by_label("Address").fill("nowhere")
    await page.get_by_role("button", name="Make it").click()
    await expect(page.get_by_text("Has to begin with https://")).to_be_visible()
    await ada.picture("admin-webhook-new")
    await page.get_by_label("Address").fill(receiver.url)
    await page.get_by_label("What it is for").fill("The shop")
    await page.get_by_label("Products").check()
    await page.get_by_role("button", name="Make it").click()
    await expect(page.get_by_role("heading", name="It is made. Keep its secret now")).to_be_focused()
    secret = await page.locator("#webhook-secret").inner_text()
    await ada.accessible()

    receiver.status = 410  # it will never want it
    await crm.create("products", sku="ROU-1", name="Router K41", category="Router", price_cents=129_900)
    await page.get_by_role("link", name="See its deliveries").click()
    await expect(page.get_by_text("1 change did not arrive")).to_be_visible(timeout=10_000)
    await expect(page.get_by_role("row").filter(has_text="Router K41")).to_contain_text("410")
    await ada.accessible()
    await ada.picture("admin-webhook")

    receiver.status = 204
    await page.get_by_role("button", name="Send all dead letters again").click()
    await expect(page.get_by_role("row").filter(has_text="Router K41")).to_contain_text("Delivered", timeout=10_000)
    headers, body = receiver.got[-1]
    space: dict[str, object] = {}
    exec(VERIFY, space)  # what the page tells receivers to do
    genuine = space["genuine"]
    assert callable(genuine)
    assert genuine(secret, headers["webhook-signature"], body)
    assert not genuine("whsec_other", headers["webhook-signature"], body)
    assert receiver.got[0][0]["webhook-id"] == headers["webhook-id"], "the same one, again"

    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("button", name="Resume")).to_be_visible()
    await page.goto("/admin/webhooks")
    await page.get_by_text("How a receiver tells that it is us").click()
    await ada.accessible()
    await ada.picture("admin-webhooks")
    await page.get_by_role("link", name=receiver.url).click()
    await page.get_by_role("button", name="Remove").click()
    await page.get_by_role("button", name="Remove it").click()
    await expect(page.get_by_role("heading", name="Nobody is told yet")).to_be_visible()
    assert ada.complaints() == []


async def test_the_audit_says_who_saw_and_changed_what(crm: Served, ada: Person) -> None:
    page = ada.page
    account = await crm.create("accounts", name="Acme Lifts")
    await page.goto(f"/records/accounts/{account['id']}")
    await expect(page.get_by_role("heading", name="Acme Lifts")).to_be_visible()
    await page.get_by_role("button", name="Edit").click()
    await page.get_by_label("City").fill("Bremen")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#toasts")).to_contain_text("Saved.")
    await asyncio.sleep(1.5)  # what was seen is written by the many, once a second
    await page.get_by_role("button", name="More to do").click()
    await page.get_by_role("link", name="Who saw this").click()
    first = page.locator("[data-entries] tr").first
    await expect(first).to_contain_text("Saw a record")
    await expect(first).to_contain_text("Ada Admin")
    await expect(first.get_by_role("link", name="Acme Lifts")).to_have_attribute(
        "href", f"/records/accounts/{account['id']}"
    )
    await page.get_by_label("Record").fill("Acme")
    await page.get_by_role("button", name="Show").click()
    await expect(page.get_by_text("That is no record")).to_be_visible()
    await page.get_by_label("Record").fill("")
    await page.get_by_label("What").select_option(label="Revoked a device")
    await expect(page.locator("[data-entries] tr")).to_have_count(1)
    await expect(page.locator("[data-entries]")).to_contain_text("Ada Admin")
    assert "what=device-revoked" in page.url
    await page.get_by_label("What").select_option(label="Everything")
    await expect(page.locator("[data-entries]")).to_contain_text("Invited somebody")
    await ada.accessible()
    await ada.picture("admin-audit")
    await page.get_by_role("link", name="Changed", exact=True).click()
    await page.get_by_label("Records").select_option(label="Accounts")
    await page.get_by_role("button", name="Show").click()
    changed = page.get_by_role("row").filter(has_text="Ada Admin")
    await expect(changed).to_contain_text("City")
    await expect(changed.get_by_role("link", name="Acme Lifts")).to_be_visible()
    await ada.accessible()
    await ada.picture("admin-changes")


async def test_erased_persons_stand_in_the_ledger(crm: Served, ada: Person) -> None:
    contact = await crm.create("contacts", full_name="Gone Person", email="gone@example.com")
    ledger = ErasureLedger(crm.cluster.folder / "erasures.jsonl")
    async with crm.database() as database, database.write(SYSTEM) as tx:
        await erasure.erase(tx, contact["id"], "demand of 3 May", ledger)
    page = ada.page
    await page.goto("/admin/audit/erasures")
    await expect(page.get_by_role("link", name="Demand of 3 May")).to_be_visible()
    assert await page.get_by_text("Gone Person").count() == 0
    await ada.accessible()
    await ada.picture("admin-erasures")
    await page.goto("/admin/teams")
    await expect(page.get_by_role("link", name="Field service")).to_be_visible()
    await ada.accessible()
    await ada.picture("admin-teams")
    await page.goto("/admin")
    await expect(page.get_by_text("Only added to")).to_be_visible()
    await ada.picture("admin-overview")
    assert ada.complaints() == []


async def test_customers_find_nothing_there(crm: Served, browser: Browser) -> None:
    token = await crm.invite_customer("Otto Other", "otto@example.com")
    async with crm.person(browser, token) as otto:
        await otto.join()
        for path in ("/admin", "/admin/people", "/admin/audit", "/admin/audit/changes", "/admin/webhooks"):
            answer = await otto.page.goto(path)
            assert answer is not None
            assert answer.status == 404, path
