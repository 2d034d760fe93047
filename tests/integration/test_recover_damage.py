"""Every kind of object, every kind of damage: on one store nothing is lost, on two nothing is ever wrong.

On memory stores, so that thousands of damages can be tried; the real thing is in test_recover_thief.py.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import pytest
from tests.stored import CLOCK, KEYRING, NAMES, SEGMENT, Leading, Stored, flip, stored

from threefold.kernel.errors import ThreefoldError
from threefold.kernel.keys import Keyring
from threefold.kernel.progress import Silent
from threefold.quorum import keys
from threefold.recover.recover import recover
from threefold.recover.targets import Latest, Target, parse_target
from threefold.stores.memory import MemoryStore
from threefold.stores.store import Gone, Unknown

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda _: None,
    "flipped": lambda body: flip(body, len(body) * 2 // 3),
    "first byte": lambda body: flip(body, 0),
    "cut": lambda body: body[: len(body) // 2],
    "emptied": lambda _: b"",
}
COMMAND = re.compile(r"threefold recover --to (\S+) --snapshot (\S+) --into (\S+)")


@pytest.fixture(scope="module")
def whole() -> Stored:
    """Three epochs, two of them in segments and one in entries behind the last segment; seals between them."""
    return asyncio.run(_whole())


async def _whole() -> Stored:
    here = await stored(epochs=2, snapshots=2)
    last = await Leading(here.stores).begin()
    await here.write(last, SEGMENT + 700)
    await here.write(last, 300)
    await last.end()
    return here


class Last(MemoryStore):
    """Answers a moment after the others: whoever believes the first two does not hear it."""

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes | Gone | Unknown:
        for _ in range(6):
            await asyncio.sleep(0)
        return await super().read(key, start=start, length=length)


def copied(whole: Stored, *, last: str = "") -> Stored:
    stores = {name: Last(name) if name == last else MemoryStore(name) for name in NAMES}
    here = Stored(stores, whole.wal, whole.settled, list(whole.snapshots))
    for name, store in here.stores.items():
        store.objects = dict(whole.stores[name].objects)
    return here


def hurt(here: Stored, key: str, on: Sequence[str], hows: Sequence[str]) -> bool:
    """Whether anything was changed."""
    changed = False
    for name, how in zip(on, hows, strict=True):
        objects = here.stores[name].objects
        if key in objects:
            body = DAMAGES[how](objects.pop(key))
            if body is not None:
                objects[key] = body
            changed = True
    return changed


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


async def restored(here: Stored, into: Path, target: Target, snapshot: str | None = None) -> tuple[bytes, int, Heard]:
    """The WAL that was placed, from where it begins, and what was said. Raises as `recover` does."""
    shutil.rmtree(into, ignore_errors=True)
    heard = Heard()
    done = await recover(
        stores=here.stores,
        keyring=KEYRING,
        clock=CLOCK,
        progress=heard,
        target=target,
        into=into,
        snapshot=snapshot,
    )
    files = sorted(path for path in (into / "pg_wal").iterdir() if not path.name.endswith(".history"))
    wal = b"".join(path.read_bytes() for path in files)[: done.wal_end - done.wal_start]
    return wal, int(done.wal_start), heard


async def right(here: Stored, into: Path, target: Target, snapshot: str | None = None) -> tuple[int, Heard]:
    """Where it ends; every byte before it is what was written."""
    wal, start, heard = await restored(here, into, target, snapshot)
    assert wal == here.wal[start : start + len(wal)]
    return start + len(wal), heard


async def outcome(here: Stored, into: Path) -> int | ThreefoldError:
    """Of a recovery of everything: where it ends, or why there is none."""
    try:
        return (await right(here, into, Latest()))[0]
    except ThreefoldError as error:
        return error


def objects_of(here: Stored) -> list[str]:
    return sorted({key for store in here.stores.values() for key in store.objects if not key.startswith("beacons/")})


def some_of(here: Stored) -> list[str]:
    """The first, the last and one between of each kind and epoch."""
    folders: dict[str, list[str]] = {}
    for key in objects_of(here):
        folders.setdefault(key.rpartition("/")[0], []).append(key)
    return sorted({keys[at] for keys in folders.values() for at in (0, len(keys) // 2, -1)})


async def test_what_is_whole_is_recovered(whole: Stored, tmp_path: Path) -> None:
    end, heard = await right(whole, tmp_path / "into", Latest())
    assert end == len(whole.wal)
    assert not [note for note in heard.said if "damaged" in note or "lacks" in note]
    kinds = {key.partition("/")[0] for key in objects_of(whole)}
    assert kinds >= {"format", "keys", "epochs", "log", "wal", "timelines", "snapshots", "packs"}


@pytest.mark.parametrize("how", DAMAGES)
async def test_damage_on_one_store_costs_nothing(whole: Stored, tmp_path: Path, how: str) -> None:
    for number, key in enumerate(some_of(whole)):
        await _one(whole, tmp_path, key, NAMES[number % 3], how)


@pytest.mark.long
@pytest.mark.parametrize("how", DAMAGES)
async def test_damage_of_any_object_on_any_store_costs_nothing(whole: Stored, tmp_path: Path, how: str) -> None:
    for key in objects_of(whole):
        for name in NAMES:
            await _one(whole, tmp_path, key, name, how)


async def _one(whole: Stored, tmp_path: Path, key: str, name: str, how: str) -> None:
    here = copied(whole)
    if hurt(here, key, [name], [how]):
        end, _ = await right(here, tmp_path / "into", Latest())
        assert end == len(here.wal), (key, name)


HOWS = [("removed", "removed"), ("flipped", "flipped"), ("cut", "emptied"), ("removed", "cut")]


@pytest.mark.parametrize("hows", HOWS)
async def test_damage_on_two_stores_never_gives_wrong_bytes(
    whole: Stored, tmp_path: Path, hows: tuple[str, str]
) -> None:
    """The third copy is used; where that cannot be, the error names what can be had, and that is true."""
    pairs = list(combinations(NAMES, 2))
    told = [await _two(whole, tmp_path, key, pairs[at % 3], hows) for at, key in enumerate(some_of(whole))]
    assert any(told)


@pytest.mark.long
@pytest.mark.parametrize("hows", HOWS)
async def test_damage_of_any_object_on_any_two_stores_never_gives_wrong_bytes(
    whole: Stored, tmp_path: Path, hows: tuple[str, str]
) -> None:
    for key in objects_of(whole):
        for on in combinations(NAMES, 2):
            await _two(whole, tmp_path, key, on, hows)


async def _two(whole: Stored, tmp_path: Path, key: str, on: tuple[str, ...], hows: tuple[str, str]) -> bool:
    """Whether it took the command that the error gave."""
    here = copied(whole, last=next(name for name in NAMES if name not in on))
    if not hurt(here, key, on, hows):
        return False
    came = await outcome(here, tmp_path / "into")
    if not isinstance(came, ThreefoldError):
        assert came == len(here.wal), (key, on)
        return False
    assert key == keys.FORMAT, (key, on, came.message, came.hint)  # the third has all the rest
    await as_told(here, came, tmp_path / "into", least=len(here.wal))
    return True


async def as_told(here: Stored, error: ThreefoldError, into: Path, *, least: int) -> int:
    """What the hint says can be had, can be had; where it ends."""
    command = COMMAND.search(error.hint)
    assert command is not None, (error.message, error.hint)
    assert "the newest point that can be had is" in error.message
    end, _ = await right(here, into, parse_target(command[1]), command[2])
    assert str(parse_target(command[1])) == command[1]
    assert end >= least
    return end


async def test_what_no_store_has_whole_is_named_with_the_newest_point_that_can_be_had(
    whole: Stored, tmp_path: Path
) -> None:
    """The third copy is gone as well, as after a lagging store: entries, segments, packs and manifests, one by one."""
    ends: dict[str, int] = {}
    first = set((await whole.vault().manifest(whole.snapshots[0].id)).pack_keys())
    for key in some_of(whole):
        if not key.startswith(("log/", "wal/", "packs/", "snapshots/")):
            continue
        here = copied(whole)
        third = next((name for name in NAMES if key in here.stores[name].objects), NAMES[0])
        here.stores[third].objects.pop(key)
        hurt(here, key, [name for name in NAMES if name != third], ["flipped", "cut"])
        came = await outcome(here, tmp_path / "into")
        if key in first:
            assert isinstance(came, ThreefoldError)
            assert "no snapshot can be recovered" in came.hint  # all of them share it
        elif isinstance(came, ThreefoldError):
            ends[key] = await as_told(here, came, tmp_path / "into", least=1)
            assert key in came.message, (key, came.message)
        else:
            assert came == len(here.wal), key
    assert any(key.startswith("wal/") for key in ends)
    assert any(key.startswith("log/") for key in ends)
    assert max(ends.values()) > 6 * SEGMENT


async def test_a_thief_who_took_all_but_what_is_locked_leaves_the_segments(whole: Stored, tmp_path: Path) -> None:
    here = copied(whole)
    locked = ("keys/", "timelines/", "wal/", "packs/", "snapshots/")
    for store in here.stores.values():
        store.objects = {key: body for key, body in store.objects.items() if key.startswith(locked)}
    with pytest.raises(ThreefoldError) as error:
        await right(here, tmp_path / "into", Latest())
    end = await as_told(here, error.value, tmp_path / "into", least=1)
    assert end == len(here.wal) // SEGMENT * SEGMENT


async def test_a_store_that_does_not_answer_is_waited_for_not_recovered_around(whole: Stored, tmp_path: Path) -> None:
    """Silence is not loss: nothing less than everything is offered while a store may still have it."""
    from tests.recovering import Faulty

    here = copied(whole)
    for name in ("S1", "S2"):
        here.stores[name].objects.pop(keys.FORMAT)
    silent = Faulty("S3")
    silent.down = True
    here.stores["S3"] = silent
    with pytest.raises(ThreefoldError) as error:
        await right(here, tmp_path / "into", parse_target("0/100"))
    assert COMMAND.search(error.value.hint) is None


async def test_a_wrapped_key_that_is_damaged_on_two_stores_opens_from_the_third(whole: Stored) -> None:
    from threefold.bootstrap_keys import unwrap_from_stores
    from threefold.kernel.wraps import Passphrase
    from threefold.stores.health import HealthBook
    from threefold.stores.observed import ObservedStore

    (key,) = [key for key in objects_of(whole) if key.startswith("keys/")]
    for on in combinations(NAMES, 2):
        for how in DAMAGES:
            here = copied(whole)
            hurt(here, key, on, [how, how])
            health = HealthBook(NAMES)
            stores = {name: ObservedStore(store, CLOCK, health) for name, store in here.stores.items()}
            found = await unwrap_from_stores(stores, CLOCK, Passphrase("a passphrase"))
            assert isinstance(found, Keyring)
            assert found.key_id == KEYRING.key_id
