"""`threefold init`: a folder with settings, keys and three storage servers' disks, ready for `threefold up`.

Whole or not at all: it is made beside its place and renamed. Secrets are made here, by the machine, and readable by
their owner alone.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from threefold.kernel import keyfile, wraps
from threefold.kernel.errors import BadInput, Refused
from threefold.kernel.hardening import keep_out_of_dumps
from threefold.kernel.keys import Keyring, new_master
from threefold.kernel.wraps import Passphrase
from threefold.local.home import CRM_USER, REPLICATION_USER
from threefold.storage_server.serve import create_bucket

STORES: Final = ("S1", "S2", "S3")
BUCKET: Final = "threefold"
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # no characters that look alike
_PASSPHRASE_LEAST: Final = 12

_TOML = """\
# Threefold: what is protected, where to, and with which key.
# Every key is described in docs/reference/configuration.md.

[system]
name = "crm"                      # names the log in the stores
dsn = "host=127.0.0.1 port={primary_port} user={user} dbname=postgres"
password = "file:secrets/threefold.password"
site = "this-machine"             # where the primary is
data_dir = "primary"
durability = "sync"               # a commit waits until it is on two of the three stores
max_lag = "1s"                    # only for durability = "async"

[keys]
master = "file:keys/master.key"   # without it, and without the passphrase, nothing can be recovered
wrapped = "file:keys/master.wrapped"

# Three storage servers of our own, for a first evening on one machine. Where it counts, take three providers:
# a disk or a provider that is lost must never be more than one of the three.
{stores}
[recovery]
site = "recovery"                 # where the database comes back
standby = "{standby}"                  # "warm": kept restored and ready
data_dir = "recovered"
listen = "127.0.0.1:{recovery_port}"

[failover]
policy = "{policy}"                # "automatic": the recovery site takes over by itself; "manual": it only tells

[crm]                             # our own CRM; any other CRM on PostgreSQL needs no such section
listen = "127.0.0.1:{crm_port}"
public_url = "http://localhost:{crm_port}"   # passkeys are bound to this host name
# Both sites' addresses: the one that takes writes is used, and while none does, the other is read.
dsn = "host=127.0.0.1,127.0.0.1 port={primary_port},{recovery_port} user={crm_user} dbname={crm_user}"
password = "file:secrets/crm.password"
site = "this-machine"
"""
_STORE_TOML = """
[[store]]
name = "{name}"
url = "s3://{bucket}"
endpoint = "http://127.0.0.1:{port}"
access_key_id = "file:secrets/{name}.key"
secret_access_key = "file:secrets/{name}.secret"
provider = "own-{name}"               # failure domain: who runs it
region = "this-machine"           # and where it stands
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the processes of one folder listen."""

    primary: int
    stores: tuple[int, int, int]
    crm: int
    recovery: int


@dataclass(frozen=True, slots=True)
class Made:
    """What was written."""

    folder: Path
    ports: Ports
    passphrase: str  # shown once; only its lock on the key is kept


def create_home(
    folder: Path,
    *,
    passphrase: str | None = None,
    ports: Ports | None = None,
    standby: str = "cold",
    policy: str = "confirm",
) -> Made:
    """``standby`` and ``policy`` as in threefold.toml, [recovery] and [failover].

    Raises Refused for a folder that has something in it, BadInput for a passphrase that is too short.
    """
    if passphrase is not None:
        check_passphrase(passphrase)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder} is not empty", hint="name a new folder; nothing was touched")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    passphrase = passphrase or new_passphrase()
    ports = ports or default_ports()
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _fill(building, passphrase, ports, standby, policy)
        # The folder itself is passable, so that the user whom PostgreSQL runs as reaches its own part of it.
        building.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return Made(folder, ports, passphrase)


def _fill(folder: Path, passphrase: str, ports: Ports, standby: str, policy: str) -> None:
    for name, mode in (("keys", 0o700), ("secrets", 0o700), ("storage", 0o700), ("run", 0o755), ("log", 0o755)):
        (folder / name).mkdir(mode=mode)
    keep_out_of_dumps()
    ring = Keyring(new_master(secrets.token_bytes))
    _write(folder / "keys/master.key", keyfile.encode(ring).strip())
    wrapped = wraps.wrap(ring, Passphrase(passphrase), salt=secrets.token_bytes(wraps.SALT_BYTES))
    _write(folder / "keys/master.wrapped", wrapped.decode())
    for user in ("postgres", REPLICATION_USER, CRM_USER):
        _write(folder / f"secrets/{user}.password", secrets.token_urlsafe(24))
    for name in STORES:
        create_bucket(folder / "storage" / name, BUCKET)
        _write(folder / f"secrets/{name}.key", f"{name}{secrets.token_hex(8)}")
        _write(folder / f"secrets/{name}.secret", secrets.token_urlsafe(32))
    stores = "".join(
        _STORE_TOML.format(name=name, bucket=BUCKET, port=port) for name, port in zip(STORES, ports.stores, strict=True)
    )
    (folder / "threefold.toml").write_text(
        _TOML.format(
            primary_port=ports.primary,
            user=REPLICATION_USER,
            crm_user=CRM_USER,
            crm_port=ports.crm,
            recovery_port=ports.recovery,
            standby=standby,
            policy=policy,
            stores=stores.lstrip(),
        )
    )


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(f"{text}\n")


def check_passphrase(passphrase: str) -> None:
    """Raises BadInput for one that is too short."""
    if len(passphrase) < _PASSPHRASE_LEAST:
        raise BadInput(
            f"the passphrase has {len(passphrase)} characters, at least {_PASSPHRASE_LEAST} are needed",
            hint="leave it out, and a strong one is made",
        )


def new_passphrase() -> str:
    """Six groups of five: 148 bits, and it can be read out over the telephone."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(6))


def default_ports() -> Ports:
    """Numbers that people remember, where they are free."""
    return Ports(
        _free_from(5440), (_free_from(9101), _free_from(9201), _free_from(9301)), _free_from(8080), _free_from(5540)
    )


def any_ports() -> Ports:
    """Free ones, for a folder that does not live long."""
    primary, first, second, third, crm, recovery = free_ports(6)
    return Ports(primary, (first, second, third), crm, recovery)


def free_ports(count: int) -> list[int]:
    """That nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _free_from(port: int) -> int:
    while True:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                port += 1
                continue
            return port
