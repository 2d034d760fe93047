"""The last batch torn at every byte and in every subset of its sectors, damaged at every byte; then opened.

What was acknowledged before it is there and right, always. Of the last batch, of which nobody was told, the records up
to one of them count, each whole or not at all; what was cut off never comes back. Damage to acknowledged batches is an
error of the object, or start is refused, and says where.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torn_scenes as scenes
from storage_engines import crash, opened, put
from torn_scenes import ALONE, TOGETHER, Contents, Scene, after_each, putting, read

from threefold.kernel.errors import Damaged

# Every image in the long tests, some of each kind in the others.
EVERY = pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.long)])
ALL = [*ALONE, "together", "closed", "first of two files", "second of two files", "moved", "done with"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory: what is tested are bytes, thousands of times; that they reach the disk is tested elsewhere."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


async def staged(name: str, folder: Path, patch: pytest.MonkeyPatch) -> Scene:
    whole = folder / "whole"
    match name:
        case "together":
            return await scenes.alone_or_together(whole, TOGETHER, patch)
        case "closed":
            return await scenes.closed(whole)
        case "first of two files" | "second of two files":
            return (await scenes.over_two_files(whole, patch))[name.startswith("second")]
        case "moved" | "done with":
            return (await scenes.compacted(whole))[name == "done with"]
    return await scenes.alone_or_together(whole, ALONE[name], patch)


def torn(scene: Scene) -> Iterator[tuple[str, bytes]]:
    """Every image of the torn file that is tried."""
    whole, start, end = scene.whole, scene.start, scene.end
    for at in range(start, end + 1):
        yield f"cut at {at}", whole[:at] + bytes(end - at) + whole[end:]
        yield f"garbage from {at}", whole[:at] + b"\xa5" * (end - at) + whole[end:]
        yield f"zeros up to {at}", whole[:start] + bytes(at - start) + whole[at:]
    for at in range(start, end):
        yield f"flipped at {at}", whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :]
        yield f"zero at {at}", whole[:at] + b"\0" + whole[at + 1 :]
    for chosen in range(1 << len(scene.sectors())):
        yield f"sectors {chosen:b}", scene.with_pieces(chosen)


@pytest.mark.parametrize("name", ALL)
@EVERY
async def test_a_torn_batch_counts_up_to_one_of_its_records(
    name: str, every: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await staged(name, folder, monkeypatch)
    seen: list[Contents] = []
    for how, image in list(torn(scene))[::every]:
        scene.write(folder / "torn", image)
        contents = read(folder / "torn")
        assert contents in scene.states, how
        assert contents == scene.states[-1] or image != scene.whole, how
        assert read(folder / "torn") == contents, how
        seen += [contents] if contents not in seen else []
    assert scene.states[0] in seen
    assert scene.states[-1] in seen
    assert every > 1 or all(state in seen for state in scene.states)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("every", [290, pytest.param(1, marks=pytest.mark.long)])
async def test_what_was_cut_off_never_comes_back_behind_what_is_written_next(
    name: str, every: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, place = await staged(name, folder, monkeypatch), folder / "torn"
    size = scene.end - scene.start
    step = every if every > 1 or size < 100 else 7 if size < 400 else 23  # a whole engine is opened twice for each
    for how, image in list(torn(scene))[::step]:
        scene.write(place, image)
        contents = read(place)
        for bytes_following in (1, 90):
            following = putting("following", b"f" * bytes_following)
            contents = after_each(contents, [following])[-1]
            if bytes_following == 1:
                scene.write(place, image)  # not as `read` has left it
            engine = await opened(place)
            await put(engine, "following", following.body)
            await crash(engine)
            assert read(place) == contents, how


@pytest.mark.long
@pytest.mark.parametrize("name", ["together", "first of two files", "second of two files"])
async def test_a_crash_while_the_torn_batch_is_wiped_changes_nothing(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wiping, too, reaches the disk in any order of its sectors."""
    scene, place = await staged(name, folder, monkeypatch), folder / "torn"
    sectors = scene.sectors()
    for chosen in range(1 << len(sectors)):
        image = scene.with_pieces(chosen)
        scene.write(place, image)
        contents = read(place)
        wiped = (place / "journal" / scene.torn).read_bytes()
        differ = [first for first in sectors if image[first : first + 512] != wiped[first : first + 512]]
        for done in range(1 << len(differ)):
            half = bytearray(image)
            for bit, first in enumerate(differ):
                if done >> bit & 1:
                    half[first : first + 512] = wiped[first : first + 512]
            scene.write(place, bytes(half))
            assert read(place) == contents, (chosen, done)


@pytest.mark.parametrize("name", ["together", "delete", "first of two files", "second of two files", "moved", "closed"])
@EVERY
async def test_damage_at_any_byte_before_the_last_batch_is_told(
    name: str, every: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, place = await staged(name, folder, monkeypatch), folder / "torn"
    expected, stop = scene.states[-1], scene.start
    if name == "second of two files":  # then the first one, its end included
        first_file = min(scene.files)
        stop = scenes.records(scene.files[first_file])[-1].end
        scene = replace(scene, torn=first_file)
    refused = damaged = 0
    for at in range(scenes.records(scene.whole)[0].position, stop, every):
        for byte in {scene.whole[at] ^ 0x40, 0} - {scene.whole[at]}:
            image = scene.whole[:at] + bytes([byte]) + scene.whole[at + 1 :]
            scene.write(place, image)
            try:
                contents, said = read(place), ""
            except Damaged as error:
                contents, said = {}, str(error)
            if said:
                assert "is damaged at byte" in said
                assert (place / "journal" / scene.torn).read_bytes() == image
                refused += 1
                continue
            hurt = {
                (bucket, key)
                for bucket, there in expected.items()
                for key, value in there.items()
                if contents[bucket][key] != value
            }
            assert {name: there.keys() for name, there in contents.items()} == {
                name: there.keys() for name, there in expected.items()
            }
            assert len(hurt) <= 1, at
            assert all(contents[bucket][key] == (None, expected[bucket][key][1]) for bucket, key in hurt), at
            damaged += len(hurt)
    assert refused > 100 / every
    assert damaged > 10 / every
