"""Large bodies from the socket to a file: a MiB at a time, hashed and written off the event loop."""

from __future__ import annotations

from collections.abc import Callable

from threefold.storage_server.engine import Engine
from threefold.storage_server.entries import BLOCK_BYTES
from threefold.storage_server.messages import Request
from threefold.storage_server.payload import Payload
from threefold.storage_server.s3 import bad_request

_FRAMES_SLACK = 64 << 10


def wire_bytes_max(size: int) -> int:
    """What an object of ``size`` bytes may take on the wire, `aws-chunked` frames included."""
    return size + size // 8 + _FRAMES_SLACK


async def receive(
    request: Request, payload: Payload, write: Callable[[bytes], None], engine: Engine, *, bytes_max: int
) -> int:
    """Bytes of the object that were written. Raises S3Error where it is too long or the disk is nearly full."""
    received = written = 0
    pieces: list[bytes] = []
    held = 0

    def step(pieces: list[bytes]) -> int:
        own_bytes = 0
        for piece in pieces:
            own = payload.feed(piece)
            write(own)
            own_bytes += len(own)
        return own_bytes

    async for piece in request.chunks():
        pieces.append(piece)
        held += len(piece)
        received += len(piece)
        if received > wire_bytes_max(bytes_max):
            raise bad_request("the body is longer than it may be", "EntityTooLarge")
        if held >= BLOCK_BYTES:
            engine.check_room(0)
            written += await engine.blobs.act(step, pieces)
            pieces, held = [], 0
    return written + await engine.blobs.act(step, pieces)
