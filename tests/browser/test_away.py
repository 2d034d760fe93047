"""The database is gone: a customer asks all the same, and sees it filed when the other site has taken over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.world import Person, Served
from tests.ride_world import Riding, riding
from threefold.connectivity import invitations
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records
from threefold.crm.sql.database import Database
from threefold.kernel.clock import SystemClock

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(browser: Browser) -> AsyncIterator[Riding]:
    del browser
    async with riding() as crm:
        yield crm


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def carla(world: Riding, browser: Browser) -> AsyncIterator[Person]:
    served = Served(world.two.primary, world.edges[0].port)
    async with Database(world.two.dsn(), SystemClock()) as database, database.write(SYSTEM) as tx:
        values = {"full_name": "Carla Customer", "email": "carla@example.com"}
        contact = await records.create(tx, KINDS["contacts"], values)
        token = (await invitations.invite_contact(tx, contact["id"])).token
    async with served.person(browser, token) as person:
        await person.join()
        yield person


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(world: Riding, browser: Browser) -> AsyncIterator[Person]:
    served = Served(world.two.primary, world.edges[0].port)
    async with Database(world.two.dsn(), SystemClock()) as database:
        token = await invitations.first_administrator(database, name="Grace", email="grace@example.org", again=True)
    async with served.person(browser, token) as person:
        await person.join()
        yield person


async def test_an_administrator_makes_it_read_only_and_takes_that_back(carla: Person, ada: Person) -> None:
    page = ada.page
    await page.goto("/admin/read-only")
    await ada.accessible()
    await ada.picture("admin-read-only-off")
    await page.get_by_label("What people are told").fill("Moving house")
    await page.get_by_label("Until when (UTC)").fill("2031-05-06T22:00")
    await page.get_by_role("button", name="Make it read-only").click()
    await expect(page.get_by_role("heading", name="The CRM is read-only")).to_be_visible()

    await carla.page.goto("/report")
    await expect(carla.page.locator("[data-site-line]")).to_contain_text("Moving house until 2031-05-06 22:00 UTC")
    await carla.page.get_by_label("In a few words").fill("Sent while closed")
    await carla.page.get_by_label("What happens").fill("Nobody takes it now.")
    await carla.page.get_by_role("button", name="Send", exact=True).click()
    await expect(carla.page.locator("[data-form-note]")).to_contain_text("read-only: Moving house")
    await expect(carla.page.locator("[data-form-note]")).to_contain_text("kept on this device")
    await carla.picture("customer-read-only")
    await ada.picture("admin-read-only-on")

    await page.get_by_role("button", name="Take changes again").click()
    await expect(page.get_by_role("heading", name="Changes are taken")).to_be_visible()
    await carla.page.goto("/")
    await expect(carla.page.get_by_role("link", name="Sent while closed")).to_be_visible(timeout=30_000)


async def test_a_customer_asks_while_the_database_is_gone_and_sees_it_filed(
    world: Riding, carla: Person, ada: Person
) -> None:
    page = carla.page
    await page.goto("/report")
    await expect(page.locator("[data-site]").first).to_contain_text("north")
    await ada.page.goto("/queue")
    await world.away()

    # The open page hears of it; what one typed stays.
    await page.get_by_label("In a few words").fill("The roof leaks")
    await expect(page.locator("[data-site-line]")).to_contain_text("kept safe and filed", timeout=15_000)
    await page.get_by_label("What happens").fill("It drips on the desk.")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.locator("[data-form-note]")).to_contain_text("Taken: it will be filed")
    await expect(page.locator("#intake-badge")).to_be_visible()
    await carla.accessible()
    await carla.picture("customer-deferred")

    await page.goto("/")
    await expect(page.locator("[data-intake]")).to_contain_text("The roof leaks")
    await expect(page.locator("[data-intake]")).to_contain_text("Will be filed")
    await expect(page.get_by_role("link", name="Sent while closed")).to_be_visible()
    await expect(page.locator("[data-site]").first).to_contain_text("south")
    await expect(page.locator("[data-site-line]")).to_contain_text("You see what was known")
    await carla.accessible()
    await carla.picture("customer-away")
    await ada.page.goto("/intake")
    await expect(ada.page.get_by_text("The roof leaks")).to_be_visible()
    await ada.accessible()
    await ada.picture("employee-intake-waiting")

    # Nothing at all answers: even then it is no error page, and what is written is kept.
    await world.two.standby.server.stop("immediate")
    await page.goto("/")
    await expect(page.get_by_role("heading", name="Report an issue")).to_be_visible(timeout=30_000)
    await carla.picture("customer-nothing-answers")
    await world.two.standby.server.start()

    await world.back()  # the page finds its way back by itself
    await expect(page.get_by_role("link", name="The roof leaks")).to_be_visible(timeout=30_000)
    await expect(page.locator("[data-intake-card]")).to_be_hidden()
    await expect(page.locator("[data-site-banner]")).to_be_hidden()
    await expect(page.locator("[data-site]").first).to_contain_text("south")
    await carla.picture("customer-filed")
    assert await world.sql("SELECT count(*) FROM crm.queries WHERE subject = 'The roof leaks'") == [(1,)]
    assert carla.complaints() == []
