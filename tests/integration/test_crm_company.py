"""The sample company is one that somebody could have worked at until a minute ago."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from tests.crm import crm

from threefold.crm.datalog import log
from threefold.crm.sample.company import SMALL, load_company
from threefold.kernel.errors import Refused

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


async def test_it_is_of_today_and_goes_into_an_empty_crm_only() -> None:
    async with crm() as there:

        def load() -> dict[str, int]:
            with psycopg.connect(there.pg.dsn()) as connection:
                return load_company(connection, 7, NOW).rows

        rows = await asyncio.to_thread(load)
        assert rows["contacts"] == SMALL.contacts
        with pytest.raises(Refused, match="not empty"):
            await asyncio.to_thread(load)

        # An open case's clocks began when it was reported, and that was lately.
        open_cases = await there.pg.sql(
            "SELECT created_at, first_response_due_at, first_responded_at, updated_at FROM crm.queries"
            " WHERE status IN ('new', 'open', 'waiting')"
        )
        assert len(open_cases) > 20
        for created, due, answered, updated in open_cases:
            assert NOW - timedelta(days=9) < created <= updated <= NOW
            assert created < due <= created + timedelta(days=1)
            assert answered is None or created < answered < due

        async with there.database.read() as connection:
            assert (await log.verify(connection)).sound
