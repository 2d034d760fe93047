"""`threefold demo --failover`: the site burns while customers ask; nobody is lost, nobody sees an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.test_commands import last_line, place, threefold

__all__ = ["place"]  # a fixture

pytestmark = pytest.mark.long


def test_customers_are_answered_while_the_site_burns(place: Path) -> None:
    done = threefold("demo", "--failover", "--json", "--dir", str(place / "demo"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    outcome = last_line(done)
    assert outcome["exact"]
    assert outcome["verdict"]["promised"] > 60
    there, back = outcome["failover"], outcome["failback"]
    assert list(there["steps"]) == ["ordered", "fenced", "promoting", "serving", "protected"]
    assert list(back["steps"]) == ["ordered", "stopped", "fenced", "promoting", "serving", "protected"]
    assert there["taken"] > 0  # asked while no database was there
    for turn in (there, back):
        assert (turn["unanswered"], turn["blind"]) == (0, 0)
        assert turn["filed"] > 0
