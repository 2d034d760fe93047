"""What is said of a process of ours that ended too early: its own error and its own hint, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from threefold.kernel.errors import Unavailable
from threefold.local.processes import start, until


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
