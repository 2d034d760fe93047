"""Ending a stream that somebody else left behind on our slot.

A DRaaS server that was stopped, or whose machine died, leaves its connection behind: the primary keeps the slot taken
until wal_sender_timeout, 60 s unless it was changed, and every commit waits. Who ended that one's epoch may end its
connection. PostgreSQL lets a role end its own sessions without further rights (documentation, pg_terminate_backend).
"""

from __future__ import annotations

from threefold.postgres.sql import reading

_END = """
SELECT pg_terminate_backend(active_pid)
FROM pg_replication_slots
WHERE slot_name = %s AND active_pid IS NOT NULL
"""


async def end_stream(dsn: str, slot: str) -> bool:
    """End whoever streams from ``slot``; False where nobody did. Raises BadInput, Refused, Unavailable."""
    async with reading(dsn, application_name="threefold take-over", timeout_s=5) as link:
        return bool(await link.rows(_END, slot))
