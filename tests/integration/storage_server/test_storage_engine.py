"""The engine on real files: against a dict as model, what an answer rests on, what is left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from storage_engines import OPTIONS, contents, crash, get, opened, put

from threefold.kernel.clock import SystemClock
from threefold.kernel.errors import Refused
from threefold.storage_server.app import App, AppOptions
from threefold.storage_server.compaction import compact_oldest
from threefold.storage_server.messages import Request
from threefold.storage_server.s3 import Condition, S3Error
from threefold.storage_server.sigv4 import Credentials, Verifier

KEYS = st.sampled_from(["a", "b", "c/d", "c/e", "ä"])
BODIES = st.one_of(st.binary(max_size=50), st.integers(0, 1000).map(lambda n: b"x" * n), st.just(b"large" * 300))


class AgainstDict(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.model = {}
        self.engine = self.run(opened(self.folder))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    @rule(key=KEYS, body=BODIES)
    def put(self, key: str, body: bytes) -> None:
        self.run(put(self.engine, key, body))
        self.model[key] = body

    @rule(key=KEYS, body=BODIES)
    def create(self, key: str, body: bytes) -> None:
        if key in self.model:
            with pytest.raises(S3Error) as error:
                self.run(put(self.engine, key, body, create=True))
            assert error.value.status == 412
        else:
            self.run(put(self.engine, key, body, create=True))
            self.model[key] = body

    @rule(bodies=st.lists(BODIES, min_size=2, max_size=6))
    def race(self, bodies: list[bytes]) -> None:
        async def all_at_once() -> list[Any]:
            return await asyncio.gather(
                *(put(self.engine, "race", body, create=True) for body in bodies), return_exceptions=True
            )

        answers = self.run(all_at_once())
        winners = [body for body, answer in zip(bodies, answers, strict=True) if answer is None]
        if "race" in self.model:
            assert winners == []
        else:
            (self.model["race"],) = winners

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.run(self.engine.delete("b-b", key))
        self.model.pop(key, None)

    @rule()
    def compact(self) -> None:
        if len(self.engine.journal.files) > 1:
            self.run(compact_oldest(self.engine.journal, self.engine._catalog))

    @rule(gently=st.booleans())
    def restart(self, gently: bool) -> None:
        self.run(self.engine.close() if gently else crash(self.engine))
        self.engine = self.run(opened(self.folder))

    @invariant()
    def same_as_the_model(self) -> None:
        if hasattr(self, "engine"):
            assert self.run(contents(self.engine)) == self.model
            files = sum(1 for _ in (self.folder / "objects").glob("??/*"))
            assert files == sum(len(body) > OPTIONS.inline_bytes_max for body in self.model.values())
            live = sum(entry.place.record_bytes for entry in self.engine._entries())
            assert self.engine._catalog.live_bytes == live + self.engine._catalog.buckets["b-b"].place.record_bytes

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.run(crash(self.engine))
            self.runner.close()
            shutil.rmtree(self.folder)


AgainstDict.TestCase.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_against_dict = AgainstDict.TestCase


async def test_an_answer_waits_for_what_it_rests_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost create, a fresh object, a fresh delete: none is told while it could still vanish."""
    engine = await opened(tmp_path)
    await put(engine, "old", b"v")
    gate, real = threading.Event(), os.fdatasync

    def slow(fd: int) -> None:
        gate.wait(5)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    winner = asyncio.create_task(put(engine, "k", b"winner", create=True))
    removal = asyncio.create_task(engine.delete("b-b", "old"))
    await asyncio.sleep(0.05)
    rests = [put(engine, "k", b"loser", create=True), get(engine, "k"), get(engine, "old"), engine.delete("b-b", "old")]
    rests.append(engine.list("b-b", prefix="", after="", delimiter="", limit=9))
    tasks = [asyncio.create_task(rest) for rest in rests]
    await asyncio.sleep(0.1)
    early = [task for task in [winner, removal, *tasks] if task.done()]
    gate.set()
    answers = await asyncio.gather(winner, removal, *tasks, return_exceptions=True)
    assert early == []
    assert answers[:2] == [None, None]
    assert [getattr(answer, "status", answer) for answer in answers[2:6]] == [412, b"winner", 404, None]
    monkeypatch.undo()
    await engine.close()


