"""An employee's work with many records: lists, views, bulk changes, the bin, imports, duplicates, the search."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.world import Person, Served
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def emil(crm: Served, browser: Browser) -> AsyncIterator[Person]:
    async with crm.database() as database, database.write(SYSTEM) as tx:
        for name in ("Harbour", "Quarry", "Foundry"):
            account = await records.create(tx, KINDS["accounts"], {"name": f"{name} Works", "city": "Hull"})
            deal = {"name": f"{name} deal", "account_id": account["id"], "value_cents": 50_000}
            await records.create(tx, KINDS["deals"], deal)
    for name, phone in (("Zoë Quinn", ""), ("Zoe Quinn", "+44 1482 555 0101")):
        await crm.create("contacts", full_name=name, email="zoe@example.com", phone=phone)
    async with crm.person(browser, await crm.invite_employee()) as person:
        await person.join()
        yield person
        assert person.complaints() == []


async def values(crm: Served, query: str) -> list[object]:
    return [row[0] for row in await crm.cluster.sql(query)]


async def test_many_deals_are_changed_at_once_and_back_again(crm: Served, emil: Person) -> None:
    page = emil.page
    stages = "SELECT stage FROM crm.deals WHERE deleted_at IS NULL ORDER BY name"
    await page.goto("/records/deals")
    for name in ("Harbour", "Quarry"):
        await page.get_by_role("row", name=f"{name} deal").get_by_role("checkbox").check()
    await expect(page.get_by_text("2 selected")).to_be_visible()
    await page.get_by_label("What to do", exact=True).select_option("set:stage")
    await page.locator("#bulk-stage").select_option("proposal")
    await emil.accessible()
    await emil.picture("employee-bulk")
    await page.get_by_role("button", name="Apply").click()
    await expect(page.get_by_text("2 deals changed.")).to_be_visible()
    assert await values(crm, stages) == ["lead", "proposal", "proposal"]
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_text("Undone.")).to_be_visible()
    await expect(page.locator("tbody").get_by_text("Proposal")).to_have_count(0)
    assert await values(crm, stages) == ["lead", "lead", "lead"]


async def test_a_list_is_filtered_kept_as_a_view_and_taken_along(emil: Person) -> None:
    page = emil.page
    await page.goto("/records/accounts")
    await page.get_by_text("Filter", exact=True).click()
    await page.get_by_label("Field", exact=True).select_option("name")
    await page.get_by_label("Comparison").select_option("starts")
    await page.get_by_label("Value").fill("Qua")
    await page.get_by_role("button", name="Show", exact=True).click()
    await expect(page.get_by_role("link", name="Name begins with Qua")).to_be_visible()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.get_by_role("button", name="More to do with this list").click()
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Download as CSV").click()
    text = Path(await (await download.value).path()).read_text()
    assert "Quarry Works" in text
    assert "Harbour Works" not in text
    await page.get_by_role("button", name="More to do with this list").click()
    await page.get_by_role("button", name="Save this view").click()
    await page.get_by_label("Name", exact=True).fill("Quarries")
    await page.get_by_role("dialog").get_by_role("button", name="Save").click()
    await page.wait_for_url("**view=**")
    await expect(page.get_by_role("heading", name="Quarries")).to_be_visible()
    await emil.accessible()
    await emil.picture("employee-list")
    await page.goto("/records/accounts")
    await page.get_by_role("link", name="Quarries").click()
    await expect(page.locator("tbody tr")).to_have_count(1)


async def test_what_is_deleted_comes_back_with_all_that_went_with_it(crm: Served, emil: Person) -> None:
    page = emil.page
    gone = "SELECT name FROM crm.deals WHERE deleted_at IS NOT NULL"
    await page.goto("/records/accounts")
    await page.get_by_role("link", name="Foundry Works").click()
    await page.get_by_role("button", name="More to do").click()
    await page.get_by_role("button", name="To the recycle bin").click()
    await page.wait_for_url("**/records/accounts")
    await expect(page.get_by_text("The account is in the recycle bin.")).to_be_visible()
    assert await values(crm, gone) == ["Foundry deal"]
    await page.goto("/bin?kind=accounts")
    await emil.accessible()
    await emil.picture("employee-bin")
    await page.get_by_role("button", name="Restore “Foundry Works”").click()
    await expect(page.get_by_text("The account is back, with all that went with it.")).to_be_visible()
    await expect(page.get_by_text("No deleted accounts")).to_be_visible()
    assert await values(crm, gone) == []


async def test_a_file_is_mapped_tried_mended_and_taken_in(crm: Served, emil: Person, tmp_path: Path) -> None:
    page = emil.page
    people = "SELECT full_name FROM crm.contacts WHERE email LIKE '%@import.example' ORDER BY 1"
    wrong, right = tmp_path / "people.csv", tmp_path / "mended.csv"
    wrong.write_bytes("\ufeffWho;Mail;Job\nÅsa Berg;asa@import.example;Buyer\nBo;no address;Owner\n".encode())
    right.write_text("Who;Mail;Job\nÅsa Berg;asa@import.example;Buyer\nBo;bo@import.example;Owner\n")

    async def bring(file: Path) -> None:
        await page.goto("/import?kind=contacts")
        await page.get_by_label("The file", exact=True).set_input_files(file)
        await page.get_by_role("button", name="Look at it").click()
        await expect(page.get_by_role("heading", name="What the columns mean")).to_be_visible()
        await page.get_by_label("Column “Who” is").select_option("full_name")
        await page.get_by_label("Column “Mail” is").select_option("email")
        await page.get_by_label("Column “Job” is").select_option("role")
        await page.get_by_role("button", name="Check it").click()

    await bring(wrong)
    await expect(page.get_by_role("heading", name="1 row of 2 cannot be taken in")).to_be_focused()
    fault = page.get_by_role("region", name="Faults").get_by_role("row").nth(1)
    await expect(fault).to_contain_text("3")
    await expect(fault).to_contain_text("Mail")
    await emil.accessible()
    await emil.picture("employee-import")
    assert await values(crm, people) == [], "nothing of it is written"
    await bring(right)
    await expect(page.get_by_role("heading", name="It can be taken in")).to_be_focused()
    await page.get_by_role("button", name="Take in 2 rows").click()
    await expect(page.get_by_role("heading", name="Done: all of it is in")).to_be_visible()
    assert await values(crm, people) == ["Bo", "Åsa Berg"]


async def test_two_that_are_one_are_merged_and_parted_again(crm: Served, emil: Person) -> None:
    page = emil.page
    there = (
        "SELECT full_name || phone FROM crm.contacts WHERE email = 'zoe@example.com' AND deleted_at IS NULL ORDER BY id"
    )
    before = await values(crm, there)
    await page.goto("/duplicates?kind=contacts")
    await emil.accessible()
    await page.get_by_role("link", name="Compare “Zoe Quinn” with the first").click()
    await expect(page.get_by_role("heading", name="Are these two one?")).to_be_visible()
    phone = page.get_by_role("group", name="Phone")
    await expect(phone.get_by_role("radio").nth(1)).to_be_checked()  # the first has none
    await emil.accessible()
    await emil.picture("employee-merge")
    await page.get_by_role("button", name="Merge them").click()
    await expect(page.get_by_text("The two contacts are one now.")).to_be_visible()
    assert await values(crm, there) == ["Zoë Quinn+44 1482 555 0101"]
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_text("They are two again, as they were.")).to_be_visible()
    assert await values(crm, there) == before


async def test_a_deal_is_made_by_keys_with_its_account_looked_for(crm: Served, emil: Person) -> None:
    page = emil.page
    await page.goto("/queue")
    await page.keyboard.press("/")
    await page.keyboard.type("harb")
    await expect(page.locator("#search-found").get_by_text("Harbour Works")).to_be_visible()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Results for “harb”")).to_be_visible()
    await emil.accessible()
    await emil.picture("employee-search")
    await page.goto("/records/deals/new")
    await emil.accessible()
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#f-name-error")).to_have_text("It has to be given")
    await page.get_by_label("Name").fill("New pier")
    await page.get_by_label("Value").fill("1.299,50")
    await page.get_by_role("combobox", name="Account").focus()
    await page.keyboard.type("harb")
    await expect(page.get_by_role("option", name="Harbour Works")).to_be_visible()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("heading", name="New pier")).to_be_visible()
    assert await values(crm, "SELECT value_cents FROM crm.deals WHERE name = 'New pier'") == [129_950]


async def test_a_telephone_shows_long_values_whole(crm: Served, emil: Person) -> None:
    await crm.create("contacts", full_name="Maximiliane", email="maximiliane.featherstonehaugh@customers.example.com")
    await emil.page.goto("/records/contacts")
    await expect(emil.page.get_by_role("link", name="Maximiliane", exact=True)).to_be_visible()
    await emil.picture("employee-contacts")
