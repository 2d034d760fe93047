"""docs/reference/crm-api.md: its programs run, and its tables are about what there is."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

from tests.api_world import api

from threefold.crm.api import document
from threefold.crm.exchange import webhook_rules
from threefold.crm.model.kinds import KINDS

PAGE = (Path(__file__).parents[2] / "docs/reference/crm-api.md").read_text()
CLIENT, USE, WEBHOOK = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


async def test_the_client_in_the_reference_works(capsys: Any) -> None:
    async with api() as world:
        whom = {"full_name": "Import", "email": "import@example.org", "role": "employee"}
        invitation = world._invited(**whom)
        names: dict[str, Any] = {"origin": world.origin, "invitation": invitation}
        await asyncio.to_thread(exec, CLIENT + USE, names)
    assert names["changed"]["city"] == "Bonn"
    assert capsys.readouterr().out == "Acme Bonn\n"


def test_the_receiver_in_the_reference_tells_genuine_from_false() -> None:
    names: dict[str, Any] = {}
    exec(WEBHOOK, names)
    now, body = int(time.time()), b'{"kind":"queries"}'
    genuine = names["genuine"]
    assert genuine("whsec_x", webhook_rules.sign("whsec_x", now, body), body)
    assert not genuine("whsec_y", webhook_rules.sign("whsec_x", now, body), body)
    assert not genuine("whsec_x", webhook_rules.sign("whsec_x", now, body), body + b" ")
    assert not genuine("whsec_x", webhook_rules.sign("whsec_x", now - 400, body), body)


def test_the_reference_names_every_kind_and_every_sort_of_operation() -> None:
    for name in KINDS:
        assert f"`{name}`" in PAGE, name
    for path in document()["paths"]:
        first = path.removeprefix("/api/v1/").partition("/")[0]
        assert first in KINDS or f"/{first}" in PAGE, path
