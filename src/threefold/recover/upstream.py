"""How a standby reaches the primary that it follows, and how we reach the standby ourselves.

The password goes into a file beside the data folder, readable for PostgreSQL alone: in ``postgresql.auto.conf`` it
would come into every snapshot that is taken of the standby, and stay there when the role has another one.
"""

from __future__ import annotations

import os
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from threefold.postgres.binaries import Account
from threefold.postgres.conninfo import checked_conninfo
from threefold.recover.destination import sync_folder

_EVERY_ADDRESS = {"0.0.0.0", "*", "::"}  # noqa: S104 - what others listen on
# Of a client, and none of a walreceiver's business.
_NOT_FOR_WAL = ("password", "passfile", "dbname", "replication", "fallback_application_name", "target_session_attrs")
_NOT_FOR_US = ("hostaddr", "target_session_attrs", "load_balance_hosts", "passfile", "service", "channel_binding")


def application_name(site: str) -> str:
    """Never the one that commits wait for."""
    return f"threefold_standby_{site}"


def primary_conninfo(conninfo: str, *, site: str, passfile: Path, owner: Account) -> str:
    """For the walreceiver, its password put into ``passfile``. Raises BadInput for what is no conninfo."""
    given = _parts(checked_conninfo(conninfo))
    password = given.get("password")
    more = {"application_name": application_name(site)}
    if password is not None:
        _write_passfile(passfile, password, owner)
        more["passfile"] = str(passfile)
    kept = {name: value for name, value in given.items() if name not in _NOT_FOR_WAL}
    return make_conninfo(**{"connect_timeout": "5", **kept, **more})


def own_conninfo(login: str, *, host: str, port: int, socket_dir: Path | None) -> str:
    """The standby's own address, with ``login``'s role and password."""
    given = {name: value for name, value in _parts(checked_conninfo(login)).items() if name not in _NOT_FOR_US}
    at = str(socket_dir) if not host and socket_dir else "127.0.0.1" if not host or host in _EVERY_ADDRESS else host
    own = {"host": at, "port": str(port), "sslmode": "prefer", "application_name": "threefold standby"}
    return make_conninfo(**{**given, **own, "connect_timeout": "5"})


def hba_lines(login: str) -> str:
    """Lets ``login``'s role in from this machine, where it has a password: the primary may have named others only.

    With ``md5``, PostgreSQL asks for whichever kind of password the role has.
    """
    given = _parts(checked_conninfo(login))
    if "password" not in given or "user" not in given:
        return ""
    role = given["user"].replace('"', '""')
    return f'host all "{role}" samehost md5\nhost replication "{role}" samehost md5\n'


def _parts(conninfo: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}


def _write_passfile(path: Path, password: str, owner: Account) -> None:
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.uid, owner.gid)
        file.write(f"*:*:*:*:{escaped}\n")
        file.flush()
        os.fsync(descriptor)
    new.replace(path)
    sync_folder(path.parent)
