from datetime import UTC, datetime

import pytest

from threefold.kernel.errors import Damaged
from threefold.kernel.lsn import Lsn
from threefold.postgres.messages import (
    ArchiveData,
    ArchiveStarted,
    BackupProgress,
    Keepalive,
    ManifestData,
    ManifestStarted,
    WalData,
    decode_backup,
    decode_stream,
    encode_status,
    microseconds,
    moment,
)


def test_wal_data_as_documented() -> None:
    message = b"w" + (0x1_0000_0010).to_bytes(8) + (0x1_0000_0020).to_bytes(8) + (5).to_bytes(8) + b"abc"
    assert decode_stream(memoryview(message)) == WalData(Lsn(0x1_0000_0010), Lsn(0x1_0000_0020), 5, b"abc")
    assert decode_stream(message).end == 0x1_0000_0013


def test_keepalive_as_documented() -> None:
    for asked in (0, 1):
        message = b"k" + (77).to_bytes(8) + (9).to_bytes(8) + bytes([asked])
        assert decode_stream(message) == Keepalive(Lsn(77), 9, bool(asked))


def test_status_update_as_documented() -> None:
    message = encode_status(written=3, flushed=2, applied=1, sent_at=4, reply=True)
    assert message == b"r" + b"".join(n.to_bytes(8) for n in (3, 2, 1, 4)) + b"\1"


@pytest.mark.parametrize("message", [b"", b"w", b"w" + bytes(23), b"k" + bytes(16), b"k" + bytes(18), b"x" + bytes(30)])
def test_what_is_no_stream_message_is_damaged(message: bytes) -> None:
    with pytest.raises(Damaged):
        decode_stream(message)


def test_base_backup_messages_as_documented() -> None:
    assert decode_backup(b"nbase.tar\0\0", in_manifest=False) == ArchiveStarted("base.tar", None)
    assert decode_backup(b"n16385.tar\0/srv/ts\0", in_manifest=False) == ArchiveStarted("16385.tar", "/srv/ts")
    assert decode_backup(b"n1.tar\0/srv/\xff\0", in_manifest=False) == ArchiveStarted("1.tar", "/srv/\udcff")
    assert decode_backup(b"dxyz", in_manifest=False) == ArchiveData(b"xyz")
    assert decode_backup(b"m", in_manifest=False) == ManifestStarted()
    assert decode_backup(b"dxyz", in_manifest=True) == ManifestData(b"xyz")
    assert decode_backup(b"p" + (12).to_bytes(8), in_manifest=False) == BackupProgress(12)


@pytest.mark.parametrize("message", [b"", b"n", b"nbase.tar", b"nbase.tar\0", b"na\0b\0c", b"mm", b"p123", b"q"])
def test_what_is_no_backup_message_is_damaged(message: bytes) -> None:
    with pytest.raises(Damaged):
        decode_backup(message, in_manifest=False)


def test_times_count_from_2000() -> None:
    new_year = datetime(2000, 1, 1, 0, 0, 1, 5, tzinfo=UTC)
    assert microseconds(new_year) == 1_000_005
    assert moment(1_000_005) == new_year
