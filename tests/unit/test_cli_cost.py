"""What `threefold cost` says where something is not known, and while a store is replaced."""

from __future__ import annotations

import io
from argparse import Namespace
from importlib.resources import files
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console
from rich.table import Table
from tests.churning import DAY, churning

from threefold.bootstrap import Parts
from threefold.cli.cost import Report, _stored, counting, facts, report_of
from threefold.cli.cost_words import human
from threefold.cost.measured import Flow, Growth, Measured
from threefold.cost.objectives import Objectives
from threefold.cost.prices import parse_prices
from threefold.settings import load

PRICES = parse_prices((files("threefold.cost") / "prices.toml").read_text(), "shipped")
SETTINGS = """
[system]
name = "crm"
dsn = "host=db.example user=threefold dbname=postgres"
durability = "async"
max_lag = "5s"
[keys]
master = "file:keys/master.key"
"""
STORE = """
[[store]]
name = "{name}"
url = "s3://bucket-{name}/threefold"
provider = "{name}"
"""
PUTS = Flow(put=1e6)


def reported(home: Path, wanted: Objectives, read_bytes_s: float = 0.0, **flows: Flow) -> Report:
    """Of S1 at AWS, S2 and S3 on own disks; puts a year by store."""
    path = home / "threefold.toml"
    path.write_text(SETTINGS + "".join(STORE.format(name=name) for name in ("S1", "S2", "S3")))
    measured = Measured(
        1e6,
        {name: {"log entries": flow} for name, flow in flows.items()},
        Growth(base=1e9),
        entries=365.25 * 86400 * 4,
        read_bytes_s=read_bytes_s,
    )
    at = {name: PRICES.providers[key] for name, key in (("S1", "aws-s3"), ("S2", "own"), ("S3", "own"))}
    return report_of(load(path), measured, at, PRICES, wanted, [])


def shown(report: Report) -> str:
    """Green is written as on a terminal."""
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    for part in human(report):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("wanted", [Objectives(), Objectives(rpo_s=0.0)])
def test_a_way_back_that_takes_nobody_knows_how_long_is_not_called_cheap(tmp_path: Path, wanted: Objectives) -> None:
    report = reported(tmp_path, wanted, S1=PUTS, S2=PUTS, S3=PUTS)
    said = facts(report)
    assert said["cheapest"]["standby"] == "warm"
    assert said["ways"]["sync, cold"]["rto_seconds"] is None
    assert said["ways"]["sync, warm"]["rto_seconds"] > 0
    assert said["ways"]["sync, cold"]["total"] < said["ways"]["sync, warm"]["total"]  # and yet
    assert all(each["rto_known"] is (each["standby"] == "warm") for each in said["considered"])
    green = [line for line in shown(report).splitlines() if "\x1b[32m" in line]
    assert [line.split("\x1b[32m")[1].split()[:2] for line in green] == [["sync,", "warm\x1b[0m"]]
    assert "no hour without the CRM is counted" in shown(report)
    known = reported(tmp_path, wanted, 1e8, S1=PUTS, S2=PUTS, S3=PUTS)
    assert facts(known)["cheapest"]["standby"] == "cold"
    assert "no hour without the CRM is counted" not in shown(known)


def test_requests_are_billed_where_they_were_asked(tmp_path: Path) -> None:
    """S1, at AWS, was counted last, and the only one that bills requests: 5 for a million puts."""
    report = reported(tmp_path, Objectives(), S2=PUTS.times(9), S3=PUTS.times(9), S1=PUTS)
    assert facts(report)["year"]["requests"] == pytest.approx(5.0)
    purposes = next(
        part for part in human(report) if isinstance(part, Table) and "What the requests" in str(part.title)
    )
    assert list(purposes.columns[-1].cells) == ["5.00"]


def test_three_stores_are_priced_while_one_is_replaced() -> None:
    assert counting(("S1", "S2", "S3"), ("S1", "S2", "S3")) == ("S1", "S2", "S3")
    assert counting(("S1", "S2", "S3"), ("S1", "S2", "S3", "S4")) == ("S1", "S2", "S3")  # S4 is filled
    assert counting(("S1", "S2", "S4"), ("S1", "S2", "S3", "S4")) == ("S1", "S2", "S4")  # and counts
    assert counting(("S1", "S2"), ("S1", "S2", "S4")) == ("S1", "S2", "S4")  # S3 is gone, its section as well


def test_what_async_loses_is_at_least_so_much(tmp_path: Path) -> None:
    report = reported(tmp_path, Objectives(), S1=PUTS, S2=PUTS, S3=PUTS)
    assert facts(report)["lost_changes_at_least"] == pytest.approx(20)  # four entries a second, five seconds
    assert "may be lost, at least 20.00 changes" in shown(report)


async def test_a_snapshot_whose_manifest_was_written_anew_counts_once() -> None:
    here = await churning(12)
    await here.take()
    for day in range(5):
        here.clock.at += DAY
        await here.take({day, day + 5})
    parts = cast("Parts", Namespace(stores=here.stores(), clock=here.clock))
    before = (await _stored(parts, [])).snapshots
    report = await here.prune()
    assert report is not None
    assert report.repack.revised
    assert (await _stored(parts, [])).snapshots == before
