"""The notices of replaced stores: told on, and never taken back."""

from __future__ import annotations

import pytest
from tests.scrubbing import DAMAGES, damage, scrub
from tests.stored import CLOCK, KEYRING, NAMES, stored

from threefold.kernel.keys import Keyring
from threefold.quorum import keys
from threefold.quorum.membership import Membership
from threefold.quorum.notices import encode_notice
from threefold.stores.health import HealthBook
from threefold.upkeep.inventory import take_inventory


@pytest.mark.parametrize("how", DAMAGES)
async def test_a_notice_that_is_missing_is_told_on_and_a_damaged_one_is_never_deleted(how: str) -> None:
    """Absent, even for a moment, would be taken for "nothing has changed" by who asks the two that stay."""
    here = await stored()
    key, notice = keys.notice_key(1), encode_notice(Membership(1, ("S1", "S3"), "S2", "S4"), KEYRING)
    for store in here.stores.values():
        store.objects[key] = notice
    assert (await scrub(here)).findings == []
    damage(here.stores["S1"], key, how)
    before = {name: dict(here.objects(name)) for name in NAMES}
    for only in (None, "S1"):  # a repair looks again at what the last scrub could not mend
        (finding,) = (await scrub(here, only=only, fresh=True)).findings
        assert (finding.store, finding.key) == ("S1", key)
        if how == "removed":
            assert finding.mended
            assert here.stores["S1"].objects[key] == notice
            del here.stores["S1"].objects[key]
        else:
            assert (finding.what, finding.mended) == ("damaged", False)
            assert "by hand" in finding.why
            assert {name: here.objects(name) for name in NAMES} == before
    assert (await take_inventory(here.stores, KEYRING, CLOCK, HealthBook(NAMES))).stores[1].holds["other"].objects > 1


async def test_a_notice_that_no_key_of_ours_sealed_is_not_told_on() -> None:
    here = await stored()
    key = keys.notice_key(1)
    forged = encode_notice(Membership(1, ("S1", "S3"), "S2", "S4"), Keyring(bytes(range(1, 33))))
    here.stores["S3"].objects[key] = forged
    report = await scrub(here)
    assert {(each.store, each.what, each.mended) for each in report.findings if each.store == "S3"} == {
        ("S3", "damaged", False)
    }
    assert not any(key in here.stores[name].objects for name in ("S1", "S2"))
