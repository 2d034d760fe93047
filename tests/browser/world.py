"""A CRM that is served for real, and people in front of real browsers.

    async with served() as crm:
        async with crm.person(browser, await crm.invite_customer()) as ada:
            await ada.join()
            await ada.page.goto(crm.origin + "/report")

`threefold crm serve` runs in a process of its own over a real PostgreSQL, so it can be killed and started again under
the browser's feet: that is how these tests are offline.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page
from psycopg.conninfo import make_conninfo

from tests.pg import PASSWORD, SUPERUSER, Cluster, cluster, free_port
from threefold.connectivity import invitations
from threefold.crm.datalog.live import Live
from threefold.crm.desk import Row
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records
from threefold.crm.sql.database import Database
from threefold.kernel.clock import SystemClock

PICTURES = Path(__file__).parents[2] / "build" / "pictures"
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
_PATIENCE = 40.0


@dataclass
class Served:
    cluster: Cluster
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    async def start(self) -> None:
        """Until it answers."""
        pg = self.cluster.server.port
        dsn = make_conninfo(host="127.0.0.1", port=pg, user=SUPERUSER, dbname="postgres")
        config = self.cluster.folder / "threefold.toml"
        config.write_text(
            f'[crm]\nlisten = "127.0.0.1:{self.port}"\npublic_url = "{self.origin}"\ndsn = "{dsn}"\n'
            'password = "env:CRM_PASSWORD"\nsite = "north"\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "threefold", "crm", "serve", "--config", config, "--quiet"],
            env={**os.environ, "CRM_PASSWORD": PASSWORD},
            stdout=subprocess.DEVNULL,
            stderr=(self.cluster.folder / "serve.log").open("ab"),
        )
        deadline = time.monotonic() + _PATIENCE
        while not await asyncio.to_thread(self._ready):
            assert self.process.poll() is None, (self.cluster.folder / "serve.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the server does not come up"
            await asyncio.sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.origin}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """Beside the server, as another server over the same database would be: its pages hear of what is done here."""
        async with Database(self.cluster.dsn(), SystemClock(), size=2) as database:
            live = Live(database, SystemClock())
            await live.open()
            yield database
            await asyncio.sleep(0.5)  # what was done is told
            await live.close()

    async def create(self, kind: str, **values: Any) -> Row:
        async with self.database() as database, database.write(SYSTEM) as tx:
            return await records.create(tx, KINDS[kind], values)

    async def invite_customer(self, name: str = "Carla Customer", email: str = "carla@example.com") -> str:
        contact = await self.create("contacts", full_name=name, email=email)
        async with self.database() as database, database.write(SYSTEM) as tx:
            return (await invitations.invite_contact(tx, contact["id"])).token

    async def invite_administrator(self, name: str = "Ada Admin", email: str = "ada@example.com") -> str:
        async with self.database() as database:
            return await invitations.first_administrator(database, name=name, email=email, again=True)

    async def invite_employee(self, name: str = "Emil Employee", email: str = "emil@example.com") -> str:
        values = {"full_name": name, "email": email, "role": "employee"}
        async with self.database() as database, database.write(SYSTEM) as tx:
            return (await invitations.invite_new(tx, values)).token

    @asynccontextmanager
    async def person(self, browser: Browser, token: str = "", **options: Any) -> AsyncIterator[Person]:
        """A browser of its own, with an authenticator that says yes."""
        settings: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **options}
        context = await browser.new_context(base_url=self.origin, **settings)
        context.set_default_timeout(15_000)
        page = await context.new_page()
        person = Person(self, context, page, token)
        page.on("console", lambda message: person.heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: person.heard.append(f"pageerror: {error}"))
        try:
            wire = await context.new_cdp_session(page)
            await wire.send("WebAuthn.enable")
            await wire.send("WebAuthn.addVirtualAuthenticator", {"options": _AUTHENTICATOR})
            yield person
        finally:
            await context.close()


_CUT = "cells => cells.filter(cell => cell.scrollWidth > cell.clientWidth + 1).map(cell => cell.textContent.trim())"
_AUTHENTICATOR = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


@dataclass
class Person:
    crm: Served
    context: BrowserContext
    page: Page
    token: str
    heard: list[str] = field(default_factory=list)  # what the console said

    async def join(self) -> None:
        """With a passkey; ends on the start page."""
        await self.page.goto(f"/join#{self.token}")
        await self.page.get_by_role("button", name="Continue with a passkey").click()
        await self.page.wait_for_url(lambda url: "/join" not in url)
        await self.page.wait_for_selector(".frame")

    async def picture(self, name: str) -> None:
        """At both widths, in both themes; looked at by whoever changes the pages."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        before = self.page.viewport_size
        for width, height in ((1280, 800), (360, 740)):
            await self.page.set_viewport_size({"width": width, "height": height})
            tall = await self.page.evaluate("document.documentElement.scrollHeight")
            await self.page.set_viewport_size({"width": width, "height": max(height, min(tall, 4000))})
            for theme in ("light", "dark"):
                await self.page.emulate_media(color_scheme=theme)
                await self.page.screenshot(path=PICTURES / f"{name}-{width}-{theme}.png")
            wide = await self.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} wide at {width} px"
            cut = await self.page.eval_on_selector_all(".table.stacks td", _CUT) if width == 360 else []
            assert cut == [], f"{name} cuts at {width} px: {cut}"
        await self.page.emulate_media(color_scheme="light")
        if before is not None:
            await self.page.set_viewport_size(before)

    async def accessible(self) -> None:
        """axe finds nothing serious, in either theme."""
        for theme in ("light", "dark"):
            await self.page.emulate_media(color_scheme=theme)
            await self.page.evaluate(AXE.read_text())
            found = await self.page.evaluate(
                "axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations"
                ".filter(({impact}) => impact === 'serious' || impact === 'critical')"
                ".map(({id, nodes}) => `${id}: ` + nodes.map(({target}) => target.join(' ')).join(', ')))"
            )
            assert found == [], f"{self.page.url} ({theme}): {found}"
        await self.page.emulate_media(color_scheme="light")

    def complaints(self) -> list[str]:
        """What a developer would see: our content security policy's refusals above all, and values that are none."""
        bad = ("Content Security Policy", "does not conform to the required format")
        return [text for text in self.heard if text.startswith("pageerror") or any(words in text for words in bad)]


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    async with cluster(18) as primary:
        crm = Served(primary, free_port())
        try:
            await crm.start()
            yield crm
        finally:
            crm.kill()
