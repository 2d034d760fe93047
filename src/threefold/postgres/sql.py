"""Questions to a database in SQL: read-only, with a time limit, errors told as ours.

For the preflight and for verifying a recovered copy. It never changes anything (invariant 9): every session is set
read-only, whatever the role may do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

from threefold.kernel.errors import Unavailable
from threefold.postgres import refusals
from threefold.postgres.conninfo import checked_conninfo

Row = dict[str, Any]


class SqlLink:
    """One read-only session."""

    def __init__(self, connection: psycopg.AsyncConnection[Row], timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    async def rows(self, query: str, *params: object) -> list[Row]:
        try:
            async with asyncio.timeout(self._timeout_s):
                cursor = await self._connection.execute(query.encode(), params)
                return await cursor.fetchall()
        except psycopg.Error as error:
            text = error.diag.message_primary or str(error)
            raise refusals.of_command("asking the database", error.sqlstate or "", text) from None
        except TimeoutError:
            raise Unavailable(f"the database did not answer a question within {self._timeout_s:g} s") from None


@asynccontextmanager
async def reading(
    dsn: str, *, dbname: str | None = None, application_name: str = "threefold check", timeout_s: float = 30
) -> AsyncIterator[SqlLink]:
    """A read-only session on ``dsn``, or on another database of the same server."""
    more = {"application_name": application_name} | ({"dbname": dbname} if dbname else {})
    conninfo = checked_conninfo(dsn, **more)
    try:
        async with asyncio.timeout(timeout_s):
            connection = await psycopg.AsyncConnection[Row].connect(conninfo, autocommit=True, row_factory=dict_row)
    except psycopg.Error as error:
        raise refusals.of_connection(str(error)) from None
    except TimeoutError:
        raise Unavailable(f"the database did not answer within {timeout_s:g} s") from None
    async with connection:
        link = SqlLink(connection, timeout_s)
        await link.rows("SELECT set_config('default_transaction_read_only', 'on', false)")
        await link.rows("SELECT set_config('search_path', 'pg_catalog', false)")
        yield link
