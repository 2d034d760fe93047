from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from storage_process import Launch

sys.path.insert(0, str(Path(__file__).parent))
from storage_process import StorageProcess


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts servers; whatever still runs at the end is killed."""
    started = []

    def start(name: str = "data", **options: Any) -> StorageProcess:
        server = StorageProcess(tmp_path / name, **options)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()
