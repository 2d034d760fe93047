"""Small creates over our own connections: an answer belongs to the request that waits for it, or to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from threefold.kernel.clock import SystemClock
from threefold.stores.answers import Failure
from threefold.stores.s3_create import S3Creates

_CREATED = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_EXISTS = b"HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n"
_SECONDS = 5.0

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _request(reader: asyncio.StreamReader) -> bytes:
    """The key that was asked for; the body is read, too."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return head.split(b" ")[1].rpartition(b"/")[2]


@asynccontextmanager
async def _creates(talk: Talk) -> AsyncIterator[S3Creates]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    creates = S3Creates(
        f"http://127.0.0.1:{port}",
        "bucket",
        region="r",
        access_key_id="id",
        secret_access_key="secret",
        tls=None,
        clock=SystemClock(),
    )
    try:
        yield creates
    finally:
        await creates.close()
        server.close()


async def _begun(creates: S3Creates, key: str, seconds: float = _SECONDS) -> Failure | None:
    """`create_at_once`, waited for; fails where no connection is idle."""
    heard: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
    assert creates.create_at_once(key, b"body", seconds, heard.set_result)
    assert not heard.done(), "told from within"
    return await asyncio.wait_for(heard, 2 * _SECONDS)


async def test_what_is_begun_goes_over_the_connection_that_is_there() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            writer.write(_EXISTS if await _request(reader) == b"taken" else _CREATED)

    async with _creates(talk) as creates:
        assert not creates.create_at_once("first", b"", _SECONDS, lambda _: None), "there is no connection yet"
        assert await creates.create("first", b"body", _SECONDS) is None
        assert await _begun(creates, "second") is None
        failure = await _begun(creates, "taken")
        assert failure is not None
        assert failure.exists
        assert await creates.create("third", b"body", _SECONDS) is None
    assert connections == 1


async def test_who_hears_may_begin_the_next_one_over_the_same_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(_EXISTS if await _request(reader) == b"taken" else _CREATED)

    async with _creates(talk) as creates:
        await creates.create("first", b"body", _SECONDS)
        heard: list[Failure | None] = []
        both = asyncio.Event()

        def again(outcome: Failure | None) -> None:
            heard.append(outcome)
            assert creates.create_at_once("taken", b"body", _SECONDS, last)

        def last(outcome: Failure | None) -> None:
            heard.append(outcome)
            both.set()

        assert creates.create_at_once("free", b"body", _SECONDS, again)
        await asyncio.wait_for(both.wait(), _SECONDS)
        assert heard[0] is None
        assert heard[1] is not None
        assert heard[1].exists


async def test_a_second_answer_in_one_piece_is_nobodys() -> None:
    """A request that is begun by who hears the first must not be told the second."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            key = await _request(reader)
            writer.write(_CREATED * 2 if key == b"twice" else _EXISTS)

    async with _creates(talk) as creates:
        await creates.create("taken", b"body", _SECONDS)
        begun: list[bool] = []
        told: list[Failure | None] = []
        heard = asyncio.Event()

        def again(outcome: Failure | None) -> None:
            told.append(outcome)
            begun.append(creates.create_at_once("taken", b"body", _SECONDS, lambda _: None))
            heard.set()

        assert creates.create_at_once("twice", b"body", _SECONDS, again)
        await asyncio.wait_for(heard.wait(), _SECONDS)
        assert told[0] is not None, "which of the two was ours nobody knows"
        assert begun == [False], "the connection was used again, with an answer to nothing in it"
        failure = await creates.create("taken", b"body", _SECONDS)
        assert failure is not None
        assert failure.exists


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    spoke = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = await _request(reader)
        writer.write(_EXISTS if key == b"taken" else _CREATED)
        if not spoke.is_set():
            await asyncio.sleep(0.05)
            writer.write(_CREATED)
            spoke.set()
        await reader.read()

    async with _creates(talk) as creates:
        assert await creates.create("first", b"body", _SECONDS) is None
        await spoke.wait()
        await asyncio.sleep(0.05)
        assert not creates.create_at_once("taken", b"body", _SECONDS, lambda _: None), (
            "that connection is not to be trusted"
        )
        failure = await creates.create("taken", b"body", _SECONDS)
        assert failure is not None
        assert failure.exists


async def test_a_late_answer_is_not_the_next_requests() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            key = await _request(reader)
            if key == b"late":
                await asyncio.sleep(0.3)
                writer.write(_CREATED)
            else:
                writer.write(_EXISTS if key == b"taken" else _CREATED)

    async with _creates(talk) as creates:
        await creates.create("first", b"body", _SECONDS)
        failure = await _begun(creates, "late", seconds=0.1)
        assert failure is not None
        assert not failure.exists
        assert "in time" in failure.reason
        failure = await creates.create("taken", b"body", _SECONDS)
        assert failure is not None
        assert failure.exists


async def test_a_connection_that_breaks_is_told_to_who_waits() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await _request(reader) != b"break":
            writer.write(_CREATED)
        writer.write(_CREATED[:20])

    async with _creates(talk) as creates:
        await creates.create("first", b"body", _SECONDS)
        failure = await _begun(creates, "break")
        assert failure is not None
        assert not failure.exists
        assert not failure.absent


async def test_who_gives_up_takes_the_connection_along() -> None:
    hung_up = asyncio.Event()
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await _request(reader) != b"late":
            writer.write(_CREATED)
        if not await reader.read():
            hung_up.set()

    async with _creates(talk) as creates:
        await creates.create("first", b"body", _SECONDS)
        waits = asyncio.create_task(creates.create("late", b"body", _SECONDS))
        await asyncio.sleep(0.1)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        await asyncio.wait_for(hung_up.wait(), 1)
        assert await creates.create("next", b"body", _SECONDS) is None
    assert faults == []


async def test_an_answer_in_the_turn_in_which_it_is_given_up_harms_nobody() -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    arrived = asyncio.Event()
    go = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            if await _request(reader) == b"late":
                arrived.set()
                await go.wait()
            writer.write(_CREATED)

    async with _creates(talk) as creates:
        await creates.create("first", b"body", _SECONDS)
        waits = asyncio.create_task(creates.create("late", b"body", _SECONDS))
        await arrived.wait()
        go.set()
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert await creates.create("next", b"body", _SECONDS) is None
    assert faults == []


async def test_closing_ends_what_is_under_way() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            if await _request(reader) == b"late":
                await asyncio.sleep(0.2)
            writer.write(_CREATED)

    async with _creates(talk) as creates:
        await creates.create("first", b"body", _SECONDS)
        heard: list[Failure | None] = []
        assert creates.create_at_once("late", b"body", _SECONDS, heard.append)
        await creates.close()
        await asyncio.sleep(0.4)
        assert [failure is not None and not failure.exists for failure in heard] == [True]
        assert not creates.create_at_once("next", b"body", _SECONDS, heard.append), "nothing is open any more"
