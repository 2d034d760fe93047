"""Passwords: the fallback for who has no passkey, and only ever from an enrolled device.

argon2id, in a thread, because it is slow on purpose. A wrong password, an unknown person and another's device are
answered alike and after the same work. Failures are counted in the database, by whose device tried which address, and
whether or not there is such a person: so nobody locks somebody else out. An attempt is counted *before* it is judged,
so that fifty at once are fifty and not one.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from threefold.connectivity.refusals import BadCredentials, TooMany
from threefold.crm.desk import Connection, Row, Tx
from threefold.crm.model.actor import SYSTEM
from threefold.crm.model.errors import Invalid
from threefold.crm.sql.database import Database

LEAST: Final = 12
MOST: Final = 256
_HASHER: Final = PasswordHasher()  # RFC 9106's second choice: 64 MiB, three passes
_WORKERS: Final = ThreadPoolExecutor(2, "passwords")  # each takes 64 MiB and a core while it works
_WRONG: Final = "that e-mail address and password do not belong together on this device"

# Three for free, then 4, 8, 16 ... seconds up to a quarter of an hour; a day without any forgets them.
_COUNT: Final = """
    INSERT INTO edge.attempts AS a (account, failures, wait_until) VALUES (%(account)s, 1, now())
    ON CONFLICT (account) DO UPDATE SET
        failures = CASE WHEN a.tried_at < now() - interval '1 day' THEN 1 ELSE a.failures + 1 END,
        tried_at = now(),
        wait_until = now() + make_interval(secs => CASE
            WHEN a.tried_at < now() - interval '1 day' OR a.failures < 3 THEN 0
            ELSE least(900, power(2, least(a.failures, 15) - 1)) END)
    WHERE a.wait_until <= now()
    RETURNING failures"""


def acceptable(password: str) -> str:
    """Length is what counts; no rules about digits. Raises Invalid."""
    if len(password) < LEAST:
        raise Invalid("the password is too short", {"password": f"at least {LEAST} characters; a sentence is good"})
    if len(password) > MOST:
        raise Invalid("the password is too long", {"password": f"at most {MOST} characters"})
    if len(set(password)) < 5:
        raise Invalid("the password is too simple", {"password": "use more than four different characters"})
    return password


async def hashed(password: str) -> str:
    """Outside of any transaction: it takes a tenth of a second."""
    return await asyncio.get_running_loop().run_in_executor(_WORKERS, _HASHER.hash, acceptable(password))


async def keep(tx: Tx, user: UUID, digest: str) -> None:
    await tx.connection.execute(
        """INSERT INTO edge.passwords (user_id, hash) VALUES (%s, %s)
           ON CONFLICT (user_id) DO UPDATE SET hash = excluded.hash, changed_at = now()""",
        (user, digest),
    )


async def of_user(connection: Connection, user: UUID) -> Row | None:
    cursor = await connection.execute("SELECT hash, changed_at FROM edge.passwords WHERE user_id = %s", (user,))
    return await cursor.fetchone()


async def check(database: Database, email: str, password: str, owner: UUID) -> None:
    """That this is the password of ``owner``, whose device asks. Raises BadCredentials, TooMany."""
    account = hashlib.sha256(owner.bytes + email.strip().lower().encode(errors="replace")).digest()
    async with database.write(SYSTEM) as tx:
        counted = await tx.connection.execute(_COUNT, {"account": account})
        if await counted.fetchone() is None:
            late = await tx.connection.execute(
                "SELECT extract(epoch FROM wait_until - now())::float8 AS wait FROM edge.attempts WHERE account = %s",
                (account,),
            )
            row = await late.fetchone()
            raise TooMany(
                "too many wrong passwords", max(1.0, row["wait"] if row else 1.0), hint="wait, or use your passkey"
            )
    async with database.read() as connection:
        found = await connection.execute(
            """SELECT p.hash FROM crm.users u JOIN edge.passwords p ON p.user_id = u.id
               WHERE u.id = %s AND lower(u.email) = lower(%s) AND u.active AND u.deleted_at IS NULL""",
            (owner, email.strip().replace("\0", "")),
        )
        row = await found.fetchone()
    if not await matches(row["hash"] if row else await _nobodys(), password) or row is None:
        raise BadCredentials(_WRONG, hint="use your passkey, or ask an administrator for an invitation")
    async with database.write(SYSTEM) as tx:
        await tx.connection.execute("DELETE FROM edge.attempts WHERE account = %s", (account,))


async def matches(digest: str, password: str) -> bool:
    return await asyncio.get_running_loop().run_in_executor(_WORKERS, _matches, digest, password)


def _matches(digest: str, password: str) -> bool:
    if len(password) > MOST:
        return False
    try:
        return _HASHER.verify(digest, password)
    except (VerificationError, InvalidHashError):
        return False


_nobody: list[str] = []


async def _nobodys() -> str:
    """The hash of what nobody typed: judging it takes as long as judging a real one."""
    if not _nobody:
        _nobody.append(await hashed("nobody ever typed this"))
    return _nobody[0]
