"""The folder that `threefold init` makes: what lies where.

::

    threefold.toml          the settings; everything else here is named by them
    keys/master.key         encrypts everything that leaves this machine (base64, 32 bytes)
    keys/master.wrapped     the same, locked with the passphrase: goes into every store
    secrets/                passwords and storage keys, a file each
    storage/S1 S2 S3        the disks of the three storage servers
    primary/                PostgreSQL
    crm/                    the CRM's erasure ledger: it must not lie in the database
    run/S1.pid ...          process ids, for whoever wants to kill one
    log/                    what PostgreSQL says
    primary.log             what it said while a lost primary was got back
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from threefold.kernel.errors import BadInput
from threefold.settings import Settings, Store, load

SUPERUSER = "postgres"
REPLICATION_USER = "threefold"
CRM_USER = "crm"  # and the database that it owns


@dataclass(frozen=True, slots=True)
class Home:
    """One such folder."""

    folder: Path
    settings: Settings

    @classmethod
    def at(cls, folder: Path, *, new_store: str | None = None) -> Home:
        """``new_store``: one of which the folder may be missing, because it lost its disk.

        Raises BadInput where `threefold init` did not make it, or another store's folder is missing.
        """
        config = folder / "threefold.toml"
        if not config.exists():
            raise BadInput(f"there is no threefold.toml in {folder}", hint=f"make one: threefold init {folder}")
        home = cls(folder.resolve(), load(config))
        names = [store.name for store in home.settings.store]
        if new_store is not None and new_store not in names:
            raise BadInput(f"there is no store {new_store}", hint=f"the settings name {', '.join(names)}")
        for store in home.settings.store:
            if store.endpoint is None or (store.name != new_store and not home.storage(store.name).is_dir()):
                raise BadInput(
                    f"store {store.name} is not one that `threefold up` can run: {home.storage(store.name)} is missing",
                    hint=f"did it lose its disk? `threefold up {shlex.quote(str(folder))} --new-store {store.name}` "
                    "begins it anew, and fills it; stores elsewhere need no `up`: use `threefold protect` with them",
                )
        return home

    @property
    def config(self) -> Path:
        return self.folder / "threefold.toml"

    @property
    def primary(self) -> Path:
        return self.folder / "primary"

    @property
    def primary_port(self) -> int:
        return int(conninfo_to_dict(self.settings.system.dsn).get("port") or 5432)

    def storage(self, name: str) -> Path:
        return self.folder / "storage" / name

    def secret(self, name: str) -> str:
        """Of the files in secrets/."""
        return self.settings.secret(f"file:secrets/{name}")

    def address(self, store: Store) -> str:
        """HOST:PORT of one of our storage servers."""
        return urlsplit(store.endpoint or "").netloc

    def superuser_conninfo(self, dbname: str = "postgres") -> str:
        """To log into the primary as its owner; for psycopg, never for an argument list."""
        return make_conninfo(
            host="127.0.0.1",
            port=self.primary_port,
            user=SUPERUSER,
            password=self.secret("postgres.password"),
            dbname=dbname,
        )

    def crm_conninfo(self) -> str:
        """To the CRM's database as the CRM does; for psycopg, never for an argument list."""
        return make_conninfo(
            host="127.0.0.1",
            port=self.primary_port,
            user=CRM_USER,
            password=self.secret("crm.password"),
            dbname=CRM_USER,
        )

    # --- processes ---

    def log_file(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def pid_file(self, name: str) -> Path:
        return self.folder / "run" / f"{name}.pid"

    def note_process(self, name: str, pid: int) -> None:
        """For people and scripts; nothing of ours rests on it."""
        self.pid_file(name).write_text(f"{pid}\n")
