"""What a data folder's control file says, read by ``pg_controldata``: the file's layout differs with every version.

It works on a folder whose server runs as well as on one whose server is gone, and needs nobody's password.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.postgres.binaries import Binaries

# A hot standby refuses to start, or stops replaying, where one of these is less than the primary's.
LIMITS: Final = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)
_CALLED: Final = {
    "max_prepared_transactions": "max_prepared_xacts",
    "max_locks_per_transaction": "max_locks_per_xact",
}
_SHUT_DOWN: Final = "shut down"


@dataclass(frozen=True, slots=True)
class Control:
    """``limits`` are those that the primary ran with when it wrote the newest WAL that was replayed here."""

    system_identifier: int
    state: str
    timeline: int  # of the last checkpoint
    checkpoint: Lsn
    segment_size: int
    limits: Mapping[str, str]

    @property
    def shut_down(self) -> bool:
        """A primary that was stopped in good order: its last record is the checkpoint's."""
        return self.state == _SHUT_DOWN


def parse_control(text: str) -> Control:
    """The output of ``pg_controldata`` (LC_ALL=C). Raises Damaged."""
    lines = dict(line.partition(":")[::2] for line in text.splitlines())
    said = {name.strip(): value.strip() for name, value in lines.items()}
    try:
        return Control(
            system_identifier=int(said["Database system identifier"]),
            state=said["Database cluster state"],
            timeline=int(said["Latest checkpoint's TimeLineID"]),
            checkpoint=Lsn.parse(said["Latest checkpoint location"]),
            segment_size=int(said["Bytes per WAL segment"]),
            limits={name: said[f"{_CALLED.get(name, name)} setting"] for name in LIMITS},
        )
    except (KeyError, ValueError) as error:
        raise Damaged(f"pg_controldata says nothing of {error}") from None


async def read_control(binaries: Binaries, data_dir: Path) -> Control:
    """Raises Damaged for a folder without a good control file."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [binaries.program("pg_controldata"), "-D", data_dir],
            env={"LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )

    ran = await asyncio.to_thread(run)
    if ran.returncode or "WARNING: Calculated CRC checksum does not match" in ran.stdout:
        said = (ran.stderr or ran.stdout).strip().splitlines()[:1]
        raise Damaged(f"{data_dir} has no good control file: {''.join(said)}", hint="is it a PostgreSQL data folder?")
    return parse_control(ran.stdout)
