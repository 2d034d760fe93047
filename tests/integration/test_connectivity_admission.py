"""A proof is good for one request, and a request whose answer from the database was lost is still that one.

The sessions and the statements are real; of a connection the answer to one statement is held back, as by a network,
after the server has committed it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from tests.edge_client import Client
from tests.edge_server import Crm, edge_crm
from tests.pair import pair

from threefold.connectivity import dpop
from threefold.connectivity.admission import Admission
from threefold.connectivity.app import edge_set
from threefold.connectivity.dpop import Proof
from threefold.connectivity.edge import Edge
from threefold.connectivity.headers import Origin
from threefold.connectivity.refusals import BadProof
from threefold.crm.sql.database import Database
from threefold.crm.sql.migrate import crm_set, migrate
from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Unavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crm() -> AsyncIterator[Crm]:
    async with edge_crm() as made:
        yield made


class Line:
    """Connections of one edge; `lose` or `hold` the answer to the next statement that spends."""

    def __init__(self, crm: Crm, options: str = "") -> None:
        self._dsn = make_conninfo(crm.cluster.dsn(), options=options)
        self.fault = ""
        self.refuses = False
        self.pids: list[int] = []
        self.committed = asyncio.Event()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The server's process of the newest connection."""
        hung = self.pids[-1]
        os.kill(hung, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(hung, signal.SIGCONT)

    async def connect(self) -> Any:
        line = self
        if self.refuses:
            raise psycopg.OperationalError("connection refused")

        class Connection(psycopg.AsyncConnection[Any]):
            async def execute(self, query: Any, *args: Any, **more: Any) -> Any:
                cursor = await super().execute(query, *args, **more)
                if "INTO edge.proofs" in query and (fault := line.fault):
                    line.fault = ""
                    line.committed.set()
                    if fault == "hold":
                        await asyncio.sleep(60)
                    await self.close()
                    raise psycopg.OperationalError("the connection is lost")
                return cursor

        made = await Connection.connect(self._dsn, autocommit=True, row_factory=dict_row)
        self.pids.append(made.info.backend_pid)
        return made


@asynccontextmanager
async def admission(line: Line) -> AsyncIterator[Admission]:
    made = Admission(line.connect, SystemClock(), timedelta(days=3))
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def proof_of(client: Client) -> Proof:
    address = f"{client.origin}/t/me"
    return dpop.check(client.key.proof("GET", address), method="GET", address=address, now=datetime.now(UTC))


async def let_in(edge: Admission, client: Client | None, proof: Proof) -> None:
    if client is None:
        await edge.spend(proof)
    else:
        assert client.token
        assert (await edge.admit(client.token, proof)).email == "ada@example.com"


@pytest.mark.parametrize("signed_in", [True, False])
@pytest.mark.parametrize("fault", ["lose", "hold"])
async def test_a_request_whose_answer_was_lost_is_not_its_own_replay(crm: Crm, fault: str, signed_in: bool) -> None:
    ada = await crm.administrator()
    client, proof, line = ada if signed_in else None, proof_of(ada), Line(crm)
    async with admission(line) as edge, admission(Line(crm)) as another:
        await let_in(edge, client, proof_of(ada))  # so that there is a connection
        line.fault = fault
        asking = asyncio.create_task(let_in(edge, client, proof))
        await asyncio.wait_for(line.committed.wait(), 5)
        edge.turn()
        await asyncio.wait_for(asking, 5)
        for door in (edge, another):
            with pytest.raises(BadProof, match="used before"):
                await let_in(door, client, proof)
    async with admission(Line(crm)) as started_again:
        with pytest.raises(BadProof, match="used before"):
            await let_in(started_again, client, proof)


async def test_while_an_answer_is_lost_another_with_the_same_proof_is_refused(crm: Crm) -> None:
    """The thief asks between the two tries; and the other way round, when the thief was first, the owner is refused."""
    ada = await crm.administrator()
    proof, line, theirs = proof_of(ada), Line(crm), proof_of(ada)
    async with admission(line) as edge, admission(Line(crm)) as another:
        line.fault = "hold"
        asking = asyncio.create_task(edge.spend(proof))
        await asyncio.wait_for(line.committed.wait(), 5)
        with pytest.raises(BadProof, match="used before"):
            await another.spend(proof)
        edge.turn()
        await asyncio.wait_for(asking, 5)

        await another.spend(theirs)
        line.fault, line.committed = "lose", asyncio.Event()
        with pytest.raises(BadProof, match="used before"):
            await edge.spend(theirs)
        assert line.committed.is_set()


async def test_who_asks_while_the_primary_dies_is_let_in_at_the_standby(crm: Crm) -> None:
    """Within the second before anybody has noticed, too: nobody sees an error who only wanted to look."""
    ada = crm.client()
    async with pair() as two:
        with psycopg.connect(two.primary.dsn()) as connection:
            migrate(connection, crm_set(), edge_set())
        async with Database(two.dsn(), SystemClock()) as database:
            edge = Edge(database, SystemClock(), Origin(ada.origin, "localhost:8000", "localhost"))
            async with edge.running():
                await database.watch.look()
                await edge.admission.spend(before := proof_of(ada))
                await two.caught_up()
                two.primary.server.kill()
                began = time.monotonic()
                while time.monotonic() - began < 2:
                    await edge.admission.spend(meanwhile := proof_of(ada))
                    for known in (before, meanwhile):
                        with pytest.raises(BadProof, match="used before"):
                            await edge.admission.spend(known)
                await two.promote()
                await edge.admission.spend(proof_of(ada))
                spent = {row[0] for row in await two.standby.sql("SELECT id FROM edge.proofs")}
                assert {before.spent_id, meanwhile.spent_id} <= spent


@pytest.mark.parametrize("noticed", [True, False], ids=["the watch tells", "the connection breaks"])
async def test_what_a_switch_lost_is_spent_anew_before_anybody_is_let_in(crm: Crm, noticed: bool) -> None:
    """Proofs do not wait for two stores: those of the last moment may be missing where the database is now."""
    ada, line = await crm.administrator(), Line(crm)
    async with admission(line) as edge, admission(Line(crm)) as another:
        await edge.spend(proof := proof_of(ada))
        await crm.cluster.sql("DELETE FROM edge.proofs")
        if noticed:
            edge.turn()
            for _ in range(100):
                if await crm.cluster.sql("SELECT 1 FROM edge.proofs WHERE id = %s", (proof.spent_id,)):
                    break
                await asyncio.sleep(0.02)
        else:
            line.fault = "lose"
            await edge.spend(proof_of(ada))
        with pytest.raises(BadProof, match="used before"):
            await another.spend(proof)


async def test_a_server_that_hangs_is_left_when_the_database_moved(crm: Crm) -> None:
    """psycopg would ask it to cancel, and wait for ten seconds."""
    ada, line = await crm.administrator(), Line(crm)
    async with admission(line) as edge:
        await edge.spend(proof_of(ada))
        with line.hanging():
            began = time.monotonic()
            asking = asyncio.create_task(edge.spend(proof_of(ada)))
            await asyncio.sleep(0.3)
            edge.turn()
            await asyncio.wait_for(asking, 5)
            assert time.monotonic() - began < 2


async def test_a_server_that_hangs_is_waited_for_no_longer_than_said_and_holds_no_end_up(crm: Crm) -> None:
    ada, line = await crm.administrator(), Line(crm)
    async with admission(line) as edge:
        await edge.spend(proof_of(ada))
        with line.hanging():
            began = time.monotonic()
            with pytest.raises(Unavailable, match="does not answer"):
                await edge.spend(proof_of(ada))
            assert 7 < time.monotonic() - began < 10
    with ExitStack() as until_told:
        async with admission(line) as edge:
            await edge.spend(proof_of(ada))
            until_told.enter_context(line.hanging())
            asking = asyncio.create_task(edge.spend(proof_of(ada)))
            await asyncio.sleep(0.3)
            began = time.monotonic()
        assert time.monotonic() - began < 2
    with pytest.raises(Unavailable, match="stopping"):
        await asking


async def test_what_a_switch_lost_is_spent_anew_though_nobody_asks_and_the_server_comes_late(crm: Crm) -> None:
    ada, line = await crm.administrator(), Line(crm)
    async with admission(line) as edge:
        await edge.spend(proof := proof_of(ada))
        await crm.cluster.sql("DELETE FROM edge.proofs")
        line.refuses = True
        edge.turn()
        await asyncio.sleep(6)
        line.refuses = False
        for _ in range(100):
            if await crm.cluster.sql("SELECT 1 FROM edge.proofs WHERE id = %s", (proof.spent_id,)):
                return
            await asyncio.sleep(0.05)
        pytest.fail("it was not spent anew")


async def test_fifty_thousand_that_were_let_in_hold_nobody_up(crm: Crm) -> None:
    """A busy hour's last two minutes: spent anew in parts, and looked through by no request."""
    ada, line = await crm.administrator(), Line(crm)
    async with admission(line) as edge:
        some = proof_of(ada)
        edge._ledger.remember(replace(some, spent_id=uuid4()) for _ in range(50_000))
        await crm.cluster.sql("DELETE FROM edge.proofs")
        edge.turn()
        await edge.spend(proof_of(ada))
        assert (await crm.cluster.sql("SELECT count(*) FROM edge.proofs"))[0][0] == 50_001
        began = time.process_time()
        for _ in range(100):
            await edge.spend(proof_of(ada))
        assert time.process_time() - began < 1, "ten milliseconds each would be one look at all of them"


async def test_at_a_standby_one_connection_serves_whoever_is_signed_in(crm: Crm) -> None:
    """Nor is it noted there that somebody was seen, which cannot be written."""
    ada, line = await crm.administrator(), Line(crm, "-c default_transaction_read_only=on")
    await crm.cluster.sql("UPDATE edge.sessions SET seen_at = now() - interval '1 hour'")
    async with admission(line) as edge:
        for _ in range(20):
            await let_in(edge, ada, proof := proof_of(ada))
        with pytest.raises(BadProof, match="used before"):
            await let_in(edge, ada, proof)
    assert len(line.pids) == 1


async def test_who_comes_late_into_an_outage_is_told_at_once(crm: Crm) -> None:
    ada, line = await crm.administrator(), Line(crm)
    async with admission(line) as edge:
        await edge.spend(proof_of(ada))
        line.refuses = True
        took = []
        for fault in ("lose", "", "", ""):
            line.fault, began = fault, time.monotonic()
            with pytest.raises(Unavailable, match="does not answer"):
                await edge.spend(proof_of(ada))
            took.append(time.monotonic() - began)
        assert 4.5 < took[0] < 7
        assert max(took[1:]) < 0.5
        line.refuses = False
        await edge.spend(proof_of(ada))
        line.fault = "lose"
        await edge.spend(proof_of(ada))


async def test_two_edges_that_see_the_same_replays_do_not_wait_for_each_other(crm: Crm) -> None:
    ada = await crm.administrator()
    proofs = [proof_of(ada) for _ in range(40)]

    async def refused(edge: Admission, order: Sequence[Proof]) -> None:
        told = await asyncio.gather(*map(edge.spend, order), return_exceptions=True)
        assert all(isinstance(each, BadProof) for each in told), told

    async with admission(Line(crm)) as one, admission(Line(crm)) as two:
        await asyncio.gather(*map(one.spend, proofs))
        for _ in range(20):
            await asyncio.gather(refused(one, proofs), refused(two, proofs[::-1]))


async def test_before_the_tables_are_brought_up_to_date_it_is_said_so(crm: Crm) -> None:
    ada = await crm.administrator()
    await crm.cluster.sql("ALTER TABLE edge.proofs RENAME COLUMN request TO later")
    try:
        async with admission(Line(crm)) as edge:
            with pytest.raises(Unavailable, match="earlier version"):
                await edge.spend(proof_of(ada))
    finally:
        await crm.cluster.sql("ALTER TABLE edge.proofs RENAME COLUMN later TO request")
