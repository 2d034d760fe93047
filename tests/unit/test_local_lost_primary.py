"""What `threefold up` may do where the primary's folder is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from threefold.kernel.errors import BadInput, Refused, Unavailable
from threefold.local.lost_primary import Found, look, wants_recovery
from threefold.recover.destination import MARKER

_LOG = {"start": "0/1000000", "end": "0/2000000", "timeline": 1, "epoch": 1}
_NEW: dict[str, Any] = {
    "log": None,
    "snapshots": [],
    "damaged": [],
    "leader": None,
    "trouble": "",
    "active_site": "here",
    "sites_trouble": "",
}
_HELD = {**_NEW, "log": _LOG, "snapshots": [{"id": "one"}], "leader": {"epoch": 1}}


def _wants(found: Found, status: dict[str, Any], *, told_to: bool = False, folder: str = "/crm/primary") -> bool:
    return wants_recovery(found, Path(folder), status, site="here", told_to=told_to)


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "primary"
    assert look(folder) is Found.NOTHING
    folder.mkdir()
    assert look(folder) is Found.NOTHING
    (folder / f"{MARKER}.new").write_text("{")
    assert look(folder) is Found.NOTHING
    (folder / MARKER).write_text(json.dumps({"finished": False}))
    assert look(folder) is Found.UNFINISHED
    (folder / "PG_VERSION").write_text("15\n")
    assert look(folder) is Found.UNFINISHED
    (folder / MARKER).write_text(json.dumps({"finished": True}))
    assert look(folder) is Found.DATABASE
    (folder / MARKER).unlink()
    assert look(folder) is Found.DATABASE


def test_what_is_neither_nothing_nor_a_database_is_in_the_way(tmp_path: Path) -> None:
    written_by_the_dying = tmp_path / "one"
    (written_by_the_dying / "pg_stat").mkdir(parents=True)
    file = tmp_path / "two"
    file.touch()
    dangling = tmp_path / "three"
    dangling.symlink_to(tmp_path / "gone")
    finished = tmp_path / "four"
    finished.mkdir()
    (finished / MARKER).write_text(json.dumps({"finished": True}))
    for folder in (written_by_the_dying, file, dangling, finished):
        with pytest.raises(Refused, match="holds no database, and is not empty either") as caught:
            look(folder)
        assert "move it away" in caught.value.hint


def test_what_cannot_be_read_is_not_taken_for_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "primary"
    folder.mkdir()

    def closed(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(BadInput, match="primary cannot be read: Permission denied"):
        look(folder)


def test_a_first_start_recovers_nothing() -> None:
    assert not _wants(Found.NOTHING, _NEW)


@pytest.mark.parametrize("found", [Found.NOTHING, Found.UNFINISHED])
def test_nothing_is_made_anew_or_started_half_where_the_stores_hold_the_database(found: Found) -> None:
    with pytest.raises(Refused) as caught:
        _wants(found, _HELD)
    assert "threefold up /crm --recover" in caught.value.hint
    assert _wants(found, _HELD, told_to=True)


def test_the_hint_can_be_pasted() -> None:
    with pytest.raises(Refused) as caught:
        _wants(Found.NOTHING, _HELD, folder="/my crm/primary")
    assert "threefold up '/my crm' --recover" in caught.value.hint


@pytest.mark.parametrize(
    ("found", "told_to", "advice"),
    [
        (Found.NOTHING, True, "without --recover, a new database is made"),
        (Found.UNFINISHED, False, "rm -r /crm/primary"),
        (Found.UNFINISHED, True, "rm -r /crm/primary"),
    ],
)
def test_empty_stores_have_nothing_to_get_back(found: Found, told_to: bool, advice: str) -> None:
    with pytest.raises(Refused, match="the stores hold no database") as caught:
        _wants(found, _NEW, told_to=told_to)
    assert advice in caught.value.hint


@pytest.mark.parametrize(
    ("remains", "lack"),
    [
        ({"leader": {"epoch": 1}}, "no log"),
        ({"snapshots": [{"id": "one"}]}, "no log"),
        ({"damaged": ["one"]}, "no log"),
        ({"log": _LOG}, "no snapshot:"),
        ({"log": _LOG, "damaged": ["one"]}, "no snapshot that reads"),
    ],
)
@pytest.mark.parametrize("told_to", [False, True])
def test_remains_are_no_first_start_and_nothing_to_get_back(remains: dict[str, Any], lack: str, told_to: bool) -> None:
    with pytest.raises(Refused, match=lack) as caught:
        _wants(Found.NOTHING, {**_NEW, **remains}, told_to=told_to)
    assert "threefold init" in caught.value.hint
    assert "--recover" not in caught.value.hint


def test_no_answer_is_not_taken_for_a_first_start() -> None:
    with pytest.raises(Unavailable, match="which site the system runs is not known: too few stores answered"):
        _wants(Found.NOTHING, {**_NEW, "sites_trouble": "too few stores answered in 10 s"})
    with pytest.raises(Unavailable, match="what the stores hold is not known: S1 lists nothing"):
        _wants(Found.NOTHING, {**_NEW, "trouble": "S1 lists nothing"}, told_to=True)


def test_what_runs_elsewhere_is_not_brought_up_here_as_well() -> None:
    with pytest.raises(Refused, match="runs at site there") as caught:
        _wants(Found.NOTHING, {**_HELD, "active_site": "there"}, told_to=True)
    assert "docs/howto/fail-back.md" in caught.value.hint
