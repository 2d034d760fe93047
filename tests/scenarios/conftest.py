"""Prints what the scenarios took, and plays one again that ran out of time; never one whose promise was broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from tests.promise import Broken
from tests.scenarios.figures import lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines():
        terminalreporter.section("what the scenarios took")
        for line in lines():
            terminalreporter.write_line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Whole sites share a machine here: a limit of time that was missed gets a second try, and it is said."""
    if not item.path.is_relative_to(Path(__file__).parent):
        return None  # with several workers pytest asks every conftest of every test
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    failed = [report for report in reports if report.failed]
    if failed and not any(Broken.__name__ in report.longreprtext for report in failed):
        print(f"\n{item.nodeid} is played again:\n{failed[0].longreprtext[-4000:]}")
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
