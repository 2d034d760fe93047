"""pgBackRest on the rig's first store: one repository, zst, two processes.

It speaks S3 over TLS only, which is why that store has a certificate here (bench/tls.py); pgBackRest checks it. Small
files are bundled (``repo1-bundle``), as its manual advises for object stores, the checkpoint is an immediate one, as
ours is, and WAL is archived into the same repository while it works, as ours is streamed to the stores meanwhile. All
else is as it comes: zst at its level 3, page checksums checked, as PostgreSQL checks them for us.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Final

from bench.child import Ran, run
from bench.rig import Rig
from threefold.kernel.errors import NotThere
from threefold.local.create import BUCKET
from threefold.postgres.binaries import find_binaries

MAJOR: Final = 15  # the newest that Debian 12's pgBackRest knows
STORE: Final = "S1"
_PROCESSES: Final = 2
_STANZA: Final = "bench"
_CONFIG = """\
[global]
repo1-type=s3
repo1-path=/pgbackrest
repo1-bundle=y
repo1-retention-full=9
repo1-s3-bucket={bucket}
repo1-s3-endpoint=localhost
repo1-s3-region=us-east-1
repo1-s3-uri-style=path
repo1-s3-key={key}
repo1-s3-key-secret={secret}
repo1-storage-port={port}
repo1-storage-ca-file={authority}
{cipher}
compress-type=zst
process-max={processes}
start-fast=y
log-level-console=warn
log-level-file=off
lock-path={folder}/lock
log-path={folder}/log
spool-path={folder}/spool

[{stanza}]
pg1-path={data}
pg1-socket-path={socket}
pg1-port={pg_port}
pg1-user={user}
"""


def find() -> str:
    """The program. Raises NotThere, also where the PostgreSQL is missing that both sides are measured on."""
    find_binaries(MAJOR)
    program = shutil.which("pgbackrest")
    if program is None:
        raise NotThere("pgbackrest is not installed", hint="on Debian and Ubuntu: apt-get install pgbackrest")
    return program


class Repository:
    """One repository on the store; the store is empty when it is begun."""

    def __init__(self, rig: Rig, program: str, *, encrypted: bool) -> None:
        self._rig, self._program = rig, program
        self.encrypted = encrypted
        self._folder = rig.base / ("pgbackrest-aes" if encrypted else "pgbackrest")
        self._config = self._folder / "pgbackrest.conf"
        self._popen = rig.server.account.popen()
        self._write()

    def _write(self) -> None:
        rig, home = self._rig, self._rig.home
        if rig.tls is None:
            raise ValueError("pgBackRest asks for a store with TLS")
        address = next(home.address(store) for store in home.settings.store if store.name == STORE)
        for folder in (self._folder, *(self._folder / name for name in ("lock", "log", "spool"))):
            folder.mkdir(mode=0o700)
            self._give(folder)
        cipher = f"repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={secrets.token_urlsafe(48)}"
        self._config.touch(mode=0o600)
        self._config.write_text(
            _CONFIG.format(
                bucket=BUCKET,
                key=home.secret(f"{STORE}.key"),
                secret=home.secret(f"{STORE}.secret"),
                port=address.rpartition(":")[2],
                authority=rig.tls.authority,
                cipher=cipher if self.encrypted else "",
                processes=_PROCESSES,
                folder=self._folder,
                stanza=_STANZA,
                data=home.primary,
                socket=rig.conninfo["host"],
                pg_port=rig.conninfo["port"],
                user=rig.conninfo["user"],
            )
        )
        self._give(self._config)

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self._rig.server.account.uid, self._rig.server.account.gid)

    def begin(self) -> None:
        """An empty repository, to which the primary archives from now on."""
        self._run("stanza-create")
        archive = f"{self._program} --config={self._config} --stanza={_STANZA} archive-push %p"
        self._archive_by(archive)

    def end(self) -> None:
        """Nothing is archived any more."""
        self._archive_by("/bin/true")

    def backup(self, kind: str = "full") -> Ran:
        return self._run("backup", f"--type={kind}")

    def sizes(self) -> dict[str, float]:
        """Of the last backup, in MB: the database's files, what of it was read, what was written for it."""
        told: list[dict[str, Any]] = json.loads(self._run("info", "--output=json").out)
        info = told[0]["backup"][-1]["info"]
        return {
            "mb": info["size"] / 1e6,
            "read_mb": info["delta"] / 1e6,
            "stored_mb": info["repository"]["delta"] / 1e6,
        }

    def restore(self, into: Path) -> Ran:
        """Into a new folder, which the server's user owns."""
        into.mkdir(mode=0o700)
        self._give(into)
        return self._run("restore", f"--pg1-path={into}")

    def version(self) -> str:
        return run([self._program, "version"]).out.split()[-1]

    def _archive_by(self, command: str) -> None:
        self._rig.sql(f"ALTER SYSTEM SET archive_command = '{command}'")
        self._rig.sql("SELECT pg_reload_conf()")

    def _run(self, verb: str, *options: str) -> Ran:
        command = [self._program, f"--config={self._config}", f"--stanza={_STANZA}", *options, verb]
        return run(command, popen=self._popen)
