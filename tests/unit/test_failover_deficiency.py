"""What is missing, since when, how often; over restarts as well."""

from __future__ import annotations

import json

from threefold.failover.deficiency import Deficiency, missing_now

NONE: dict[str, str] = {}


def _missing(stores: int | None = 3, *, standby: bool = True, protected: bool = True) -> dict[str, str]:
    return missing_now(
        stores_voting=stores,
        standby_ready=standby,
        standby_why="nobody keeps a copy",
        protected=protected,
        protected_why="no DRaaS server is heard",
    )


def test_nothing_is_missing() -> None:
    assert _missing() == {}
    assert not Deficiency().observe(1.0, _missing()).deficient


def test_what_cannot_be_told_is_not_missing() -> None:
    assert _missing(None) == {}


def test_each_lack_has_its_own_duration_and_the_spell_has_one() -> None:
    now = Deficiency().observe(1.0, _missing(2))
    now = now.observe(10.0, _missing(2, standby=False))
    now = now.observe(5.0, _missing(3, standby=False))
    assert [(lack.what, lack.since_s) for lack in now.lacks()] == [("standby", 5.0)]
    assert (now.count, now.total_s, now.spell_s) == (1, 15.0, 15.0)
    now = now.observe(2.0, NONE)
    assert (now.deficient, now.count, now.total_s, now.spell_s) == (False, 1, 17.0, 0.0)
    now = now.observe(100.0, _missing(protected=False))
    assert (now.count, now.total_s) == (2, 17.0)


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    now = Deficiency().observe(0.0, _missing(2)).observe(10.0, _missing(2)).observe(-50.0, _missing(2))
    assert now.total_s == 10.0


def test_it_goes_on_over_a_restart() -> None:
    now = Deficiency().observe(0.0, _missing(2, standby=False)).observe(30.0, _missing(2, standby=False))
    back = Deficiency.from_record(json.loads(json.dumps(now.record())), away_s=60.0)
    assert {lack.what: lack.since_s for lack in back.lacks()} == {"stores": 90.0, "standby": 90.0}
    assert (back.count, back.total_s, back.spell_s) == (1, 90.0, 90.0)
    assert back.lacks()[1].text == "2 of three stores vote"


def test_a_restart_makes_no_deficiency_of_a_whole_system() -> None:
    now = Deficiency().observe(0.0, _missing(2)).observe(5.0, NONE)
    back = Deficiency.from_record(now.record(), away_s=3600.0)
    assert (back.deficient, back.count, back.total_s) == (False, 1, 5.0)
