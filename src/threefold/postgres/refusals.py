"""What PostgreSQL's errors mean to us: ask again, correct something, or have a person decide?

By SQLSTATE where there is one (PostgreSQL documentation, appendix A). A failed connection carries none, only
words, in the server's language: what is not recognised is Unavailable, because asking again harms nobody.
"""

from __future__ import annotations

import re

from threefold.kernel.errors import BadInput, Refused, ThreefoldError, Unavailable

NEW_SNAPSHOT = "take a new snapshot (`threefold snapshot`); raise max_slot_wal_keep_size on the primary before"

_GRANT = 'on the primary: ALTER ROLE "<role>" LOGIN REPLICATION; GRANT pg_monitor TO "<role>";'
_HBA = (
    "allow it in the primary's pg_hba.conf: a line `host replication <role> <our address> scram-sha-256`, then reload"
)

_CONNECT: tuple[tuple[str, str], ...] = (
    (r"password authentication failed|no password supplied", "check the role and the password in system.dsn"),
    (r"no pg_hba\.conf entry|pg_hba\.conf rejects|authentication failed", _HBA),
    (
        r"role .* does not exist",
        'on the primary: CREATE ROLE "<role>" LOGIN REPLICATION; GRANT pg_monitor TO "<role>";',
    ),
    (r"permission denied to start WAL sender|must be superuser or replication role", _GRANT),
    (r"database .* does not exist|is not permitted to log in", "check system.dsn"),
)
_LATER: tuple[tuple[str, str], ...] = (
    (r"max_wal_senders|connection slots|too many (clients|connections)", "raise max_wal_senders or max_connections"),
    (r"starting up|shutting down|recovery", "it is tried again by itself"),
)


class SlotInUse(Unavailable):
    """Another connection streams from the slot. It may belong to somebody who is gone (walsender.py)."""


def of_connection(text: str) -> ThreefoldError:
    """A connection that did not come about; ``text`` is libpq's message, which never holds the password."""
    for pattern, hint in _CONNECT:
        if re.search(pattern, text):
            return BadInput(f"the primary does not let us in: {one_line(text)}", hint=hint)
    for pattern, hint in _LATER:
        if re.search(pattern, text):
            return Unavailable(f"the primary does not take us now: {one_line(text)}", hint=hint)
    return Unavailable(
        f"no connection to the primary: {one_line(text)}",
        hint="is it running, and is the address in system.dsn right?",
    )


def of_command(doing: str, sqlstate: str, text: str) -> ThreefoldError:
    """A command that the server refused; ``doing`` reads like "creating the replication slot"."""
    said = f"{doing} failed: {one_line(text)}"
    if sqlstate in {"58P01", "55000"} and re.search(r"removed|invalidated|no longer|reserve", text):
        return Refused(f"the primary no longer has the WAL that is needed next; {said}", hint=NEW_SNAPSHOT)
    match sqlstate:
        case "42501":  # insufficient_privilege
            return BadInput(said, hint=_GRANT)
        case "55006":  # object_in_use
            return SlotInUse(said, hint="another process streams from this slot; its connection may be lingering")
        case "42704" if "slot" in text:  # undefined_object
            return Refused(f"the replication slot is gone, and WAL with it; {said}", hint=NEW_SNAPSHOT)
        case "53400":  # configuration_limit_exceeded
            return BadInput(said, hint="on the primary: raise max_replication_slots (needs a restart)")
        case "58P01":  # undefined_file: neither the WAL nor the timeline history is there
            return Refused(said, hint=NEW_SNAPSHOT)
        case "22023" | "XX000" | "08P01" if "timeline" in text or "starting point" in text:
            return Refused(said, hint="this primary does not continue the log: is it the right one, and the newest?")
    if sqlstate[:2] in {"08", "53", "57"} or not sqlstate:
        return Unavailable(said, hint="it is tried again by itself")
    return Refused(said, hint="the primary's log file says more")


def one_line(text: str) -> str:
    """libpq's message without its prefixes and line breaks."""
    lines = (line.strip() for line in text.splitlines())
    joined = "; ".join(line for line in lines if line)
    return re.sub(r"^(connection failed: |connection is bad: )+", "", joined) or "the connection was closed"
