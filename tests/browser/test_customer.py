"""A customer's day: joining, asking, being away, coming back, being put out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.world import Person, Served
from threefold.connectivity import devices
from threefold.crm.cases import cases
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.kinds import KINDS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def carla(crm: Served, browser: Browser) -> AsyncIterator[Person]:
    """Joined, on a device that the tests after the first share."""
    await crm.create("products", sku="ROU-1", name="Router K41", category="Router", price_cents=129_900)
    async with crm.person(browser, await crm.invite_customer()) as person:
        yield person


async def test_joins_with_a_passkey_and_finds_a_page_that_says_what_to_do(carla: Person) -> None:
    page = carla.page
    await page.goto(f"/join#{carla.token}")
    await expect(page.get_by_role("heading", name="Welcome, Carla")).to_be_visible()
    assert carla.token not in page.url, "the token does not stay where somebody may read it"
    await carla.accessible()
    await carla.picture("customer-join")
    await page.get_by_role("button", name="Continue with a passkey").click()
    await expect(page.get_by_role("heading", name="Nothing here yet")).to_be_visible(timeout=20_000)
    await carla.accessible()
    await carla.picture("customer-nothing-yet")
    kept = await page.evaluate(
        "threefold.device.key().then(({privateKey}) => crypto.subtle.exportKey('pkcs8', privateKey))"
        ".then(() => 'readable', (error) => error.name)"
    )
    assert kept == "InvalidAccessError", "the key cannot be taken out of the device"


async def test_an_invitation_works_once_and_says_so(crm: Served, browser: Browser, carla: Person) -> None:
    async with crm.person(browser) as thief:
        await thief.page.goto(f"/join#{carla.token}")
        await expect(thief.page.get_by_role("heading", name="This link does not work")).to_be_visible()
        await expect(thief.page.get_by_role("alert")).to_contain_text("used")
        await thief.page.goto("/")
        await expect(thief.page.get_by_role("heading", name="This device is not enrolled")).to_be_visible()
        await thief.accessible()
        await thief.picture("customer-not-enrolled")


async def test_reports_an_issue_and_hears_the_answer_while_looking(crm: Served, carla: Person) -> None:
    page = carla.page
    await page.goto("/")
    await page.get_by_role("link", name="Report an issue").first.click()
    await page.get_by_label("Something needs repair").check()
    await page.get_by_label("Product").select_option(label="Router K41 (ROU-1)")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.get_by_text("Say in a few words what it is about")).to_be_visible()
    await carla.accessible()
    await page.get_by_label("In a few words").fill("It blinks <b>red</b>")
    await page.get_by_label("What happens").fill("Since this morning.\nWe restarted it twice.")
    await carla.picture("customer-report")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.get_by_role("heading", name="It blinks <b>red</b>")).to_be_visible()
    assert carla.complaints() == []

    await page.get_by_label("Your answer").fill("half a sen")
    kind, id_ = page.url.rsplit("/", 2)[1:]
    async with crm.database() as database, database.write(SYSTEM) as tx:
        await cases.answer(tx, KINDS[kind], id_, "We send you another.", channel="mail", internal=False, status="done")
        await cases.answer(tx, KINDS[kind], id_, "He broke it himself.", channel="note", internal=True)
    await expect(page.get_by_text("We send you another.")).to_be_visible(timeout=10_000)
    assert await page.get_by_text("He broke it himself.").count() == 0
    await expect(page.get_by_text("Done", exact=True)).to_be_visible()
    assert await page.locator("#body").input_value() == "half a sen", "what one types stays"
    await page.locator("label[for=stars-4]").click()
    await expect(page.get_by_text("Thank you. You can change it:")).to_be_visible()
    await carla.accessible()
    await carla.picture("customer-case")
    (row,) = await crm.cluster.sql("SELECT satisfaction FROM crm.requests")
    assert row == (4,)


async def test_what_is_written_without_connection_waits_and_arrives_once(crm: Served, carla: Person) -> None:
    page = carla.page
    await page.goto("/report")
    crm.kill()
    await page.get_by_label("In a few words").fill("The door is stuck")
    await page.get_by_label("What happens").fill("It does not open.")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.locator("[data-form-note]")).to_contain_text("is kept on this device")
    await expect(page.locator("#outbox-badge .badge")).to_have_text("1")
    await carla.picture("customer-kept")

    await page.goto("/")  # nothing answers: the page for being away
    await expect(page.get_by_role("heading", name="You are offline")).to_be_visible()
    await expect(page.locator("[data-entry]")).to_contain_text("The door is stuck")
    await page.get_by_label("In a few words").fill("The bell is silent")
    await page.get_by_label("What happens").fill("Nobody hears it.")
    await carla.accessible()
    await carla.picture("customer-offline")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.locator("[data-entry]")).to_have_count(2)

    await crm.start()
    await expect(page.get_by_role("link", name="The bell is silent")).to_be_visible(timeout=45_000)
    await expect(page.get_by_role("link", name="The door is stuck")).to_be_visible()
    await expect(page.locator("[data-entry]")).to_have_count(0)
    await page.evaluate("Promise.all([1, 2, 3].map(() => threefold.outbox.send({force: true})))")
    rows = await crm.cluster.sql("SELECT subject, count(*) FROM crm.queries GROUP BY subject ORDER BY subject")
    assert rows == [("The bell is silent", 1), ("The door is stuck", 1)]
    await carla.picture("customer-issues")


async def test_a_lost_reply_does_not_do_it_twice(crm: Served, carla: Person) -> None:
    """The server did it, and no answer came, however often it was sent: the same key finds what was done."""
    page = carla.page
    await page.goto("/report")
    await page.get_by_label("In a few words").fill("Only once, please")
    await page.get_by_label("What happens").fill("Thank you.")
    # Without Background Sync, where the browser has it: the worker would send as well, and hear its own answer.
    await page.evaluate("Object.defineProperty(ServiceWorkerRegistration.prototype, 'sync', {value: undefined})")
    await page.evaluate(
        "(() => { const sent = fetch; self.losing = true; self.fetch = async (...what) => { const answer = await"
        " sent(...what); if (self.losing && what[0].method === 'POST') throw new TypeError('lost');"
        " return answer; }; })()"
    )
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.locator("#outbox-badge .badge")).to_have_text("1")
    await page.evaluate("threefold.outbox.send({force: true})")  # as a reconnection does, at any moment
    await expect(page.locator("#outbox-badge .badge")).to_have_text("1")
    await page.evaluate("self.losing = false; threefold.outbox.send({force: true})")
    await expect(page.locator("#outbox-badge")).to_be_hidden()
    assert await crm.cluster.sql("SELECT count(*) FROM crm.queries WHERE subject = 'Only once, please'") == [(1,)]


async def test_one_that_is_refused_blocks_nothing_and_is_mended(crm: Served, carla: Person) -> None:
    page = carla.page
    await page.goto("/outbox")
    await expect(page.get_by_role("heading", name="Nothing waits")).to_be_visible()
    bad = {"key": "bad-key-1", "url": "/report", "page": "/report", "what": "Report", "title": "Too little", "at": 1}
    good = {**bad, "key": "good-key-2", "title": "Enough", "at": 2}
    fields = [["about", "question"], ["subject", "Too little"], ["body", ""]]
    await page.evaluate(
        "([bad, good]) => threefold.outbox.add(bad).then(() => threefold.outbox.add(good))",
        [
            {**bad, "fields": fields},
            {**good, "fields": [["about", "question"], ["subject", "Enough"], ["body", "All is said."]]},
        ],
    )
    await page.evaluate("threefold.outbox.send({force: true})")
    await expect(page.locator("[data-entry]")).to_have_count(1)
    await expect(page.locator("[data-entry]")).to_contain_text("Refused")
    await expect(page.locator("[data-entry]")).to_contain_text("describe it")
    await carla.accessible()
    await carla.picture("customer-refused")
    await page.get_by_role("button", name="Mend").click()
    await expect(page.get_by_label("In a few words")).to_have_value("Too little")
    await expect(page.get_by_text("Describe it, so that we can help at once")).to_be_visible()
    await page.get_by_label("What happens").fill("Now it is enough.")
    # Away again, and no room on the device for the mended one: the one that is there stays until it has it.
    full = (
        "() => { self.add = threefold.outbox.add; threefold.outbox.add = () => Promise.reject(new Error('no room')); }"
    )
    await page.evaluate(full)
    await page.context.set_offline(True)
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.get_by_text("could not be kept on this device")).to_be_visible()
    assert await page.evaluate("threefold.outbox.all().then((entries) => entries.map(({key}) => key))") == ["bad-key-1"]
    await page.evaluate("() => { threefold.outbox.add = self.add; }")
    await page.context.set_offline(False)
    await page.get_by_role("button", name="Send", exact=True).click()
    await page.wait_for_url("**/cases/queries/*")
    await expect(page.locator("#outbox-badge")).to_be_hidden()
    rows = await crm.cluster.sql("SELECT subject FROM crm.queries WHERE subject IN ('Enough', 'Too little') ORDER BY 1")
    assert rows == [("Enough",), ("Too little",)]


async def test_products_and_own_devices(carla: Person) -> None:
    page = carla.page
    await page.goto("/products")
    await page.get_by_label("Search products").fill("rout")
    await expect(page.get_by_role("link", name="Router K41")).to_be_visible()
    await expect(page.get_by_text("€ 1,299.00")).to_be_visible()
    await carla.picture("customer-products")
    await page.get_by_label("Search products").fill("nothing of that name")
    await expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    await page.goto("/me")
    await expect(page.locator("[data-devices]")).to_contain_text("This device")
    await carla.accessible()
    await carla.picture("customer-me")
    assert carla.complaints() == []


async def test_another_site_cannot_make_this_device_sign_a_change(crm: Served, carla: Person) -> None:
    """What passes the service worker counts as our own request, so it has to leave alone what others begin."""
    form = (
        f'<form method="post" action="{crm.origin}/report"><input name="about" value="question">'
        '<input name="subject" value="forged"><input name="body" value="forged"></form><button>go</button>'
    )
    page = await carla.context.new_page()
    await page.route("http://elsewhere.test/", lambda route: route.fulfill(body=form, content_type="text/html"))
    await page.goto("http://elsewhere.test/")
    async with page.expect_navigation(url=f"{crm.origin}/report") as navigation:
        await page.evaluate("document.querySelector('form').submit()")
    answer = await navigation.value
    assert answer is not None
    assert answer.status == 403
    assert await crm.cluster.sql("SELECT count(*) FROM crm.queries WHERE subject = 'forged'") == [(0,)]
    await page.close()


async def test_signs_out_and_in_again(carla: Person) -> None:
    page = carla.page
    await page.goto("/")
    await page.get_by_role("button", name="You and this device").click()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await carla.accessible()
    await carla.picture("customer-signin")
    await page.goto("/products")
    await page.get_by_role("button", name="Sign in with a passkey").click()
    await page.wait_for_url("**/products")


@pytest.mark.parametrize(
    "to", ["/\t/elsewhere.example/", "/\n\\elsewhere.example", "//elsewhere.example", "javascript:0"]
)
async def test_signing_in_never_leads_elsewhere(crm: Served, carla: Person, to: str) -> None:
    """Browsers drop tabs and line ends from addresses before they look at them."""
    await carla.page.goto(f"/signin?{urlencode({'to': to})}")
    await carla.page.get_by_role("button", name="Sign in with a passkey").click()
    await carla.page.wait_for_url(lambda url: "/signin" not in url)
    assert carla.page.url == f"{crm.origin}/"


async def test_a_reload_past_the_service_worker_comes_back(carla: Person) -> None:
    page = carla.page
    await page.goto("/products")
    await page.evaluate("navigator.serviceWorker.getRegistration().then((found) => found.unregister())")
    await page.goto("/products")  # the shell: starts the worker again, and loads again
    await expect(page.get_by_role("heading", name="Products")).to_be_visible(timeout=20_000)


async def test_out_at_once_when_the_device_is_revoked(crm: Served, carla: Person) -> None:
    page = carla.page
    await page.goto("/")
    await asyncio.sleep(0.5)  # the live stream is open

    async with crm.database() as database, database.write(SYSTEM) as tx:
        (found,) = await (await tx.connection.execute("SELECT id, user_id FROM edge.devices")).fetchall()
        await devices.revoke(tx, found["user_id"], found["id"])
    await page.wait_for_url("**/signin?*", timeout=10_000)
    await page.goto("/products")
    await page.get_by_role("button", name="Sign in with a passkey").click()
    await expect(page.get_by_role("heading", name="This device is not enrolled")).to_be_visible()
    await expect(page.get_by_text("somebody revoked it")).to_be_visible()
