"""A rotation together with what else changes a log: switches between sites, and replaced stores. Real processes.

Each host has a key file of its own, as in docs/howto/keep-the-key.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pg import folder
from tests.protect_process import MASTER, PASSPHRASE, Failed, Process, Site, site, team
from tests.two_sites import AWAY, HOME, TwoSites, two_sites

from threefold.kernel import keyfile
from threefold.kernel.keys import Keyring
from threefold.kernel.wraps import Passphrase, wrap

pytestmark = pytest.mark.long


def lock_the_key(here: Site) -> None:
    """The stores get the master key, locked with the passphrase."""
    path = here.home / "wrapped.key"
    path.touch(mode=0o600)
    path.write_bytes(wrap(Keyring(MASTER), Passphrase(PASSPHRASE), salt=b"0123456789abcdef"))


async def command(here: Site, *arguments: str | Path, within: float = 90, **env: str) -> dict[str, Any]:
    """A group's verb (`keys ...`, `store ...`): its result."""
    process = Process(
        ["-m", "threefold", *arguments, "--config", here.config, "--json"],
        here.home / f"command-{len(here.processes)}.log",
        {**here.environment(), **env},
    )
    here.processes.append(process)
    if await process.ended(within) != 0:
        raise Failed(f"{arguments}: {process.said}")
    lines = [json.loads(line) for line in process.said.splitlines() if line.startswith("{")]
    return next(line for line in reversed(lines) if line.get("type") == "result")


async def shares(here: Site, name: str) -> list[Path]:
    await command(here, "keys", "split", "--to", here.home / name)
    return sorted((here.home / name).iterdir())


def paper(files: list[Path]) -> list[str | Path]:
    """Two of the three."""
    return ["--share-file", files[0], "--share-file", files[2]]


async def stopped(process: Process) -> None:
    process.signal(15)
    await process.ended()


async def rotated(here: Site, files: list[Path], protecting: Process, *, others: list[Path] | None = None) -> Process:
    """A new key in force, the other hosts' key files brought along before; the DRaaS server begins an epoch with it."""
    before = keyfile.decode((here.home / "master.key").read_bytes()).key_id
    await command(here, "keys", "rotate", "--key", *paper(files), THREEFOLD_PASSPHRASE=PASSPHRASE)
    for other in others or []:
        other.write_bytes((here.home / "master.key").read_bytes())
    await command(here, "keys", "rotate", "--activate")
    await stopped(protecting)
    protecting = await here.protect()
    ring = keyfile.decode((here.home / "master.key").read_bytes())
    assert ring.key_id != before
    return protecting


async def recovered(here: Site, *opener: str | Path, stores: tuple[str, str]) -> None:
    """From two stores, without a key file; the primary of now is gone."""
    for name, store in here.stores.items():
        if name not in stores and store.process is not None:
            store.kill()
    for name in ("master.key", "wrapped.key"):
        (here.home / name).rename(here.home / f"{name}.away")
    await here.recover(*opener, into=folder("tf-keys-") / "data")
    for name in ("master.key", "wrapped.key"):
        (here.home / f"{name}.away").rename(here.home / name)


class Eu:
    """The recovery site's host: its own key file and settings."""

    def __init__(self, here: TwoSites) -> None:
        self.here = here
        self.key = here.here.home / "eu.key"
        self.key.touch(mode=0o600)
        self.key.write_bytes((here.here.home / "master.key").read_bytes())
        self.config = here.here.home / "eu.toml"
        self.config.write_text(here.here.config.read_text().replace("file:master.key", "file:eu.key"))

    def run(self, *arguments: str | Path, log: str = "eu") -> Process:
        now, self.here.here.config = self.here.here.config, self.config
        try:
            return self.here.here.run(*arguments, log=log)
        finally:
            self.here.here.config = now

    async def agent(self) -> Process:
        process = self.run("standby", "--site", AWAY, log="agent-eu")
        await self.here.ready(AWAY, process=process)
        return process


async def test_a_key_is_rotated_beside_a_warm_standby_and_both_switches_go_on_under_it() -> None:
    async with two_sites(protected=False) as here:
        lock_the_key(here.here)
        here.configure()
        protecting = await here.here.protect()
        await here.here.done("snapshot")
        eu = Eu(here)
        agent = await eu.agent()
        files = await shares(here.here, "shares")
        async with team(here.here) as clients:
            await clients.progress(30)
            await command(here.here, "keys", "rotate", "--key", *paper(files), THREEFOLD_PASSPHRASE=PASSPHRASE)
            await clients.progress(20)
            eu.key.write_bytes((here.here.home / "master.key").read_bytes())
            await stopped(agent)
            agent = await eu.agent()
            await command(here.here, "keys", "rotate", "--activate")
            await stopped(protecting)
            protecting = await here.here.protect()
            await clients.progress(30)
            await here.ready(AWAY, process=agent)
            # The recovery site's host has the key, and not the word yet that it is in force: it takes over anyway.
            here.here.primary.server.kill()
            await here.here.done("failover", "--yes", "--until", "serving")
            await here.writes()
            here.move_to(AWAY)
            await clients.progress(30)
            switch = await here.step("protected")
            assert switch.target == AWAY
            assert agent.code is None, agent.said
            # Back, as planned: the old primary becomes a standby first.
            home = here.here.run("standby", "--site", HOME, "--rebuild", log="agent-home")
            await here.ready(HOME, process=home)
            await here.here.done("failback", "--until", "serving")
            here.move_to(HOME)
            await clients.progress(30)
            await here.step("protected", number=2)
            # And once more, while both agents run: the next key, the same way.
            protecting = await rotated(here.here, files, protecting, others=[eu.key])
            await clients.progress(30)
            await stopped(agent)
            await stopped(home)
            acked = len(clients.acked)
            await here.here.done("snapshot")
            verified = await here.here.done("verify", "--deep")
            assert verified["problems"] == []
            await clients.progress(20)
            await clients.stop()
        assert acked
        for process in here.here.processes:
            process.kill()
        here.here.destroy_primary()
        here.cluster(AWAY).server.kill()
        await recovered(here.here, *paper(files), stores=("S1", "S3"))
        await clients.judge()


