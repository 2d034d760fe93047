"""Prints what the scenarios took."""

from __future__ import annotations

import pytest

from tests.scenarios.figures import lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines():
        terminalreporter.section("what the scenarios took")
        for line in lines():
            terminalreporter.write_line(line)
