"""What `threefold check` says of the day of the disaster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from threefold.failover.preflight import Prepared, judge
from threefold.protect.preflight import Level

READY = Prepared(
    policy="automatic",
    standby="warm",
    recovery="eu",
    primary_host="10.0.0.1",
    recovery_host="10.1.0.1",
    data_dir_set=True,
    process_gone_s=2.0,
    site_gone_s=8.0,
    agent_lives=True,
    copy="",
    sentinels=("office",),
    strict=True,
    without_quorum="block",
)


def test_a_prepared_site_is_said_to_be_fine() -> None:
    assert [(each.name, each.level) for each in judge(READY)] == [
        ("recovery site", Level.FINE),
        ("witnesses", Level.FINE),
    ]


@pytest.mark.parametrize(
    ("changed", "name", "word"),
    [
        ({"data_dir_set": False}, "recovery site", "data_dir"),
        ({"agent_lives": False}, "recovery site", "threefold standby --site eu"),
        ({"standby": "cold"}, "recovery site", "warm"),
        ({"recovery_host": "127.0.0.1"}, "recovery address", "listen"),
        ({"recovery_host": "localhost"}, "recovery address", "listen"),
        ({"sentinels": ()}, "witnesses", "threefold sentinel"),
        ({"process_gone_s": 0.5}, "process_gone", "2s"),
        ({"site_gone_s": 3.0}, "site_gone", "8s"),
        ({"strict": False}, "strict", "strict = true"),
        ({"without_quorum": "spool"}, "without_quorum", "block"),
    ],
)
def test_what_is_unwise_is_named_with_its_remedy(changed: dict[str, Any], name: str, word: str) -> None:
    (found,) = [each for each in judge(replace(READY, **changed)) if each.level is Level.WARNING]
    assert found.name == name
    assert word in found.remedy


def test_a_copy_that_is_not_ready_says_why() -> None:
    found = judge(replace(READY, copy="its WAL is 3 GB behind"))[0]
    assert found.level is Level.WARNING
    assert "3 GB behind" in found.detail


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "/run/postgresql"])
def test_one_machine_is_for_trying_out(host: str) -> None:
    tried = replace(READY, primary_host=host, recovery_host="127.0.0.1", sentinels=(), policy="confirm", standby="cold")
    assert [each.level for each in judge(replace(tried, agent_lives=False))] == [Level.FINE]
