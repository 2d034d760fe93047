"""Records, against a model that lays them out as PostgreSQL does. tests/integration has PostgreSQL's own word."""

import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from threefold.kernel.errors import BadInput, Refused
from threefold.kernel.lsn import Lsn
from threefold.postgres.wal import (
    Record,
    check_segment_size,
    first_boundary,
    first_whole_record_after,
    last_whole_record_end,
    parse_segment_name,
    records,
    segment_name,
    segment_no,
    segment_start,
)

MB = 2**20
PAGE = 8192
BASE = 5 * MB  # a segment's start, for segments of 1 MB


class Log:
    """Writes records as PostgreSQL does, from `BASE` on."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.whole: list[Record] = []
        self.previous = 0

    @property
    def at(self) -> int:
        return BASE + len(self.data)

    def _header(self, info: int = 0, remaining: int = 0) -> None:
        if self.at % PAGE == 0:
            long = self.at % MB == 0
            self.data += struct.pack("<HHIQI4x", 0xD118, info | (2 if long else 0), 1, self.at, remaining)
            self.data += struct.pack("<QII", 7, MB, PAGE) if long else b""

    def record(self, body: bytes, *, info: int = 0, manager: int = 10, header_info: int = 0) -> int:
        """Append a record; how many bytes, from its start, until it is whole."""
        boundary = self.at
        self._header(header_info)
        start = self.at
        head = struct.pack("<IIQBBxx", 24 + len(body), 3, self.previous, info, manager)
        raw = head + struct.pack("<I", google_crc32c.extend(google_crc32c.value(body), head)) + body
        left = raw
        while left:
            self._header(1, len(left))
            room = PAGE - self.at % PAGE
            self.data += left[:room]
            left = left[room:]
        whole_at = self.at
        self.data += bytes(-len(self.data) % 8)
        if (manager, info) == (0, 0x40):
            self.data += bytes(-self.at % MB)
        self.whole.append(Record(Lsn(start), Lsn(self.at), Lsn(self.previous), len(raw), manager, info))
        self.previous = start
        assert boundary <= start
        return whole_at

    def switch(self) -> int:
        return self.record(b"", info=0x40, manager=0)


def walk(data: bytes, at: int = BASE) -> list[Record]:
    return list(records(data, start=Lsn(BASE), at=Lsn(at), segment_size=MB))


# --- segments ---


@pytest.mark.parametrize("size", [MB, 16 * MB, 64 * MB, 1024 * MB])
def test_segment_names_as_postgresql_names_them(size: int) -> None:
    for lsn in (0, size, 2**32 - 1, 2**32, 0x16_B374_D848):
        segno = segment_no(lsn, size)
        name = segment_name(3, segno, size)
        # pg_walfile_name: the LSN's high half, then how many segments into its 4 GB
        assert name == f"{3:08X}{lsn >> 32:08X}{(lsn & 0xFFFFFFFF) // size:08X}"
        assert parse_segment_name(name, size) == (3, segno)
        assert segment_start(segno, size) <= lsn < segment_start(segno + 1, size)


def test_an_lsn_at_a_segments_start_belongs_to_the_next_one() -> None:
    assert segment_no(16 * MB - 1, 16 * MB) == 0
    assert segment_no(16 * MB, 16 * MB) == 1


@pytest.mark.parametrize(
    "name", ["", "00000001.history", "0" * 23, "0" * 25, "00000001000000000000000g", "1" + "F" * 23]
)
def test_what_is_no_segments_name(name: str) -> None:
    with pytest.raises(BadInput):
        parse_segment_name(name, 16 * MB)


@pytest.mark.parametrize("size", [0, MB // 2, 3 * MB, 2**31])
def test_what_is_no_segment_size(size: int) -> None:
    with pytest.raises(BadInput):
        check_segment_size(size)


# --- records ---

LENGTHS = st.lists(
    st.one_of(st.integers(0, 200), st.integers(7900, 8300), st.integers(0, 40_000), st.just(-1)),
    min_size=1,
    max_size=20,
)


def lay(lengths: list[int]) -> tuple[Log, list[int]]:
    log = Log()
    whole_at = [
        log.switch() if n < 0 else log.record(bytes([n % 251]) * n) for n in lengths if n >= 0 or log.at < 8 * MB
    ]
    return log, whole_at


@given(LENGTHS)
def test_every_record_is_found_where_it_lies(lengths: list[int]) -> None:
    log, _ = lay(lengths)
    assert walk(bytes(log.data)) == log.whole
    assert last_whole_record_end(bytes(log.data), start=Lsn(BASE), segment_size=MB) == log.whole[-1].end


@given(LENGTHS, st.data())
def test_a_cut_leaves_the_records_that_were_whole_before_it(lengths: list[int], data: st.DataObject) -> None:
    log, whole_at = lay(lengths)
    cut = data.draw(st.integers(BASE, log.at))
    settled = bytes(log.data[: cut - BASE])
    kept = [record for record, whole in zip(log.whole, whole_at, strict=True) if whole <= cut]
    assert walk(settled) == kept
    padded = settled + bytes(-len(settled) % MB)
    assert walk(padded) == kept
    fork = kept[-1].end if kept else Lsn(BASE)
    if cut > BASE:  # the fork may lie a little behind the cut: padding, or the rest of a switched segment
        assert first_whole_record_after(settled, start=Lsn(BASE), at=fork, segment_size=MB) is None
    for earlier, lost in zip([Lsn(BASE)] + [r.end for r in kept], kept, strict=False):
        found = first_whole_record_after(settled, start=Lsn(BASE), at=earlier, segment_size=MB)
        assert found == lost.start


@given(LENGTHS, st.data())
def test_a_fork_within_a_record_is_another_history(lengths: list[int], data: st.DataObject) -> None:
    log, _ = lay(lengths)
    boundaries = {BASE} | {r.end for r in log.whole} | {r.start for r in log.whole}
    at = data.draw(st.integers(BASE + 1, log.at - 1).filter(lambda lsn: lsn not in boundaries))
    with pytest.raises(Refused):
        first_whole_record_after(bytes(log.data), start=Lsn(BASE), at=Lsn(at), segment_size=MB)


@given(st.integers(0, 99_999), st.integers(0, 7))
def test_a_changed_bit_ends_the_walk_before_its_record(byte: int, bit: int) -> None:
    log = Log()
    while len(log.data) < 100_000:
        log.record(b"x" * 5000)
    data = bytearray(log.data)
    data[byte] ^= 1 << bit
    sound = [record for record in log.whole if record.end <= BASE + byte]
    found = walk(bytes(data))
    assert found[: len(sound)] == sound
    assert [r for r in found if r not in log.whole] == []


def test_the_first_boundary_is_past_what_the_page_continues() -> None:
    log = Log()
    log.record(b"a" * 20_000)
    log.record(b"b" * 10)
    data = bytes(log.data)
    assert first_boundary(data, start=Lsn(BASE)) == BASE + 40
    second_page = BASE + PAGE
    assert first_boundary(data[PAGE:], start=Lsn(second_page)) == log.whole[0].end
    assert first_boundary(data[PAGE : 2 * PAGE], start=Lsn(second_page)) is None
    assert first_boundary(bytes(2 * PAGE), start=Lsn(BASE)) is None
    assert last_whole_record_end(data[PAGE:], start=Lsn(second_page), segment_size=MB) == log.whole[1].end


def test_a_record_that_a_crash_cut_never_was() -> None:
    """A restarted primary writes on behind the page that its last record did not reach, and marks it."""
    log = Log()
    log.record(b"a" * 100)
    before = log.whole[-1].end
    log.record(b"b" * 20_000)
    cut = log.whole.pop()
    del log.data[PAGE:]
    log.previous = log.whole[-1].start
    log.record(b"c" * 16, header_info=8)
    log.record(b"d" * 50)
    found = walk(bytes(log.data))
    assert found == log.whole
    assert cut.start not in [record.start for record in found]
    assert first_whole_record_after(bytes(log.data), start=Lsn(BASE), at=before, segment_size=MB) == BASE + PAGE + 24


def test_old_pages_of_a_reused_segment_are_not_read() -> None:
    log = Log()
    log.record(b"a" * (PAGE - 40 - 24))
    assert log.at == BASE + PAGE
    data = bytes(log.data) + bytes(log.data)  # the second page says it is the first
    assert walk(data) == log.whole


def test_zeros_and_noise_hold_no_record() -> None:
    assert walk(bytes(3 * PAGE)) == []
    assert walk(b"\xd1" * 3 * PAGE) == []
    assert walk(b"") == []
    assert last_whole_record_end(bytes(3 * PAGE), start=Lsn(BASE), segment_size=MB) is None
    with pytest.raises(Refused):
        first_whole_record_after(b"\xd1" * 3 * PAGE, start=Lsn(BASE), at=Lsn(BASE), segment_size=MB)
    with pytest.raises(BadInput):
        walk(bytes(PAGE), BASE - PAGE)


@pytest.mark.parametrize("field", [range(8, 16), range(16, 20)], ids=["page LSN", "remaining"])
def test_a_record_is_continued_only_by_its_own_page(field: range) -> None:
    log = Log()
    log.record(b"a" * 20_000)
    for byte in field:
        data = bytearray(log.data)
        data[PAGE + byte] ^= 1
        assert walk(bytes(data)) == []
