"""Each scenario of the table, played: the verdict, the action and the ledger are as written down there.

Each has a company of its own, a copy of the first one's disks. Where the table says nothing of a switch, none may have
been ordered.
"""

from __future__ import annotations

import asyncio
import time
import pytest

from tests.scenarios.company import Company, company, has_verb
from tests.scenarios.netns import why_not
from tests.scenarios.table import FAIL_OVER, GO_ON, WITHOUT_SWITCH, Scenario

_MISSING = why_not()
pytestmark = [
    pytest.mark.scenarios,
    pytest.mark.skipif(bool(_MISSING), reason=_MISSING),
]


async def play(here: Company, scenario: Scenario) -> None:
    switches = len(here.watching.switches())
    began = time.monotonic()
    for act in scenario.acts:
        await act(here)
    struck = time.monotonic()
    if scenario.outcome == FAIL_OVER:
        await here.acks(20, within=scenario.within, site="recovery", since=struck)
    elif scenario.outcome == GO_ON:
        await here.acks(20, within=scenario.within, since=struck)
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
    _verdicts(here, scenario, began)
    ordered = here.watching.switches()[switches:]
    assert [each["to"] for each in ordered] == (["recovery"] if scenario.outcome == FAIL_OVER else []), here.said()


def _verdicts(here: Company, scenario: Scenario, since: float) -> None:
    if not has_verb("standby"):
        return
    seen = here.watching.verdicts(since=since)
    if scenario.verdicts:
        assert set(scenario.verdicts) & set(seen), f"{scenario.verdicts} expected, {list(seen)} seen\n{here.said()}"
    assert not set(scenario.never) & set(seen), f"{list(seen)} seen\n{here.said()}"


@pytest.mark.parametrize("scenario", WITHOUT_SWITCH, ids=str)
async def test_nobody_switches(scenario: Scenario) -> None:
    async with company() as here:
        await play(here, scenario)
        await here.judge("primary")
