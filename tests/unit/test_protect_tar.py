"""The tar reader against archives made by Python's own, and PostgreSQL's manifest against what arrives."""

from __future__ import annotations

import io
import json
import tarfile
from hashlib import sha256

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threefold.kernel.errors import Damaged
from threefold.protect.backup_manifest import Received, check_received
from threefold.protect.tar import Kind, Member, MemberEnd, TarReader


def archive(files: dict[str, bytes], *, big: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo("base/")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), 0o640, 1795000000
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(data: bytes, step: int) -> dict[str, bytes]:
    reader, got, path = TarReader(), {}, ""
    for at in range(0, len(data), step):
        for item in reader.feed(data[at : at + step]):
            if isinstance(item, Member):
                path = item.path
                if item.kind is Kind.FILE:
                    got[path] = b""
                    assert (item.mode, item.mtime) == (0o640, 1795000000)
            elif item is MemberEnd.END:
                path = ""
            else:
                got[path] += bytes(item)
    reader.finish()
    return got


@given(
    st.dictionaries(st.from_regex(r"base/[a-z0-9_]{1,60}", fullmatch=True), st.binary(max_size=3000), max_size=5),
    st.integers(1, 5000),
)
@settings(max_examples=80, deadline=None)
def test_files_come_out_as_they_went_in_whatever_the_pieces(files: dict[str, bytes], step: int) -> None:
    assert read(archive(files), step) == files


def test_an_archive_without_its_end_blocks_is_whole_and_one_cut_in_a_file_is_not() -> None:
    data = archive({"base/1": b"x" * 700})
    assert read(data[:2048], 512) == {"base/1": b"x" * 700}
    for cut in (2047, 1600, 1023, 700):
        with pytest.raises(Damaged):
            read(data[:cut], 512)


def test_sizes_of_8_gb_and_more_are_read() -> None:
    info = tarfile.TarInfo("base/big")
    info.size = 9 * 2**30 + 5
    header = info.tobuf(tarfile.GNU_FORMAT)
    (member,) = TarReader().feed(header)
    assert isinstance(member, Member)
    assert member.size == 9 * 2**30 + 5


@pytest.mark.parametrize("name", ["/etc/passwd", "base/../../x", ".."])
def test_a_path_that_leads_out_is_refused(name: str) -> None:
    with pytest.raises(Damaged, match="leads out"):
        list(TarReader().feed(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)))


def test_a_bad_header_and_an_unknown_kind_are_refused() -> None:
    header = bytearray(tarfile.TarInfo("base/1").tobuf(tarfile.USTAR_FORMAT))
    header[3] ^= 1
    with pytest.raises(Damaged, match="checksum"):
        list(TarReader().feed(bytes(header)))
    device = tarfile.TarInfo("base/1")
    device.type = tarfile.CHRTYPE
    with pytest.raises(Damaged, match="unknown kind"):
        list(TarReader().feed(device.tobuf(tarfile.USTAR_FORMAT)))


def manifest(files: dict[str, bytes], *, timeline: int = 1) -> str:
    entries = [
        {
            "Path": name,
            "Size": len(content),
            "Checksum-Algorithm": "CRC32C",
            "Checksum": google_crc32c.value(content).to_bytes(4, "little").hex(),
        }
        for name, content in files.items()
    ]
    ranges = [{"Timeline": timeline, "Start-LSN": "0/1", "End-LSN": "0/2"}]
    text = json.dumps({"PostgreSQL-Backup-Manifest-Version": 2, "Files": entries, "WAL-Ranges": ranges})[:-1] + ",\n"
    return text + f'"Manifest-Checksum": "{sha256(text.encode()).hexdigest()}"}}\n'


def arrived(files: dict[str, bytes]) -> dict[str, Received]:
    return {name: Received(len(content), google_crc32c.value(content)) for name, content in files.items()}


def test_what_arrived_is_what_was_sent_or_is_refused() -> None:
    files = {"PG_VERSION": b"18\n", "base/1/2": b"page"}
    check_received(manifest(files), arrived(files), timeline=1)
    for wrong, match in (
        ({**files, "base/1/2": b"pagf"}, "did not arrive as"),
        ({"PG_VERSION": b"18\n"}, "did not arrive"),
        ({**files, "extra": b""}, "is not in the base backup's manifest"),
    ):
        with pytest.raises(Damaged, match=match):
            check_received(manifest(files), arrived(wrong), timeline=1)
    with pytest.raises(Damaged, match="timelines"):
        check_received(manifest(files, timeline=2), arrived(files), timeline=1)
    with pytest.raises(Damaged, match="checksum it names"):
        check_received(manifest(files).replace('"Size": 4', '"Size": 5'), arrived(files), timeline=1)
    with pytest.raises(Damaged, match="does not read"):
        check_received(manifest(files)[:-20], arrived(files), timeline=1)
