"""Multipart uploads, acted out: parts to files, files to one object (uploads.py keeps the books)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

from threefold.kernel.clock import Clock
from threefold.storage_server.blobs import BlobWriter
from threefold.storage_server.engine import Engine
from threefold.storage_server.entries import BLOCK_BYTES, Entry
from threefold.storage_server.messages import Request
from threefold.storage_server.payload import Payload
from threefold.storage_server.s3 import Condition, S3Error, bad_request
from threefold.storage_server.transfer import receive
from threefold.storage_server.uploads import Part, Upload, Uploads


class Multipart:
    """The upload requests of S3."""

    def __init__(self, engine: Engine, clock: Clock, object_bytes_max: int) -> None:
        self._engine = engine
        self._clock = clock
        self._object_bytes_max = object_bytes_max
        self._uploads = Uploads.open(engine.data_dir)

    async def begin(self, bucket: str, key: str, *, attributes: bytes, lock: tuple[str, int]) -> str:
        """The upload's id."""
        self._engine.bucket(bucket)
        self._engine.check_room(0)
        now = self._clock.monotonic()
        for forgotten in self._uploads.forgotten(now):
            await self._remove(self._uploads.end(forgotten))
        return self._uploads.begin(bucket, key, attributes=attributes, lock=lock, now=now).upload_id

    async def add(self, bucket: str, key: str, upload_id: str, number: int, request: Request, payload: Payload) -> str:
        """The part's ETag."""
        upload = self._uploads.find(bucket, key, upload_id, self._clock.monotonic())
        path = self._uploads.part_path(upload, number)
        try:
            with path.open("wb", buffering=0) as file:
                size = await receive(
                    request,
                    payload,
                    lambda data: _write(file.fileno(), data),
                    self._engine,
                    bytes_max=self._object_bytes_max,
                )
            part = Part(path, size, payload.finish().hex())
            before = self._uploads.add(upload, number, part)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if before is not None:
            await self._engine.blobs.act(before.path.unlink, missing_ok=True)
        return part.etag

    async def complete(
        self, bucket: str, key: str, upload_id: str, named: list[tuple[int, str]], condition: Condition
    ) -> Entry:
        """Puts the parts together; durable when it returns."""
        upload = self._uploads.find(bucket, key, upload_id, self._clock.monotonic())
        size = sum(part.size for part in upload.parts.values())
        if size > self._object_bytes_max:
            raise bad_request(f"an object has at most {self._object_bytes_max} bytes", "EntityTooLarge")
        await self._engine.admit(bucket, key, condition, size)
        parts = self._uploads.take(upload, named)
        writer = await self._engine.blobs.act(self._engine.blobs.create)
        try:
            sha256 = await self._engine.blobs.act(_join, parts, writer)
            entry = await self._engine.put_file(
                bucket, key, writer, sha256=sha256, condition=condition, attributes=upload.attributes, lock=upload.lock
            )
        except (S3Error, OSError):
            await self._engine.blobs.act(writer.abandon)
            self._uploads.restore(upload)
            raise
        await self._remove(upload.folder)
        return entry

    async def abort(self, bucket: str, key: str, upload_id: str) -> None:
        upload: Upload = self._uploads.find(bucket, key, upload_id, self._clock.monotonic())
        await self._remove(self._uploads.end(upload))

    async def _remove(self, folder: Path) -> None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _join(parts: list[Part], writer: BlobWriter) -> bytes:
    """The whole's SHA-256."""
    sha256 = hashlib.sha256()
    for part in parts:
        with part.path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK_BYTES):
                sha256.update(block)
                writer.write(block)
    return sha256.digest()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
