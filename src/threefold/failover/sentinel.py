"""`threefold sentinel`: look at everything, write down what is seen, decide nothing.

It may run anywhere, in any number: beside a primary, beside the CRM, at a third place. What it adds to an agent's own
eyes is another place to look from; a cut line and a dead site can be told apart only so. It keeps no state, and harms
nobody when it is killed: its report stops changing, and readers take it for silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from threefold.failover.reports import Condition, PrimarySeen, Report, Seen, Waits
from threefold.failover.watch import Watch
from threefold.kernel.report import Report as Tell

_LOOK_S: Final = 0.5


async def keep_watch(watch: Watch, tell: Tell, stop: asyncio.Event) -> None:
    """Until ``stop``: publish, and tell the log of every change."""
    told: dict[str, str] = {}
    async with watch:
        vantage = watch.vantage
        tell("watching", sentinel=vantage.name, site=vantage.site)
        while not stop.is_set():
            for what, words, well in changes(watch.report(), told):
                tell(f"{what}: {words}", level="info" if well else "warning")
            try:
                async with asyncio.timeout(_LOOK_S):
                    await stop.wait()
            except TimeoutError:
                continue


def changes(report: Report, told: dict[str, str]) -> Iterator[tuple[str, str, bool]]:
    """What is seen otherwise than ``told``, which is brought up to date: (of what, in words, whether that is well)."""
    seen = {f"PostgreSQL at {site}": _of_primary(primary) for site, primary in report.sites.items()}
    seen |= {f"store {name}": _of_store(word) for name, word in report.stores.items()}
    seen["the DRaaS server"] = _of_draas(report.draas.seen, report.draas.state)
    for what, (words, well) in seen.items():
        if words and words != told.get(what):
            told[what] = words
            yield what, words, well


def _of_primary(seen: PrimarySeen) -> tuple[str, bool]:
    if seen.sql is Seen.OK and seen.write is Seen.SILENT:
        waits = {Waits.STORES: "the stores", Waits.DISK: "its disk"}.get(seen.waits, "something")
        return f"answers, and a commit waits for {waits}", False
    if seen.sql is Seen.OK:
        return ("answers as a standby" if seen.condition is Condition.STANDBY else "answers"), True
    if seen.sql is Seen.REFUSED:
        words = {
            Condition.STARTING: "is starting or recovering",
            Condition.FULL: "has no connection left",
            Condition.SHUT_TO_US: "does not let us in",
            Condition.FOREIGN: "is another database system",
        }
        return words.get(seen.condition, "refuses us"), False
    if seen.process is Seen.REFUSED:
        return "is not there: its host refuses connections", False
    if seen.host is Seen.OK:
        return ("stands still: its host answers", False) if seen.sql is Seen.SILENT else ("", False)
    if seen.host in {Seen.SILENT, Seen.FAILED}:
        return "is not seen: its host does not answer", False
    return "", False


def _of_store(seen: Seen) -> tuple[str, bool]:
    return {Seen.OK: "answers", Seen.SILENT: "does not answer", Seen.FAILED: "answers with errors"}.get(seen, ""), (
        seen is Seen.OK
    )


def _of_draas(seen: Seen, state: str) -> tuple[str, bool]:
    words = {Seen.OK: f"is {state}", Seen.SILENT: "is silent", Seen.REFUSED: "was stopped"}
    return words.get(seen, ""), seen is Seen.OK and state == "streaming"