async def test_a_host_of_the_recovery_site_that_was_forgotten_says_so_and_takes_over_once_it_has_the_key() -> None:
    async with two_sites(protected=False) as here:
        lock_the_key(here.here)
        here.configure()
        protecting = await here.here.protect()
        await here.here.done("snapshot")
        eu = Eu(here)
        agent = await eu.agent()
        files = await shares(here.here, "shares")
        async with team(here.here) as clients:
            await clients.progress(20)
            protecting = await rotated(here.here, files, protecting)  # nobody tells eu
            await clients.progress(20)
            assert await agent.ended() == 2, agent.said
            assert "goes on under key" in agent.said
            assert "damage" not in agent.said
            assert protecting.code is None
            stale = eu.run("standby", "--site", AWAY, log="stale")
            assert await stale.ended() == 2, stale.said
            assert "goes on under key" in stale.said
            await clients.progress(20)
            eu.key.write_bytes((here.here.home / "master.key").read_bytes())
            agent = await eu.agent()
            here.here.primary.server.kill()
            await here.here.done("failover", "--yes", "--until", "serving")
            await here.writes()
            here.move_to(AWAY)
            await clients.progress(20)
            await clients.stop()
            await clients.judge()


async def test_a_store_is_replaced_after_a_rotation_and_a_key_rotated_after_that() -> None:
    async with site() as here:
        lock_the_key(here)
        here.configure()
        protecting = await here.protect()
        files = await shares(here, "shares")
        async with team(here) as people:
            await people.progress(20)
            await here.done("snapshot")
            protecting = await rotated(here, files, protecting)
            await people.progress(20)
            protecting = await _replaced(here, protecting, "S3", "S4", keep=("S1", "S2"))
            await people.progress(20)
            good = await command(here, "keys", "verify", *paper(files), THREEFOLD_PASSPHRASE=PASSPHRASE)
            assert {each["store"] for each in good["proofs"]} == {"S1", "S2", "S4"}
            assert {each["found"] for each in good["proofs"]} == {"opens"}, good["proofs"]
            protecting = await rotated(here, files, protecting)
            await people.progress(20)
            await here.done("snapshot")
            protecting = await _replaced(here, protecting, "S1", "S5", keep=("S2", "S4"))
            await people.progress(20)
            files = await shares(here, "new-shares")
            await here.whole()
            verified = await here.done("verify", "--deep")
            assert verified["problems"] == []
            report = await command(here, "store", "scrub")
            assert report["findings"] == [], report["findings"]
            await people.progress(20)
            await people.stop()
        for process in here.processes:
            process.kill()
        here.destroy_primary()
        (here.home / "phrase").write_text(f"{PASSPHRASE}\n")
        (here.home / "phrase").chmod(0o600)
        await recovered(here, "--passphrase-file", here.home / "phrase", stores=("S4", "S5"))
        await people.judge()
        here.primary.server.kill()
        here.stores["S2"].start()
        await here.stores["S2"].ready()
        await recovered(here, *paper(files), stores=("S2", "S5"))
        await people.judge()


async def _replaced(here: Site, protecting: Process, old: str, new: str, *, keep: tuple[str, str]) -> Process:
    await here.add_store(new)
    names = sorted((*keep, old))
    here.ports = {name: here.stores[name].port for name in (*names, new)}
    url = f'url = "s3://crm-dr/threefold"\nendpoint = "http://127.0.0.1:{here.ports[new]}"'
    _configured(here, {new: f'{url}\nreplaces = "{old}"'})
    protecting = await _again(here, protecting)
    try:
        replaced = await command(here, "store", "replace", old)
    except Failed as failed:
        raise Failed(f"{failed}\n{protecting.code}: {protecting.said[-3000:]}") from failed
    assert replaced["stores"] == sorted((*keep, new))
    here.ports = {name: here.stores[name].port for name in (*keep, new)}
    _configured(here)
    protecting = await _again(here, protecting)
    here.stores[old].kill()
    return protecting


def _configured(here: Site, stores: dict[str, str] | None = None) -> None:
    """New settings, and the key file as it is."""
    ring = (here.home / "master.key").read_bytes()
    here.configure(stores=stores)
    (here.home / "master.key").write_bytes(ring)


async def _again(here: Site, protecting: Process) -> Process:
    await stopped(protecting)
    return await here.protect()
