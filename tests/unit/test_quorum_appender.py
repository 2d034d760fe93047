"""The appender's promises, one by one; tests/simulation has them all at once."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from threefold.kernel.keys import Keyring
from threefold.kernel.lsn import Lsn
from threefold.quorum.appender import Appender, Encode, Encoded, Limits, Send
from threefold.quorum.history import encode_start
from threefold.quorum.keys import bundle_key
from threefold.quorum.majority import WINDOW
from threefold.quorum.objects import Codec, Header, Kind
from threefold.quorum.requests import Create, Read
from threefold.quorum.view import Scope
from threefold.stores.store import Made, Unknown

_CODEC = Codec(Keyring(bytes(32)), 7)
_SCOPE = Scope(("S1", "S2", "S3"), _CODEC, "0a" * 16, segment_bytes=1024)


def _appender(**limits: int) -> Appender:
    header = Header(Kind.START, 3, 0, _SCOPE.writer, 1, Lsn(0), Lsn(0))
    return Appender(_SCOPE, _CODEC.encode(header, encode_start((), b"")), (), Lsn(0), Limits(**limits))


def _by_store(sends: list[Send]) -> dict[str, list[Send]]:
    found: dict[str, list[Send]] = {"S1": [], "S2": [], "S3": []}
    for send in sends:
        if not isinstance(send.request, Encode):
            found[send.request.store].append(send)
    return found


def _offer(appender: Appender, data: bytes) -> dict[str, list[Send]]:
    appender.offer(data)
    return _by_store(appender.poll(0.0))


def _encoded(request: Encode) -> Encoded:
    return Encoded(_CODEC.encode_parts(request.header, request.parts))


def _of_a_living_store(send: Send) -> bool:
    return isinstance(send.request, Encode) or send.request.store != "S3"


def test_settled_on_two_and_not_before() -> None:
    appender = _appender()
    sent = _offer(appender, b"abc")
    appender.answer(sent["S1"][0].token, Made.CREATED, 0.0)
    assert appender.settled == 0
    appender.answer(sent["S3"][0].token, Made.CREATED, 0.0)
    assert appender.settled == 3


def test_settled_only_without_a_gap_below() -> None:
    appender = _appender()
    first, second = _offer(appender, b"abc"), _offer(appender, b"def")
    for store in ("S1", "S2"):
        appender.answer(second[store][0].token, Made.CREATED, 0.0)
    assert appender.settled == 0
    for store in ("S2", "S3"):
        appender.answer(first[store][0].token, Made.CREATED, 0.0)
    assert appender.settled == 6


def test_no_more_slots_under_way_than_the_window() -> None:
    appender = _appender()
    slots = [_offer(appender, b"x")["S1"] for _ in range(WINDOW + 3)]
    assert [len(sends) for sends in slots] == [1] * WINDOW + [0] * 3


def test_a_lost_reply_is_recognised_by_reading_back() -> None:
    appender = _appender()
    create = _offer(appender, b"abc")["S1"][0]
    assert isinstance(create.request, Create)
    appender.answer(create.token, Made.EXISTS, 0.0)
    (read,) = _by_store(appender.poll(0.0))["S1"]
    assert isinstance(read.request, Read)
    appender.answer(read.token, create.request.body, 0.0)
    assert not appender.fenced
    assert not appender.lanes["S1"].waiting


def _bundled() -> tuple[Appender, dict[str, Send]]:
    """An appender that has a bundle of slots 1 to 3 under way."""
    header = Header(Kind.START, 3, 0, _SCOPE.writer, 1, Lsn(0), Lsn(0))
    scope = replace(_SCOPE, bundle_slots=4)
    appender = Appender(scope, _CODEC.encode(header, encode_start((), b"")), (), Lsn(0))
    for _ in range(3):
        sent = _offer(appender, b"x")
        for store in ("S1", "S2", "S3"):
            appender.answer(sent[store][0].token, Made.CREATED, 0.0)
    (encode,) = appender.poll(0.0)
    assert isinstance(encode.request, Encode)
    appender.answer(encode.token, _encoded(encode.request), 0.0)
    return appender, {store: sends[0] for store, sends in _by_store(appender.poll(0.0)).items()}


@pytest.mark.parametrize("answer", [Made.EXISTS, Unknown("403 Forbidden"), Made.CREATED])
def test_whatever_becomes_of_a_bundle_nothing_waits_for_it(answer: Made | Unknown) -> None:
    appender, sent = _bundled()
    assert [send.request.key for send in sent.values() if isinstance(send.request, Create)] == [bundle_key(3, 0)] * 3
    for send in sent.values():
        appender.answer(send.token, answer, 0.0)
    assert not appender.fenced
    assert appender.idle
    assert appender.next_retry() is None
    entry = _offer(appender, b"y")
    for store in ("S1", "S2"):
        appender.answer(entry[store][0].token, Made.CREATED, 0.0)
    assert appender.settled == 4
    assert all(lane.failures == lane.missing == 0 for lane in appender.lanes.values())


def test_a_bundle_holds_settled_entries_only() -> None:
    header = Header(Kind.START, 3, 0, _SCOPE.writer, 1, Lsn(0), Lsn(0))
    appender = Appender(replace(_SCOPE, bundle_slots=4), _CODEC.encode(header, encode_start((), b"")), (), Lsn(0))
    sent = [_offer(appender, b"x") for _ in range(3)]
    for each in (1, 2):
        for store in ("S1", "S2"):
            appender.answer(sent[each][store][0].token, Made.CREATED, 0.0)
    assert appender.poll(0.0) == []
    for store in ("S1", "S2"):
        appender.answer(sent[0][store][0].token, Made.CREATED, 0.0)
    (encode,) = appender.poll(0.0)
    assert isinstance(encode.request, Encode)
    assert encode.request.header.kind is Kind.BUNDLE


def test_a_seal_fences_for_good() -> None:
    appender = _appender()
    sent = _offer(appender, b"abc")
    appender.answer(sent["S1"][0].token, Made.EXISTS, 0.0)
    (read,) = _by_store(appender.poll(0.0))["S1"]
    appender.answer(read.token, _CODEC.encode(Header(Kind.SEAL, 3, 1, "0b" * 16)).body, 0.0)
    assert appender.fenced
    for store in ("S2", "S3"):
        appender.answer(sent[store][0].token, Made.CREATED, 0.0)
    assert appender.settled == 0
    assert appender.poll(0.0) == []


def test_unknown_is_asked_again_with_the_same_bytes_after_a_pause() -> None:
    appender = _appender()
    create = _offer(appender, b"abc")["S1"][0]
    appender.answer(create.token, Unknown("time-out"), 10.0)
    assert _by_store(appender.poll(10.0))["S1"] == []
    again = appender.next_retry()
    assert again is not None
    assert again > 10.0
    (retry,) = _by_store(appender.poll(again))["S1"]
    assert retry.request == create.request


def test_damage_on_reading_back_is_no_rival_and_is_read_again() -> None:
    appender = _appender()
    create = _offer(appender, b"abc")["S1"][0]
    appender.answer(create.token, Made.EXISTS, 0.0)
    for _ in range(3):
        (read,) = _by_store(appender.poll(0.0))["S1"]
        assert isinstance(read.request, Read)
        appender.answer(read.token, b"rotten", 0.0)
    assert not appender.fenced
    assert _by_store(appender.poll(0.0))["S1"] == []
    assert appender.lanes["S1"].missing == 1


def test_of_large_entries_fewer_are_under_way() -> None:
    """To each store, and in all: with as many as of small ones a slow line is late with all."""
    appender = _appender(entry_bytes=512, flying_bytes=2048)
    sent = _offer(appender, os.urandom(WINDOW * 512))  # does not compress: a hundred bytes more each
    assert [len(sends) for sends in sent.values()] == [4, 4, 4]
    assert appender.unsettled == 4
    for store in ("S1", "S2"):
        appender.answer(sent[store][0].token, Made.CREATED, 0.0)
    assert [len(sends) for sends in _by_store(appender.poll(0.0)).values()] == [1, 1, 0]


def test_a_large_entry_goes_out_alone_though_it_is_larger_than_what_may_be_under_way() -> None:
    appender = _appender(entry_bytes=1000, flying_bytes=100)
    sent = _offer(appender, os.urandom(2000))
    assert [len(sends) for sends in sent.values()] == [1, 1, 1]


def test_what_fails_together_counts_as_one_failure() -> None:
    """A connection that breaks takes all along that was under way: the store was away once, not eight times."""
    appender = _appender()
    sends = [_offer(appender, b"x")["S1"][0] for _ in range(WINDOW)]
    for send in sends:
        appender.answer(send.token, Unknown("broke off"), 1.0)
    first = appender.next_retry()
    assert first is not None
    assert first == 1.0 + Limits().retry_first
    again = _by_store(appender.poll(first))["S1"]
    assert len(again) == WINDOW
    appender.answer(again[0].token, Unknown("broke off"), first)
    assert appender.next_retry() == first + 2 * Limits().retry_first


def test_what_failed_together_goes_out_again_in_its_order() -> None:
    """Where only some fit at a time, the lowest slot is the one that the others wait for."""
    appender = _appender(entry_bytes=512, flying_bytes=2048)
    sends = _offer(appender, os.urandom(WINDOW * 512))["S1"]
    for send in (sends[1], sends[3], sends[0], sends[2]):
        appender.answer(send.token, Unknown("broke off"), 1.0)
    bytes_of_all = appender.lanes["S1"].waiting_bytes
    again = _by_store(appender.poll(2.0))["S1"]
    assert [each.request for each in again] == [each.request for each in sends]
    assert bytes_of_all - appender.lanes["S1"].waiting_bytes == sum(
        len(each.request.body) for each in again if isinstance(each.request, Create)
    )


def test_damage_at_one_store_is_not_held_against_another() -> None:
    appender = _appender()
    sent = _offer(appender, b"abc")
    for store, times in (("S1", 2), ("S2", 1)):
        appender.answer(sent[store][0].token, Made.EXISTS, 0.0)
        for _ in range(times):
            (read,) = _by_store(appender.poll(0.0))[store]
            appender.answer(read.token, b"hurt on its way", 0.0)
    assert [appender.lanes[store].missing for store in ("S1", "S2")] == [0, 0]


def test_a_fenced_writer_asks_for_no_more_turns() -> None:
    appender = _appender()
    sent = _offer(appender, b"abc")
    appender.answer(sent["S2"][0].token, Unknown("time-out"), 0.0)
    assert appender.next_retry() is not None
    appender.answer(sent["S1"][0].token, Made.EXISTS, 0.0)
    (read,) = _by_store(appender.poll(0.0))["S1"]
    appender.answer(read.token, _CODEC.encode(Header(Kind.SEAL, 3, 1, "0b" * 16)).body, 0.0)
    assert appender.fenced
    assert appender.next_retry() is None


def test_a_store_that_is_away_is_left_behind_within_bounds() -> None:
    appender = _appender(lag_bytes=2000, entry_bytes=100)
    for number in range(200):
        appender.offer(bytes([number]) * 50)
        while sends := [send for send in appender.poll(0.0) if _of_a_living_store(send)]:
            for send in sends:
                made = isinstance(send.request, Encode) and _encoded(send.request)
                appender.answer(send.token, made or Made.CREATED, 0.0)
    assert appender.settled == 200 * 50
    assert appender.lanes["S3"].missing > 100
    assert appender.lanes["S3"].waiting_bytes <= 2000 + 300


def test_a_lost_member_no_longer_counts() -> None:
    appender = _appender()
    sent = _offer(appender, b"abc")
    appender.answer(sent["S2"][0].token, Made.CREATED, 0.0)
    appender.drop("S2")
    appender.answer(sent["S1"][0].token, Made.CREATED, 0.0)
    assert appender.settled == 0
    appender.answer(sent["S3"][0].token, Made.CREATED, 0.0)
    assert appender.settled == 3


def test_nor_does_what_it_said_of_another_key() -> None:
    appender = _appender()
    sent = _offer(appender, b"abc")
    other = Codec(Keyring(bytes([1]) * 32), 7).encode(Header(Kind.SEAL, 4, 1, "0b" * 16)).body
    for store in ("S2", "S1"):
        appender.answer(sent[store][0].token, Made.EXISTS, 0.0)
        (read,) = _by_store(appender.poll(0.0))[store]
        appender.answer(read.token, other, 0.0)
        if store == "S2":
            appender.drop("S2")
    assert not appender.fenced


def test_a_segment_goes_out_whole_and_covers_its_slots() -> None:
    appender = _appender()
    tokens: dict[str, list[Send]] = _offer(appender, b"a" * 1500)
    for store in ("S1", "S2"):
        for send in tokens[store]:
            appender.answer(send.token, Made.CREATED, 0.0)
    (encode,) = [send for send in appender.poll(0.0) if isinstance(send.request, Encode)]
    assert isinstance(encode.request, Encode)
    assert encode.request.parts == (b"a" * 1024,)
    assert (encode.request.header.epoch, encode.request.header.slot) == (3, 2)
    appender.answer(encode.token, _encoded(encode.request), 0.0)
    assert appender.covered is None
    puts = _by_store(appender.poll(0.0))
    for store in ("S1", "S2"):
        appender.answer(puts[store][0].token, Made.CREATED, 0.0)
    assert appender.covered == (3, 2)
