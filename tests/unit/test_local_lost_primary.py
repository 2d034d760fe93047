"""What `threefold up` may do where the primary's folder is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from threefold.kernel.errors import Refused, Unavailable
from threefold.local.lost_primary import Found, look, wants_recovery
from threefold.recover.destination import MARKER

_NEW: dict[str, Any] = {"log": None, "trouble": "", "active_site": "here", "sites_trouble": ""}
_HELD = {**_NEW, "log": {"start": "0/1000000", "end": "0/2000000", "timeline": 1, "epoch": 1}}


def _wants(found: Found, status: dict[str, Any], *, told_to: bool = False) -> bool:
    return wants_recovery(found, Path("/crm/primary"), status, site="here", told_to=told_to)


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "primary"
    assert look(folder) is Found.NOTHING
    folder.mkdir()
    assert look(folder) is Found.NOTHING
    (folder / MARKER).write_text(json.dumps({"finished": False}))
    assert look(folder) is Found.UNFINISHED
    (folder / MARKER).write_text(json.dumps({"finished": True}))
    assert look(folder) is Found.SOMETHING
    (folder / MARKER).unlink()
    (folder / "PG_VERSION").write_text("15\n")
    assert look(folder) is Found.SOMETHING


def test_a_first_start_recovers_nothing() -> None:
    assert not _wants(Found.NOTHING, _NEW)


@pytest.mark.parametrize("found", [Found.NOTHING, Found.UNFINISHED])
def test_nothing_is_made_anew_or_started_half_where_the_stores_hold_the_database(found: Found) -> None:
    with pytest.raises(Refused) as caught:
        _wants(found, _HELD)
    assert "threefold up /crm --recover" in (caught.value.hint or "")
    assert _wants(found, _HELD, told_to=True)


@pytest.mark.parametrize(("found", "told_to"), [(Found.NOTHING, True), (Found.UNFINISHED, False)])
def test_empty_stores_have_nothing_to_get_back(found: Found, told_to: bool) -> None:
    with pytest.raises(Refused, match="the stores hold no database"):
        _wants(found, _NEW, told_to=told_to)


def test_no_answer_is_not_taken_for_a_first_start() -> None:
    with pytest.raises(Unavailable, match="too few stores answered"):
        _wants(Found.NOTHING, {**_NEW, "sites_trouble": "too few stores answered in 10 s"})
    with pytest.raises(Unavailable, match="S1 lists nothing"):
        _wants(Found.NOTHING, {**_NEW, "trouble": "S1 lists nothing"}, told_to=True)


def test_what_runs_elsewhere_is_not_brought_up_here_as_well() -> None:
    with pytest.raises(Refused, match="runs at site there"):
        _wants(Found.NOTHING, {**_HELD, "active_site": "there"}, told_to=True)
