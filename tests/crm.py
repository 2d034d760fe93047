"""A CRM's database for tests: a real PostgreSQL with the schema, and `Database` on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg

from tests.pg import Cluster, cluster
from threefold.crm.desk import Row
from threefold.crm.model.actor import SYSTEM, Actor, Role
from threefold.crm.model.kinds import KINDS
from threefold.crm.records import records
from threefold.crm.sql.database import Database
from threefold.crm.sql.migrate import migrate
from threefold.kernel.clock import SystemClock

EMPLOYEE = Actor(Role.EMPLOYEE, user=UUID(int=1), device=UUID(int=2), name="Emma")


@dataclass
class Crm:
    pg: Cluster
    database: Database

    async def create(self, kind: str, actor: Actor = SYSTEM, /, **values: Any) -> Row:
        async with self.database.write(actor) as tx:
            return await records.create(tx, KINDS[kind], values)

    async def update(self, kind: str, row: Row, actor: Actor = SYSTEM, /, **changes: Any) -> Row:
        async with self.database.write(actor) as tx:
            return await records.update(tx, KINDS[kind], row["id"], changes, row["version"])

    async def delete(self, kind: str, id_: UUID, version: int | None = None) -> None:
        async with self.database.write(SYSTEM) as tx:
            await records.delete(tx, KINDS[kind], id_, version)

    async def restore(self, kind: str, id_: UUID) -> Row:
        async with self.database.write(SYSTEM) as tx:
            return await records.restore(tx, KINDS[kind], id_)

    async def get(self, kind: str, id_: UUID, actor: Actor = SYSTEM, *, deleted: bool = False) -> Row:
        async with self.database.read() as connection:
            return await records.get(connection, actor, KINDS[kind], id_, deleted=deleted)

    async def contact(self, **values: Any) -> Row:
        return await self.create("contacts", full_name="Ada", email=f"{uuid4().hex}@example.com", **values)


@asynccontextmanager
async def crm(
    major: int = 18, *, settings: Mapping[str, str] | None = None, size: int = 10, wait: float = 5.0
) -> AsyncIterator[Crm]:
    async with cluster(major, settings=settings) as pg:
        with psycopg.connect(pg.dsn()) as connection:
            migrate(connection)
        async with Database(pg.dsn(), SystemClock(), size=size, wait=wait) as database:
            yield Crm(pg, database)


def customer(contact: UUID) -> Actor:
    return Actor(Role.CUSTOMER, user=uuid4(), contact=contact, name="A customer")
