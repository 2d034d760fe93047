"""An employee's day with cases: the queue, a record's page, answers, changes that meet, the past, the board."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.browser.world import Person, Served
from threefold.connectivity import invitations
from threefold.crm.desk import Row
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Office:
    """Emil at his desk, and what there is in the CRM."""

    emil: Person
    customer_token: str
    rows: dict[str, Row]

    def path(self, name: str, kind: str) -> str:
        return f"/records/{kind}/{self.rows[name]['id']}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(crm: Served, browser: Browser) -> AsyncIterator[Office]:
    rows: dict[str, Row] = {}

    async def make(called: str, of: str, **values: Any) -> None:
        async with database.write(SYSTEM) as tx:
            rows[called] = await records.create(tx, KINDS[of], values)

    async with crm.database() as database:
        await make("mill", "accounts", name="Old Mill Ltd", city="Bath")
        mill = rows["mill"]["id"]
        await make("carla", "contacts", full_name="Carla Customer", email="carla@example.com", account_id=mill)
        carla = rows["carla"]["id"]
        await make("red light", "queries", subject="The router shows a red light", contact_id=carla, priority=1)
        await make("invoice", "queries", subject="Which invoice address?", contact_id=carla)
        await make("repair", "requests", subject="Repair the scanner", kind="repair", contact_id=carla, priority=2)
        for called, stage in (("Branch", "lead"), ("Renewal", "proposal")):
            await make(called, "deals", name=f"{called} of the mill", account_id=mill, stage=stage, value_cents=120_000)
        async with database.write(SYSTEM) as tx:
            token = (await invitations.invite_contact(tx, carla)).token
    async with crm.person(browser, await crm.invite_employee()) as emil:
        await emil.join()
        yield Office(emil, token, rows)
        assert emil.complaints() == []


async def row_of(crm: Served, kind: str, id_: UUID) -> Row:
    async with crm.database() as database, database.read() as connection:
        return await records.get(connection, SYSTEM, KINDS[kind], id_, deleted=True)


async def test_answers_a_case_and_the_customer_sees_it_while_looking(
    crm: Served, browser: Browser, office: Office
) -> None:
    page, case = office.emil.page, office.rows["red light"]["id"]
    await page.goto("/queue")
    await expect(page.get_by_role("link", name="The router shows a red light")).to_be_visible()
    await office.emil.accessible()
    await office.emil.picture("employee-queue")

    # Only keys from here to the answer: down to the first case, which is the most urgent, and into it.
    await page.keyboard.press("j")
    await page.keyboard.press("t")
    await expect(page.get_by_text("“The router shows a red light” is yours.")).to_be_visible()
    assert (await row_of(crm, "queries", case))["status"] == "open"
    await page.locator(f"#case-{case}").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/records/queries/{case}")
    await expect(page.get_by_role("heading", name="The router shows a red light")).to_be_visible()

    async with crm.person(browser, office.customer_token) as carla:
        await carla.join()
        await carla.page.goto(f"/cases/queries/{case}")
        await expect(carla.page.get_by_role("heading", name="The router shows a red light")).to_be_visible()

        answer = page.get_by_label("Answer", exact=True)
        await answer.fill("An internal word about Carla")
        await page.get_by_role("radio", name="Internal note").check()
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("Kept as an internal note.")).to_be_visible()
        await answer.fill("Hold the button for ten seconds, please.")
        await page.get_by_label("Then").select_option("waiting")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("Sent to the customer.")).to_be_visible()

        await expect(carla.page.get_by_text("Hold the button for ten seconds, please.")).to_be_visible()
        await expect(carla.page.get_by_text("An internal word about Carla")).to_have_count(0)

        # And back: what Carla writes arrives where Emil is looking, with the clocks running again.
        await expect(page.locator("#record-top")).to_contain_text("paused")
        await carla.page.get_by_label("Your answer").fill("That helped, thank you.")
        await carla.page.get_by_role("button", name="Send").click()
        await expect(page.locator("#record-words").get_by_text("That helped, thank you.")).to_be_visible()
        await expect(page.locator("#record-top")).not_to_contain_text("paused")
    await office.emil.accessible()
    await office.emil.picture("employee-case")


async def test_two_who_change_one_record_are_shown_both_values(crm: Served, office: Office) -> None:
    page, account = office.emil.page, office.rows["mill"]["id"]
    await page.goto(office.path("mill", "accounts"))
    before = (await row_of(crm, "accounts", account))["updated_at"]
    await page.get_by_role("button", name="Edit").click()
    await expect(page.get_by_role("heading", name="Change details")).to_be_focused()
    await page.get_by_label("City").fill("Bristol")
    await page.get_by_label("Industry").fill("Milling")

    async with crm.database() as database, database.write(SYSTEM) as tx:
        await records.update(tx, KINDS["accounts"], account, {"city": "Wells", "website": "https://mill.example"}, None)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("heading", name="Somebody changed it meanwhile")).to_be_focused()
    conflict = page.get_by_role("group", name="City: you both changed it")
    await expect(conflict).to_contain_text("Wells")
    await expect(conflict).to_contain_text("Bristol")
    await expect(page.get_by_text("They also changed Website")).to_be_visible()
    await office.emil.accessible()
    await office.emil.picture("employee-conflict")
    assert (await row_of(crm, "accounts", account))["city"] == "Wells", "nothing is written before one decides"

    await conflict.get_by_role("radio", name="You typed Bristol").check()
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Saved.")).to_be_visible()
    now = await row_of(crm, "accounts", account)
    assert (now["city"], now["industry"], now["website"]) == ("Bristol", "Milling", "https://mill.example")

    # The past: as it was before both, marked as such, and nothing to press there.
    moment = (before + timedelta(milliseconds=1)).isoformat().replace("+00:00", "Z")
    await page.goto(f"{office.path('mill', 'accounts')}?at={moment}")
    await expect(page.get_by_text("You look at the past")).to_be_visible()
    await expect(page.locator(".then-now").filter(has_text="Bath")).to_contain_text("now: Bristol")
    await expect(page.get_by_role("button", name="Edit")).to_have_count(0)
    await office.emil.accessible()
    await office.emil.picture("employee-past")


async def test_a_card_is_moved_by_keys_and_by_its_menu(crm: Served, office: Office) -> None:
    page, deal = office.emil.page, office.rows["Branch"]["id"]
    await page.goto("/board")
    await office.emil.accessible()
    await office.emil.picture("employee-board")
    card = page.locator(f"#card-{deal}")
    await card.focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator('[data-column="qualified"]')).to_contain_text("Branch of the mill")
    await expect(card).to_be_focused()
    assert (await row_of(crm, "deals", deal))["stage"] == "qualified"
    await page.get_by_role("button", name="Move “Branch of the mill”").click()
    await page.locator(f"#move-{deal}").get_by_role("button", name="Won").click()
    await expect(page.locator('[data-column="won"]')).to_contain_text("Branch of the mill")

    # Not every way is open to a case: what cannot follow is not offered.
    await page.goto("/board?kind=requests")
    await drag(page, page.locator('[data-column="new"] [data-move]').first, '[data-column="assigned"]')
    await expect(page.locator('[data-column="assigned"]')).to_contain_text("Repair the scanner")


async def drag(page: Page, card: Any, to: str) -> None:
    await card.drag_to(page.locator(to))


async def test_tags_tasks_files_and_what_became_of_it(office: Office, tmp_path: Any) -> None:
    page = office.emil.page
    await page.goto(office.path("carla", "contacts"))
    await page.get_by_label("Tag", exact=True).fill("key account")
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(page.locator("#record-tags").get_by_text("key account")).to_be_visible()
    plan = tmp_path / "plan <1>.txt"
    plan.write_text("what we agreed")
    await page.get_by_label("Add a file").set_input_files(plan)
    link = page.locator("#record-files").get_by_role("link")
    await expect(link).to_be_visible()
    async with page.expect_download() as download:
        await link.click()
    assert (await (await download.value).path()).read_text() == "what we agreed"

    await page.get_by_label("What was said").last.fill("Called: she likes the new scanner.")
    await page.get_by_role("button", name="Keep").click()
    await expect(page.locator("#record-words").get_by_text("she likes the new scanner")).to_be_visible()
    await page.get_by_role("button", name="More to do").click()
    await page.get_by_role("link", name="New task about this").click()
    await page.get_by_label("Subject").fill("Send Carla an offer")
    await page.get_by_role("button", name="Save").click()
    await page.wait_for_url("**/records/contacts/*")
    await expect(page.locator("#record-around").get_by_text("Send Carla an offer")).to_be_visible()
    await office.emil.accessible()
    await office.emil.picture("employee-contact")
