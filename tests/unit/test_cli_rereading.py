"""Settings that change under a process: taken where they can be used and differ, and else not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from threefold.cli.rereading import Rereading
from threefold.kernel.errors import BadInput
from threefold.settings import Settings, load

STORE = """
[[store]]
name = "{name}"
url = "s3://b/{name}"
access_key_id = "env:K"
secret_access_key = "env:S"
"""
FILE = """
[system]
name = "crm"
dsn = "host={host} user=t dbname=postgres"
[keys]
master = "file:master.key"
"""


def text(host: str) -> str:
    return FILE.format(host=host) + "".join(STORE.format(name=name) for name in ("S1", "S2", "S3"))


class Quick:
    """A second is a thousandth of one."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1000)


class World:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "threefold.toml"
        self.path.write_text(text("one"))
        self.first = load(self.path)
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.resting = True
        self.rereading = Rereading(self.path, self.usable, Quick(), self.report)  # type: ignore[arg-type]

    def usable(self, found: Settings) -> None:
        if "host=unusable" in found.system.dsn:
            raise BadInput("that cannot be used", hint="use another one")

    def report(self, event: str, *, level: str = "info", **facts: Any) -> None:
        self.said.append((level, {"event": event, **facts}))

    async def changed(self, within: float = 1.0) -> Settings:
        return await asyncio.wait_for(self.rereading.changed(self.first, lambda: self.resting), within)


async def test_other_settings_are_taken_once_it_is_at_rest(tmp_path: Path) -> None:
    here = World(tmp_path)
    with pytest.raises(TimeoutError):
        await here.changed(0.05)
    here.path.write_text(text("two"))
    here.resting = False
    with pytest.raises(TimeoutError):
        await here.changed(0.05)
    here.resting = True
    assert "host=two" in (await here.changed()).system.dsn


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("[system", "not valid TOML"),
        (text("two").replace("dsn", "dns"), "system.dsn is missing"),
        (text("unusable"), "cannot be used"),
    ],
)
async def test_a_file_that_cannot_be_used_is_said_once_and_the_next_one_is_read(
    tmp_path: Path, broken: str, reason: str
) -> None:
    here = World(tmp_path)
    here.path.write_text(broken)
    with pytest.raises(TimeoutError):
        await here.changed(0.1)
    ((level, facts),) = here.said
    assert level == "error"
    assert reason in facts["reason"]
    here.path.unlink()
    with pytest.raises(TimeoutError):  # gone for a moment is not changed
        await here.changed(0.05)
    here.path.write_text(text("two"))
    assert "host=two" in (await here.changed()).system.dsn
    assert len(here.said) == 2


async def test_a_comment_changes_nothing(tmp_path: Path) -> None:
    here = World(tmp_path)
    here.path.write_text(f"# as before\n{text('one')}")
    with pytest.raises(TimeoutError):
        await here.changed(0.1)
    assert here.said == []
