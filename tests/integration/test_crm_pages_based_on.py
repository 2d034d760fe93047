"""A form of the staff's pages that does not say what it is based on changes nothing: it could write over another's."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from tests.crm import crm
from tests.crm_statements import world

from threefold.crm.model.actor import Actor, Role
from threefold.crm.model.errors import Invalid

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.asyncio
async def test_a_change_says_which_version_it_is_based_on() -> None:
    async with crm() as there:
        account = await there.create("accounts", name="A")
        deal = await there.create("deals", name="D", account_id=str(account["id"]))
        ada = await there.create("users", full_name="Ada", email="ada@x.example", role="administrator")
        before = await there.pg.sql("SELECT count(*) FROM crm.log")
        async with world(there.database, Actor(Role.ADMINISTRATOR, user=ada["id"])) as asked:
            for version in ("", "²", "1 ", "-1", "9" * 12):
                for target, sent in (
                    (f"/records/deals/{deal['id']}", {"version": version, "name": "E"}),
                    (f"/records/deals/{deal['id']}/delete", {"version": version}),
                    (f"/board/deals/{deal['id']}/move", {"version": version, "to": "won"}),
                ):
                    with pytest.raises(Invalid, match="based on"):
                        await asked.ask("POST", target, urlencode(sent).encode(), headers=FORM)
                item = urlencode({"item": f"{deal['id']}:{version}", "do": "delete"}).encode()
                with pytest.raises(Invalid, match="based on"):
                    await asked.ask("POST", "/records/deals/bulk", item, headers=FORM)
        assert await there.pg.sql("SELECT count(*) FROM crm.log") == before
