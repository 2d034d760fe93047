"""Multipart uploads: parts arrive in any order, and become one object when the client says so.

    uploads/{32 hexadecimal digits}/{part number}-{16 hexadecimal digits}

Nothing is promised before the upload is completed, so parts are not synced and no upload outlives the process: after
a restart the client is told NoSuchUpload and starts again, as it has to for an expired one.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from threefold.storage_server.disk import make_folder
from threefold.storage_server.s3 import S3Error, bad_request, slow_down

PARTS_MAX = 10_000
UPLOADS_MAX = 1_000
FORGOTTEN_AFTER_S = 24 * 3600.0


def no_such_upload() -> S3Error:
    return S3Error(404, "NoSuchUpload", "the upload does not exist: it was completed, aborted, or the server restarted")


@dataclass(frozen=True, slots=True)
class Part:
    path: Path
    size: int
    etag: str


@dataclass(slots=True)
class Upload:
    """One upload; ``used`` is when it was last touched (monotonic seconds)."""

    upload_id: str
    bucket: str
    key: str
    folder: Path
    attributes: bytes
    lock: tuple[str, int]
    used: float
    parts: dict[int, Part] = field(default_factory=dict)


class Uploads:
    """All uploads under way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uploads: dict[str, Upload] = {}

    @classmethod
    def open(cls, data_dir: Path) -> Uploads:
        """Whatever an earlier process left is removed."""
        folder = data_dir / "uploads"
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        return cls(folder)

    def begin(self, bucket: str, key: str, *, attributes: bytes, lock: tuple[str, int], now: float) -> Upload:
        if len(self._uploads) >= UPLOADS_MAX:
            raise slow_down()
        upload_id = os.urandom(16).hex()
        folder = self._folder / upload_id
        folder.mkdir(mode=0o700)
        upload = Upload(upload_id, bucket, key, folder, attributes, lock, now)
        self._uploads[upload_id] = upload
        return upload

    def find(self, bucket: str, key: str, upload_id: str, now: float) -> Upload:
        upload = self._uploads.get(upload_id)
        if upload is None or (upload.bucket, upload.key) != (bucket, key):
            raise no_such_upload()
        upload.used = now
        return upload

    def part_path(self, upload: Upload, number: int) -> Path:
        if not 1 <= number <= PARTS_MAX:
            raise bad_request(f"part numbers go from 1 to {PARTS_MAX}")
        return upload.folder / f"{number}-{os.urandom(8).hex()}"

    def add(self, upload: Upload, number: int, part: Part) -> Part | None:
        """The part that it replaces. Raises S3Error where the upload has ended meanwhile."""
        if self._uploads.get(upload.upload_id) is not upload:
            raise no_such_upload()
        before = upload.parts.get(number)
        upload.parts[number] = part
        return before

    def take(self, upload: Upload, named: list[tuple[int, str]]) -> list[Part]:
        """The parts to be put together; the upload has ended then."""
        numbers = [number for number, _ in named]
        if numbers != sorted(set(numbers)):
            raise bad_request("the parts are not in ascending order", "InvalidPartOrder")
        parts = []
        for number, etag in named:
            part = upload.parts.get(number)
            if part is None or part.etag != etag:
                raise bad_request(f"part {number} was not uploaded, or is another one", "InvalidPart")
            parts.append(part)
        self._uploads.pop(upload.upload_id, None)
        return parts

    def restore(self, upload: Upload) -> None:
        """Putting together failed before anything was consumed: the client may ask again."""
        self._uploads[upload.upload_id] = upload

    def end(self, upload: Upload) -> Path:
        """Forget it; returns its folder, for removal."""
        self._uploads.pop(upload.upload_id, None)
        return upload.folder

    def forgotten(self, now: float) -> list[Upload]:
        return [upload for upload in self._uploads.values() if now - upload.used > FORGOTTEN_AFTER_S]
