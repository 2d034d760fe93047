"""What cannot be meant gets a sentence and a hint, and leaves nothing half-done: from protect to recover."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.conformance.products import Missing
from tests.conformance.servers import rclone
from tests.pg import folder, small_disk
from tests.protect_process import MASTER, NAMES, PASSPHRASE, Site, site, team, until

from threefold.kernel.keys import Keyring
from threefold.kernel.wraps import Passphrase, wrap

OTHER_KEY = bytes(range(1, 33))


async def _stores(here: Site) -> list[dict[str, int]]:
    return [await here.objects(name) for name in NAMES]


async def test_what_protect_cannot_use_is_refused_before_anything_is_written() -> None:
    """Each with settings of its own, side by side: most of the time they wait for answers."""
    async with site() as here:
        await asyncio.gather(*(each(here) for each in (_one_place_twice, _no_bucket, _wrong_secret)))
        missing = await _a_store_that_lies(here)
        assert await _stores(here) == [{}, {}, {}]
        assert await here.primary.sql("SELECT 1 FROM pg_replication_slots") == []
        if missing:
            pytest.skip(str(missing))


async def _one_place_twice(here: Site) -> None:
    same = f'url = "s3://crm-dr/threefold/"\nendpoint = "http://127.0.0.1:{here.ports["S1"]}/"'
    error = await here.refused("protect", config=here.configure(to="twice.toml", stores={"S2": same}))
    assert error["exit_code"] == 2
    assert "S1 and S2 are the same place" in error["error"]


async def _no_bucket(here: Site) -> None:
    """Nothing is founded on two stores, and the third is named, with what it said."""
    other = f'url = "s3://crm-other/threefold"\nendpoint = "http://127.0.0.1:{here.ports["S3"]}"'
    config = here.configure(to="bucket.toml", stores={"S3": other})
    protecting = here.run("protect", log="protect", config=config)
    error = await here.refused("check", config=config)
    assert error["exit_code"] == 3
    assert "S3" in error["error"]
    await protecting.says("S3: S3 answered 404 NoSuchBucket")
    await protecting.says("S1 and S2 hold no log, and a new one needs all three stores; what S3 lacks: threefold check")
    assert "leading" not in protecting.said
    protecting.kill()


async def _wrong_secret(here: Site) -> None:
    config = here.configure(to="secret.toml")
    protecting = here.run("protect", config=config, env={"S2_SECRET": "not the secret of S2"})
    await protecting.says("SignatureDoesNotMatch")
    protecting.kill()


async def _a_store_that_lies(here: Site) -> Missing | None:
    """It lets two writers win; None where it was tried."""
    try:
        with rclone() as liar:
            lies = f'url = "s3://crm-dr/threefold"\nendpoint = "{liar.config.endpoint}"'
            config = here.configure(to="lies.toml", stores={"S2": lies})
            keys = {"S2_KEY": liar.config.access_key_id, "S2_SECRET": liar.config.secret_access_key}
            refused = await asyncio.gather(
                here.refused("protect", env=keys, config=config), here.refused("check", env=keys, config=config)
            )
    except Missing as missing:
        return missing
    assert [error["exit_code"] for error in refused] == [3, 3]
    assert "S2 may not vote" in refused[0]["error"]
    assert "store S2" in refused[1]["error"]
    return None


async def test_a_primary_that_would_hang_or_lose_commits_does_not_pass_the_check() -> None:
    async with site() as here:
        await here.primary.set(synchronous_commit="remote_apply", wal_level="minimal")
        error = await here.refused("check")
        assert error["exit_code"] == 3
        assert "synchronous_commit" in error["error"]
        said = here.processes[-1].said
        assert "ALTER SYSTEM SET synchronous_commit = " in said
        assert await here.primary.sql("SHOW synchronous_commit") == [("remote_apply",)]  # it never changes anything
        assert await _stores(here) == [{}, {}, {}]


@pytest.mark.long
async def test_wrong_keys_targets_folders_and_versions_and_a_damaged_object() -> None:
    async with site() as here:
        wrapped = wrap(Keyring(MASTER), Passphrase(PASSPHRASE), salt=b"0123456789abcdef")
        (here.home / "wrapped.key").touch(mode=0o600)
        (here.home / "wrapped.key").write_bytes(wrapped)
        here.configure()
        protecting = await here.protect()
        async with team(here) as people:
            await people.progress()
            await here.done("snapshot")
            await people.progress(50)
            await here.primary.sql("SELECT pg_switch_wal()")
            await people.progress(20)
            people.pause()
            await here.primary.sql("SELECT pg_switch_wal()")
            await asyncio.sleep(1)
            await here.same_as_primary()
        protecting.kill()
        here.destroy_primary()
        before = await _stores(here)
        into = folder("tf-bad-") / "data"
        try:
            # The key, and the passphrase.
            here.configure(key=OTHER_KEY)
            for verb in (["protect"], ["recover", "--into", into]):
                if verb[0] == "recover":
                    error = await here.refused(*verb)
                    assert error["exit_code"] == 2
                    assert "is not the one of the log" in error["error"]
            here.configure()
            (here.home / "pass").write_text("another passphrase\n")
            error = await here.refused("recover", "--into", into, "--passphrase-file", here.home / "pass")
            assert error["exit_code"] == 2
            assert "passphrase does not open" in error["error"]
            # Targets.
            for target, words in (
                ("0/1000028", "before the first recovery point"),
                ("F/0", "after the last recovery point"),
                ("2001-01-01T00:00:00Z", "before the first recovery point"),
                ("yesterday", "yesterday"),
            ):
                error = await here.refused("recover", "--into", into, "--to", target)
                assert error["exit_code"] == 2, error
                assert words in error["error"], error
            assert not into.exists() or not list(into.iterdir())
            # A folder that is somebody's.
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir(parents=True)
            (into / "precious").write_text("mine")
            error = await here.refused("recover", "--into", into)
            assert error["exit_code"] == 3
            assert [each.name for each in into.iterdir()] == ["precious"]
            shutil.rmtree(into)
            # Another major version than the snapshot's is all there is.
            text = here.config.read_text()
            here.config.write_text(text + '\n[recovery]\nbinaries = "/usr/lib/postgresql/15/bin"\n')
            if Path("/usr/lib/postgresql/15/bin/postgres").exists():
                error = await here.refused("recover", "--into", into, "--start", "--port", "1")
                assert "18" in error["error"]
                assert not into.exists() or not list(into.iterdir())
            here.config.write_text(text)
            assert await _stores(here) == before
            # Too small a disk: said, and the same command goes on where there is room.
            with small_disk(12) as disk:
                error = await here.refused("recover", "--into", disk / "data")
                assert error["exit_code"] in {1, 2}
                assert any(word in error["error"] for word in ("bytes free", "is full")), error
            # A damaged segment and a damaged pack on S1: the others' are used, and it is said.
            here.stores["S1"].kill()
            damaged = _damage(here.stores["S1"].data)
            assert damaged
            here.stores["S1"].start()
            await here.stores["S1"].ready()
            result = await here.recover("--passphrase-file", _passphrase(here))
            await people.judge()
            assert any("S1 answered 500 ObjectDamaged" in note for note in result["notes"]), result["notes"]
        finally:
            shutil.rmtree(into.parent)


def _passphrase(here: Site) -> Path:
    path = here.home / "right"
    path.write_text(f"{PASSPHRASE}\n")
    return path


def _damage(data: Path) -> list[Path]:
    """Flip a byte in the middle of every large object of a store."""
    large = [path for path in data.rglob("*") if path.is_file() and "journal" not in str(path).lower()]
    changed = []
    for path in large:
        size = path.stat().st_size
        if size < 10_000:
            continue
        with path.open("r+b") as file:
            file.seek(size // 2)
            byte = file.read(1)[0]
            file.seek(size // 2)
            file.write(bytes([byte ^ 0xFF]))
        changed.append(path)
    return changed


async def test_a_full_disk_on_one_store_costs_nothing_and_is_said() -> None:
    with small_disk(80) as disk:
        async with site(start=False) as here:
            full = here.stores["S2"]
            full.data, full.min_free = disk / "S2", 8 * 2**20
            for store in here.stores.values():
                store.start()
            for store in here.stores.values():
                await store.ready()
            protecting = await here.protect()
            async with team(here) as people:
                await people.progress()
                free = shutil.disk_usage(disk).free
                (disk / "somebody's film").write_bytes(bytes(free - 7 * 2**20))
                await people.progress(100)

                async def said() -> bool:
                    leader = await here.leader()
                    assert leader is not None
                    line = next(line for line in leader.stores if line.name == "S2")
                    return line.state == "silent" and "507" in line.reason and leader.state == "streaming"

                await until(said, "the full disk's name on status")
                await people.progress(50)
                (disk / "somebody's film").unlink()
                await here.whole()
                people.pause()
                here.stores["S1"].kill()  # what S2 missed is there
                await here.same_as_primary()
                assert protecting.code is None
