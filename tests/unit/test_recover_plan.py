"""Targets, plans and overrides: pure, so every corner can be named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from threefold.kernel.errors import BadInput, Damaged, NotThere, ThreefoldError
from threefold.kernel.lsn import Lsn
from threefold.recover import overrides
from threefold.recover.plan import choose
from threefold.recover.start import explain
from threefold.recover.targets import Immediate, Latest, Position, RestorePoint, Time, parse_target
from threefold.vault.manifest import Summary

MB16 = 16 * 2**20
SHORT = "FATAL:  recovery ended before configured recovery target was reached\n"
T0 = datetime(2026, 11, 22, 10, tzinfo=UTC)


@dataclass
class Extent:
    end: Lsn = field(default=Lsn(100 * MB16))
    start: Lsn = field(default=Lsn(MB16))
    timeline: int = 1
    system_identifier: int = 7
    history_files: Mapping[int, bytes] = field(default_factory=dict)
    notes: Sequence[str] = ()


def taken(segment: float, *, timeline: int = 1, system: int = 7) -> Summary:
    """A snapshot that starts within that segment and stops half a segment later, an hour after T0 per segment."""
    start = Lsn(int(segment * MB16))
    at = T0 + timedelta(hours=segment)
    return Summary(f"s{segment:04}", "", system, 18, MB16, timeline, start, Lsn(start + MB16 // 2), at, at, 0, 0)


def test_targets_read_as_they_print() -> None:
    for text, target in (
        ("latest", Latest()),
        ("immediate", Immediate()),
        ("16/B374D848", Position(Lsn(0x16B374D848))),
        ("name:before the import", RestorePoint("before the import")),
        ("2026-11-22T10:00:00+00:00", Time(T0)),
    ):
        assert parse_target(text) == target
        assert parse_target(str(target)) == target
    assert parse_target("2026-11-22T15:00:00+05:00") == Time(T0)
    assert parse_target("2026-11-22 10:00:00Z") == Time(T0)
    for wrong in ("yesterday", "2026-11-22T10:00:00", "name:", "name:" + "x" * 64, "16/", "", "G/1"):
        with pytest.raises(BadInput):
            parse_target(wrong)


def test_the_newest_snapshot_at_or_before_the_target_is_taken() -> None:
    snapshots = [taken(30.25), taken(10.25), taken(20.25)]
    for target, chosen, end in (
        (Latest(), 30.25, 100 * MB16),
        (Immediate(), 30.25, int(30.75 * MB16)),
        (Position(Lsn(20 * MB16)), 10.25, 20 * MB16),
        (Position(Lsn(int(20.75 * MB16))), 20.25, int(20.75 * MB16)),
        (Position(Lsn(int(20.75 * MB16) - 1)), 10.25, int(20.75 * MB16) - 1),
        (Time(T0 + timedelta(hours=25)), 20.25, 100 * MB16),
        (RestorePoint("x"), 10.25, 100 * MB16),
    ):
        plan = choose(snapshots, Extent(), target)
        assert (plan.snapshot.id, plan.end) == (f"s{chosen:04}", end)
        assert plan.start == int(chosen) * MB16  # the whole segment in which it starts
    assert choose(snapshots, Extent(), Latest(), snapshot="s10.25").snapshot.id == "s10.25"


def test_what_the_log_does_not_reach_is_not_used() -> None:
    cases = [
        (Extent(end=Lsn(30 * MB16)), 20.25),  # the newest needs WAL that is not there
        (Extent(start=Lsn(10 * MB16 + 1)), 30.25),
    ]
    snapshots = [taken(10.25), taken(20.25), taken(30.25)]
    for extent, chosen in cases:
        assert choose(snapshots, extent, Latest()).snapshot.id == f"s{chosen:04}"
    for extent, why in (
        (Extent(start=Lsn(31 * MB16)), "the log begins at"),
        (Extent(end=Lsn(30 * MB16)), "the log ends at"),
        (Extent(system_identifier=8), "another database cluster"),
    ):
        with pytest.raises(NotThere, match=why):
            choose([taken(30.25)], extent, Latest())
    with pytest.raises(NotThere, match="no snapshot is there"):
        choose([], Extent(), Latest())
    with pytest.raises(BadInput, match="there is no snapshot x"):
        choose(snapshots, Extent(), Latest(), snapshot="x")
    with pytest.raises(BadInput, match="before the first"):
        choose(snapshots, Extent(), Position(Lsn(10 * MB16)))
    with pytest.raises(BadInput, match="after the last"):
        choose(snapshots, Extent(), Position(Lsn(100 * MB16 + 1)))


def test_the_timeline_is_chosen_along_the_history() -> None:
    forked = Extent(timeline=3, history_files={3: b"1\t0/14000000\tx\n2\t0/1E000000\ty\n"})  # segments 20 and 30
    old, middle, new = taken(10.25, timeline=1), taken(25.25, timeline=2), taken(35.25, timeline=3)
    dead = taken(20.25, timeline=1)  # on timeline 1, after it was left
    assert choose([old, middle, new], forked, Latest()).timeline == 3
    assert choose([old, dead], forked, Latest()).snapshot == old
    for target, snapshot, timeline in (
        (Position(Lsn(15 * MB16)), old, 1),
        (Position(Lsn(20 * MB16)), old, 1),  # the byte before it is timeline 1's
        (Position(Lsn(20 * MB16 + 1)), old, 2),
        (Position(Lsn(26 * MB16)), middle, 2),
        (Position(Lsn(36 * MB16)), new, 3),
    ):
        plan = choose([old, dead, middle, new], forked, target)
        assert (plan.snapshot, plan.timeline) == (snapshot, timeline)
    assert choose([old], forked, Immediate()).timeline == 1


def test_postgresql_is_told_one_target_and_last() -> None:
    plan = choose([taken(10.25)], Extent(), Time(T0 + timedelta(hours=12)))
    assert list(plan.settings().items())[-1] == ("recovery_target_time", "2026-11-22 22:00:00+00:00")
    assert plan.settings()["recovery_target_timeline"] == "1"
    # Left in the primary's files, these would stop one commit early, or replay hours late without a word.
    assert plan.settings()["recovery_target_inclusive"] == "on"
    assert plan.settings()["recovery_min_apply_delay"] == "0"
    assert plan.settings().keys() <= {*overrides.TEMPORARY}
    named = choose([taken(10.25)], Extent(), RestorePoint("it's")).settings()
    assert list(named.items())[-1] == ("recovery_target_name", "it's")
    assert not any(choose([taken(10.25)], Extent(), Latest()).settings()[f"recovery_target{x}"] for x in ("", "_lsn"))


def test_overrides_come_last_and_leave_with_the_recovery() -> None:
    before = "port = '1'\nrecovery_target_name = 'of the primary'\n"
    laid_over = overrides.appended(
        before, {**overrides.SEVERED, "recovery_target_name": "it's", "restore_command": "false"}
    )
    assert laid_over.startswith(before)
    assert "recovery_target_name = 'it''s'\n" in laid_over
    settled = overrides.without_temporary(laid_over)
    assert "it''s" not in settled
    assert "hot_standby" not in settled
    assert "synchronous_standby_names = ''\n" in settled
    assert settled.startswith(before)


def test_lines_that_lead_to_the_primarys_machine_become_comments() -> None:
    leading = (
        "data_directory = '/srv/pg' # ours\n",
        "\tHBA_File '/etc/pg/hba'\n",
        "ident_file='it''s'\n",
        "external_pid_file /run/pg.pid\n",
        "include = '/etc/pg/common.conf'\n",
        "include_if_exists 'gone.conf'\n",
    )
    staying = (
        "# hba_file = 'x'\n",
        "port = 1\n",
        "include_dir = 'conf.d'\n",
        "include 'it''s here.conf'\n",
        "include_=1\n",
    )
    local = overrides.localized("".join([*leading, *staying]), lambda path: path in {"conf.d", "it's here.conf"})
    assert local.taken_out == tuple(line.strip() for line in leading)
    assert local.includes == (("include_dir", "conf.d"), ("include", "it's here.conf"))
    lines = local.text.splitlines(keepends=True)
    assert lines == [*(f"# Taken out by threefold recover: {line.strip()}\n" for line in leading), *staying]
    assert overrides.localized(local.text, lambda _: False).taken_out == tuple(line.strip() for line in staying[2:4])


@pytest.mark.parametrize(
    ("log", "kind", "said"),
    [
        (
            "LOG:  last completed transaction was at log time 2026-11-22 10:00:00+00\n" + SHORT,
            BadInput,
            "2026-11-22 10:00:00",
        ),
        (SHORT, BadInput, "no transaction"),
        ("FATAL:  requested recovery stop point is before consistent recovery point\n", BadInput, "snapshot was taken"),
        ("FATAL:  database files are incompatible with server\nDETAIL:  by 17\n", BadInput, "by 17"),
        ('FATAL:  could not access file "timescaledb": No such file\n', BadInput, "timescaledb"),
        ("FATAL:  WAL ends before consistent recovery point\n", Damaged, "does not replay"),
        ("PANIC:  something new\n", ThreefoldError, "something new"),
    ],
)
def test_what_postgresql_says_is_understood(log: str, kind: type[ThreefoldError], said: str) -> None:
    error = explain(log)
    assert isinstance(error, kind)
    assert said in error.message
    assert error.hint
