"""The spool's file, and who may go on with it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.protect.spool import Spool
from threefold.quorum import degraded
from threefold.quorum.degraded import Declaration

_KEYRING = Keyring(bytes(32))
_DECLARED = Declaration(3, 1, Lsn(1000), "2026-11-24T20:00:00+00:00", "here", 0)


def _spool(folder: Path) -> Spool:
    spool = Spool.begin(folder / "deep" / "crm.spool", 7, _DECLARED)
    for number in range(5):
        spool.append(spool.end, bytes([number]) * 10)
    return spool


def test_what_was_appended_is_found_by_the_next_process(tmp_path: Path) -> None:
    before = _spool(tmp_path)
    found = Spool.found(before.path)
    assert found is not None
    assert (found.log, found.declaration, found.start, found.end) == (7, _DECLARED, 1000, 1050)
    assert found.bytes(Lsn(1005), Lsn(1045)) == before.bytes(Lsn(1005), Lsn(1045))
    assert found.bytes(Lsn(1000), Lsn(1050)) == b"".join(bytes([number]) * 10 for number in range(5))
    found.append(Lsn(1050), b"more")
    assert found.read(Lsn(1050)) == b"more"
    assert found.read(Lsn(1054)) == b""
    assert before.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("cut", [1, 12, 20])
def test_a_torn_frame_was_never_confirmed_and_is_written_over(tmp_path: Path, cut: int) -> None:
    spool = _spool(tmp_path)
    os.truncate(spool.path, spool.size - cut)
    found = Spool.found(spool.path)
    assert found is not None
    assert found.end == 1040
    found.append(Lsn(1040), b"anew")
    again = Spool.found(spool.path)
    assert again is not None
    assert again.bytes(Lsn(1030), Lsn(1044)) == bytes([3]) * 10 + b"anew"


def test_bytes_that_do_not_go_on_where_it_ends_are_not_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not go on"):
        _spool(tmp_path).append(Lsn(1060), b"a gap")


def test_damage_is_not_fed_to_the_log(tmp_path: Path) -> None:
    spool = _spool(tmp_path)
    with spool.path.open("r+b") as file:
        file.seek(spool.size - 3)
        file.write(b"x")
    with pytest.raises(Damaged):
        spool.read(Lsn(1040))
    found = Spool.found(spool.path)
    assert found is not None
    assert found.end == 1040


def test_no_spool_and_no_spool_at_all(tmp_path: Path) -> None:
    assert Spool.found(tmp_path / "none") is None
    (tmp_path / "other").write_text("something else\n")
    with pytest.raises(Damaged):
        Spool.found(tmp_path / "other")


def test_it_is_retired_or_set_aside(tmp_path: Path) -> None:
    spool = _spool(tmp_path)
    aside = spool.set_aside("0a0a")
    assert aside.exists()
    assert not spool.path.exists()
    again = _spool(tmp_path)
    drained = again.retire()
    assert sorted(again.path.parent.iterdir()) == sorted([aside, drained])
    left = Spool.found(drained)  # a process that ends before it told the stores leaves word of what was drained
    assert left is not None
    assert (left.start, left.end) == (1000, 1050)


def test_a_declaration_stands_until_it_is_said_to_be_drained() -> None:
    over = replace(_DECLARED, end=Lsn(1050))
    assert degraded.standing([_DECLARED.key]) == [_DECLARED.key]
    assert degraded.standing([_DECLARED.key, over.key]) == []
    body = degraded.encode(over, _KEYRING, bytes(12))
    assert degraded.decode(body, over.key, _KEYRING) == over
    with pytest.raises(Damaged):
        degraded.decode(body, _DECLARED.key, _KEYRING)
    assert "changes from 0/3E8 on may be missing" in _DECLARED.sentence
