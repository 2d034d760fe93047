"""The connection string of the primary (``system.dsn``), made ready for use.

It may hold a password, so no error ever repeats any of it: a slip of a quote or an ``@`` can turn a piece of the
password into what libpq takes for a host or a port, and libpq's own messages name those.
"""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from threefold.kernel.errors import BadInput

# A peer that vanished without a word (power, a cut link) is noticed by the kernel in about 25 seconds, while idle too.
_KEEPALIVES = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}


def checked_conninfo(dsn: str, **more: str) -> str:
    """``dsn`` with ``more``, which wins, and with TCP keepalives unless it sets them. Raises BadInput."""
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except psycopg.ProgrammingError:
        raise _malformed() from None
    ports = given.get("port", "").split(",")
    if "@" in given.get("host", "") or not all(port == "" or port.isdecimal() for port in ports):
        raise _malformed()
    return make_conninfo(**{**_KEEPALIVES, **given, **more})


def _malformed() -> BadInput:
    return BadInput(
        "system.dsn is not a connection string",
        hint='it reads like "host=db.example user=threefold dbname=postgres"; values with spaces stand in single '
        "quotes, and in a URL the characters @ : / % of a password are percent-encoded",
    )