async def test_leftovers_are_swept(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    await put(engine, "large", b"v" * 5000)
    writer = engine.blobs.create()
    writer.write(b"never named")
    writer.finish()
    await crash(engine)
    (tmp_path / "journal" / "00000000000000ff.new").write_bytes(b"half a file")
    engine = await opened(tmp_path)
    assert len(list((tmp_path / "objects").glob("??/*"))) == 1
    assert not list((tmp_path / "journal").glob("*.new"))
    await engine.close()


async def test_a_large_object_is_safe_although_the_one_before_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await opened(tmp_path)
    await put(engine, "large", b"v" * 5000)

    async def failing(file_id: bytes) -> None:
        raise OSError(errno.EIO, file_id.hex())

    monkeypatch.setattr(engine.blobs, "remove", failing)
    await put(engine, "large", b"w" * 5000)
    assert await get(engine, "large") == b"w" * 5000
    await engine.delete("b-b", "large")
    await engine.close()
    await (await opened(tmp_path)).close()
    assert not list((tmp_path / "objects").glob("??/*"))


async def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    engine = await opened(tmp_path)
    with pytest.raises(Refused):
        await opened(tmp_path)
    await engine.close()
    await (await opened(tmp_path)).close()


async def test_a_lock_is_told_and_refuses_only_when_it_cannot_vanish_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its length nor its object may be gone after a crash that follows the answer."""
    engine = await opened(tmp_path)
    await put(engine, "k", b"v")
    lock = ("COMPLIANCE", 2**42)
    gate, real = threading.Event(), os.fdatasync

    def slow(fd: int) -> None:
        gate.wait(5)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    engine.journal.quick_s = -1.0
    new = engine.put_small(
        "b-b", "new", b"v", sha256=bytes(32), condition=Condition(), attributes=b"", lock=("COMPLIANCE", 2**42)
    )
    first = [asyncio.create_task(engine.lengthen_lock("b-b", "k", lock)), asyncio.create_task(new)]
    await asyncio.sleep(0.05)
    rests = [engine.find("b-b", "k"), engine.lengthen_lock("b-b", "k", ("COMPLIANCE", 2**41))]
    rests += [act for key in ("k", "new") for act in (engine.delete("b-b", key), put(engine, key, b"w"))]
    tasks = [asyncio.create_task(rest) for rest in rests]
    await asyncio.sleep(0.1)
    early = [task for task in [*first, *tasks] if task.done()]
    gate.set()
    _, _, seen, *refused = await asyncio.gather(*first, *tasks, return_exceptions=True)
    assert early == []
    assert seen.locked_until_ms == 2**42
    assert [error.status for error in refused] == [403] * 5
    monkeypatch.undo()
    await engine.close()


@pytest.mark.parametrize("then", ["replaced", "deleted"])
async def test_a_large_object_that_goes_while_it_is_found_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    engine = await opened(tmp_path)
    await put(engine, "k", b"v" * 5000)
    app = App(engine, {"key": Credentials("key", "a secret of sixteen")}, SystemClock(), AppOptions())
    monkeypatch.setattr(Verifier, "verify", lambda *_: "UNSIGNED-PAYLOAD")
    real, due = engine.blobs.act, [True]

    async def act(step: Any, *arguments: Any, **named: Any) -> Any:
        if step is os.open and due[0]:
            due[0] = False
            await (put(engine, "k", b"w" * 5000) if then == "replaced" else engine.delete("b-b", "k"))
        return await real(step, *arguments, **named)

    monkeypatch.setattr(engine.blobs, "act", act)
    caller = SimpleNamespace(secure=False, address="192.0.2.1")
    reply = await app(Request(caller, "GET", "/b-b/k", headers={"host": "h"}))  # type: ignore[arg-type]
    if then == "deleted":
        assert reply.status == 404
    else:
        assert reply.status == 200
        assert b"".join([piece async for piece in reply.body]) == b"w" * 5000  # type: ignore[union-attr]
    await engine.close()
