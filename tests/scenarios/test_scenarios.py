"""Each scenario of the table, played: the verdict, the action and the ledger are as written down there.

Each has a company of its own, a copy of the first one's disks. Where the table says nothing of a switch, none may have
been ordered.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.pg import small_disk
from tests.scenarios import acts, chaos
from tests.scenarios.company import Company, company, jump_library
from tests.scenarios.figures import note_figures
from tests.scenarios.netns import why_not
from tests.scenarios.table import FAIL_OVER, GO_ON, PARTED, WITH_SWITCH, WITHOUT_SWITCH, Scenario

_MISSING = why_not()
pytestmark = [
    pytest.mark.scenarios,
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING),
]


async def play(here: Company, scenario: Scenario) -> None:
    began = last = time.monotonic()
    switches = len(here.watching.switches())
    for act in scenario.acts:
        last = time.monotonic()
        await act(here)
    struck = time.monotonic()
    figures = {}
    if scenario.outcome == FAIL_OVER:
        figures["acked again"] = await here.acks(20, within=scenario.within, site="recovery", since=struck) - last
    elif scenario.outcome == GO_ON:
        figures["acked again"] = await here.acks(20, within=scenario.within, since=struck) - struck
        await asyncio.sleep(max(0.0, struck + scenario.hold - time.monotonic()))
    else:
        await asyncio.sleep(scenario.hold)
        # What was under way at that moment may still have been told.
        told = here.ledger().acks_since(struck + 1.0)
        assert not told, f"{len(told)} changes were acknowledged meanwhile"
    for act in scenario.after:
        await act(here)
    mended = time.monotonic()
    await here.acks(20, within=scenario.mended_within, since=mended)
    figures["longest wait"] = here.ledger().longest_gap(struck)
    ordered = here.watching.switches()[switches:]
    assert [each["to"] for each in ordered] == (["recovery"] if scenario.outcome == FAIL_OVER else []), here.said()
    for switch in ordered:
        figures["ordered"] = here.watching.when_ordered(switch["number"]) - last
        at = {step["kind"]: step["seconds"] for step in switch["steps"]}
        figures |= {kind: seconds for kind, seconds in at.items() if kind != "ordered"}
    verdicts = _verdicts(here, scenario, began)
    note_figures(scenario.name, {kind: at - last for kind, at in verdicts.items() if at > last}, figures)


def _verdicts(here: Company, scenario: Scenario, since: float) -> dict[str, float]:
    seen = here.watching.verdicts(since=since)
    if scenario.verdicts:
        assert set(scenario.verdicts) & set(seen), f"{scenario.verdicts} expected, {list(seen)} seen\n{here.said()}"
    assert not set(scenario.never) & set(seen), f"{list(seen)} seen\n{here.said()}"
    if scenario.outcome != FAIL_OVER:
        assert True not in here.watching.first("beacons/agent-recovery", "give_up", since), here.said()
    return seen


@pytest.mark.parametrize("scenario", [*WITHOUT_SWITCH, *PARTED], ids=str)
async def test_nobody_switches(scenario: Scenario) -> None:
    async with company_for(scenario) as here:
        await play(here, scenario)
        await here.judge("primary")


@pytest.mark.parametrize("scenario", WITH_SWITCH, ids=str)
async def test_the_recovery_site_takes_over(scenario: Scenario) -> None:
    async with company_for(scenario) as here:
        await play(here, scenario)
        await here.protected_again()
        await here.judge("recovery")


@asynccontextmanager
async def company_for(scenario: Scenario) -> AsyncIterator[Company]:
    if "clocks" in scenario.options and jump_library() is None:
        pytest.skip("a clock is jumped by a library that is compiled, and there is no C compiler")
    async with AsyncExitStack() as stack:
        prepare = None
        if "small pg_wal" in scenario.options:
            disk = stack.enter_context(small_disk(400))

            def prepare(home: Path) -> None:
                """pg_wal on a file system of its own, as it is often set up."""
                data, wal = home / "primary" / "data", disk / "wal"
                shutil.move(data / "pg_wal", wal)
                (data / "pg_wal").symlink_to(wal)
                owner = data.stat()
                for path in (wal, *wal.rglob("*")):
                    os.chown(path, owner.st_uid, owner.st_gid)
                (home / "primary" / "wal").symlink_to(disk)

        yield await stack.enter_async_context(company(prepare=prepare, **scenario.sections))


async def test_the_third_site_comes_up_after_the_second_failed_unprotected() -> None:
    """As Salesforce's NA14 in 2016: the site switches over, and its new site fails before there is a new standby.

    Both sites are gone for good then. The third, which never had a copy, is made active by a person, from the stores.
    """
    async with company() as here:
        await acts.host_gone("primary")(here)
        await here.acks(20, within=30, site="recovery")
        await acts.host_gone("recovery")(here)
        here.configure("third", recovery_site="third")
        began = time.monotonic()
        here.start_protect("third", part="protect-third")
        await here.done("third", "failover", "--to", "third", "--here", "--yes", "--until", "serving")
        serving = time.monotonic()
        await here.acks(20, within=40, site="third", since=serving)
        note_figures("NA14", {}, {"third site from nothing": serving - began})
        assert [each["to"] for each in here.watching.switches()] == ["recovery", "third"], here.said()
        await here.judge("third")


async def test_the_old_site_is_rebuilt_and_switched_back() -> None:
    """The primary is killed, and the recovery site takes over. The old folder is made a copy, and serves again.

    Two switches, the second planned: no change is lost by either, and by the second nobody waits long.
    """
    async with company() as here:
        await acts.kill_postgres()(here)
        await here.acks(20, within=20, site="recovery")
        await here.protected_again()
        began = time.monotonic()
        here.start_agent("primary", "--rebuild")
        await here.until(lambda: here.watching.in_place("primary"), "a copy at the old primary's site", 40)
        rebuilt = time.monotonic()
        await here.done("primary", "failback")
        await here.acks(20, within=20, site="primary", since=rebuilt)
        figures = {"rebuilt": rebuilt - began, "pause of the switch back": here.ledger().longest_gap(rebuilt)}
        note_figures("failback", {}, figures)
        assert [each["planned"] for each in here.watching.switches()] == [False, True], here.said()
        await here.judge("primary")


@pytest.mark.parametrize("seed", [1003, 1052])
async def test_a_round_of_chaos(seed: int) -> None:
    """Two of the rounds that `make chaos` plays by the hundred."""
    said: list[str] = []
    try:
        await chaos.play(seed, said.append)
    except BaseException:
        print(f"seed {seed}:", *said, sep="\n")
        raise
