"""What a dry run says: the steps, and whether the command itself would be refused as things are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from threefold.failover.ordering import Asked, check_site, picture
from threefold.failover.steps import Active
from threefold.kernel.errors import Refused

NOW = datetime(2026, 11, 30, tzinfo=UTC)
HOME = Active("office", switch_number=0, step="", under_way=False)
AWAY = Asked("cloud", HOME, planned=False, target=None, source=None, leader=None, here=False)


def test_a_dry_run_says_that_the_command_would_be_refused_and_what_helps() -> None:
    refused = picture(AWAY, NOW, forced=False)["refused"]
    assert "nobody keeps a copy at cloud" in refused["error"]
    assert "threefold standby --site cloud" in refused["hint"]
    assert picture(replace(AWAY, here=True), NOW, forced=False)["refused"] is None


def test_there_is_no_picture_of_a_switch_to_the_active_site() -> None:
    with pytest.raises(Refused, match="office is the active site already"):
        check_site(replace(AWAY, to="office", planned=True))
    check_site(AWAY)
    check_site(replace(AWAY, to="office", active=replace(HOME, under_way=True)))
