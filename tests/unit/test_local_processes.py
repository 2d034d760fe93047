"""What is said of a process of ours that ended too early: its own error and its own hint, each once."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from threefold.kernel.errors import Refused, Unavailable
from threefold.local.processes import Child, answers, refuse_taken, start, until


@pytest.mark.parametrize("logs", [False, True])
async def test_its_error_and_its_hint_are_passed_on(tmp_path: Path, logs: bool) -> None:
    heard: list[str] = []
    arguments = ["threefold", "status", "--config", str(tmp_path / "threefold.toml")]
    child = await start(
        "status", arguments, lambda _, line: heard.append(line), log_file=tmp_path / "log" if logs else None
    )
    with pytest.raises(Unavailable, match="status ended before it served: there is no") as ended:
        await until(lambda: False, child, "it served")
    assert "threefold init" in ended.value.hint
    assert "hint:" not in ended.value.hint


async def _doomed(tmp_path: Path) -> Child:
    return await start("S1", ["threefold", "status", "--config", str(tmp_path / "no.toml")], lambda _, __: None)


async def test_what_answers_in_the_place_of_a_dead_child_is_not_it(tmp_path: Path) -> None:
    child = await _doomed(tmp_path)
    await child.ended()
    with pytest.raises(Unavailable, match="S1 ended before it served"):
        await until(lambda: True, child, "it served")


async def test_a_child_that_ended_while_the_port_was_asked_is_not_it(tmp_path: Path) -> None:
    child = await _doomed(tmp_path)

    def ready() -> bool:
        with suppress(ChildProcessError):  # asyncio was told first
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return True

    with pytest.raises(Unavailable, match="S1 ended before it served"):
        await until(ready, child, "it served")


async def test_a_place_that_is_taken_is_refused_before_anything_is_started_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert answers(address)()
        with pytest.raises(Refused, match=f"something answers at {address} already, where S1 has to listen"):
            refuse_taken(address, "S1")
    refuse_taken(address, "S1")
