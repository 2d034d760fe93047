"""`threefold keys verify`: what is forged is not called whole, and what is not the newest is not called so."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.stored import CLOCK, KEYRING, stored
from tests.unit.test_upkeep_unwrap import KEY, RIGHT, RING, first_version, forged, holding

from threefold.kernel import secret_file
from threefold.kernel.errors import BadInput
from threefold.kernel.keys import Keyring
from threefold.upkeep.prove_keys import Found, prove

MANIFEST = "newest manifest and a pack"


async def _found(stores: object, keyring: Keyring, what: str, opener: object = None) -> list[Found]:
    proofs = await prove(stores, CLOCK, keyring, opener)  # type: ignore[arg-type]
    return [each.found for each in sorted(proofs.proofs, key=lambda each: each.store) if each.what == what]


async def test_without_an_opener_a_forged_copy_is_not_called_whole() -> None:
    stores = holding(S1=forged(sealed="AAAA"))
    assert await _found(stores, RING, KEY) == [Found.DAMAGED, Found.OPENS, Found.OPENS]


async def test_a_copy_of_the_first_version_is_not_checked_without_its_passphrase() -> None:
    ring, key = Keyring(RING.masters()[0]), f"keys/{RING.founding}"
    stores = holding(key, S1=first_version(bit=1), S2=first_version(), S3=first_version())
    assert await _found(stores, ring, key) == [Found.NOT_CHECKED] * 3
    proofs = await prove(dict(stores), CLOCK, ring, None)
    assert not proofs.complete
    assert await _found(stores, ring, key, RIGHT) == [Found.OTHER, Found.OPENS, Found.OPENS]


async def test_a_damaged_newest_manifest_is_said_and_no_older_one_proved_instead() -> None:
    here = await stored()
    newest = max(key for key in here.stores["S1"].objects if key.startswith("snapshots/"))
    here.stores["S1"].objects[newest] = here.stores["S1"].objects[newest][:-1] + b"?"
    assert await _found(here.stores, KEYRING, MANIFEST) == [Found.DAMAGED, Found.OPENS, Found.OPENS]
    here.stores["S1"].objects[newest] = b"?" + here.stores["S1"].objects[newest][1:]
    assert await _found(here.stores, KEYRING, MANIFEST) == [Found.DAMAGED, Found.OPENS, Found.OPENS]


async def test_manifests_under_a_key_that_we_do_not_have_are_another_keys_and_not_damaged() -> None:
    here = await stored()
    assert await _found(here.stores, Keyring(bytes(range(7, 39))), MANIFEST) == [Found.OTHER] * 3


async def test_a_file_that_does_not_fit_the_disk_is_not_left_half_written(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = tmp_path / "old"
    old.write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        for write, name in ((secret_file.write_new, "new"), (secret_file.replace, "old")):
            with pytest.raises(BadInput, match="cannot write"):
                write(tmp_path / name, "a secret of many bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert old.read_text() == "old"


@pytest.mark.parametrize("holds", ["create_home(Path(sys.argv[1]) / 'home')", "keyring_from(settings)"])
def test_who_makes_a_key_or_reads_one_is_not_dumpable(holds: str, tmp_path: Path) -> None:
    program = f"""
import ctypes, sys
from pathlib import Path
from types import SimpleNamespace
from threefold.bootstrap_keys import keyring_from
from threefold.local.create import create_home
settings = SimpleNamespace(keys=SimpleNamespace(master=""), secret_bytes=lambda _: b"A" * 43 + b"=")
{holds}
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "0"
