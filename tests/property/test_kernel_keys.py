"""Rings, key files, wrapped copies, shares: what goes in comes out; damage and another key are told apart."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threefold.kernel import keyfile, shares, wraps
from threefold.kernel.errors import BadInput, Damaged, OtherKey
from threefold.kernel.keys import Keyring, Sealer, key_id_of, new_master
from threefold.kernel.shares import Opened
from threefold.kernel.wraps import Passphrase, WrongOpener

CHANCE = random.Random(5)
M0 = new_master(CHANCE.randbytes)
M1 = new_master(CHANCE.randbytes, [key_id_of(M0)])
M2 = new_master(CHANCE.randbytes, [key_id_of(M0), key_id_of(M1)])
OLD, BOTH, ALL = Keyring(M0), Keyring(M0, M1), Keyring(M0, M1, M2)
NONCE, HEADER, SALT = bytes(12), b"header", bytes(range(16))
SPLIT, SHARES = shares.split(bytes(range(32)))
BY_SHARES = Opened(SPLIT, bytes(range(32)))
PHRASE = Passphrase("a passphrase")
WRAPPED = wraps.wrap(BOTH, PHRASE, salt=SALT)


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_a_newer_ring_opens_what_older_ones_sealed_and_an_older_one_names_the_key_it_lacks(plain: bytes) -> None:
    for ring in (OLD, BOTH, ALL):
        sealed = ring.sealer("p").seal(plain, nonce=NONCE, header=HEADER)
        assert ALL.sealer("p").open(sealed, nonce=NONCE, header=HEADER) == plain
    with pytest.raises(OtherKey) as told:
        OLD.sealer("p").open(sealed, nonce=NONCE, header=HEADER)
    assert told.value.key_id == ALL.key_id


@given(st.integers(0, 8 * 47 - 1))
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_is_damage_and_never_another_key(bit: int) -> None:
    sealed = bytearray(BOTH.sealer("p").seal(b"nineteen bytes long", nonce=NONCE, header=HEADER))
    assert len(sealed) == 47
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged) as told:
        BOTH.sealer("p").open(bytes(sealed), nonce=NONCE, header=HEADER)
    assert not isinstance(told.value, OtherKey)


def test_what_the_first_version_sealed_is_the_founding_keys() -> None:
    sealed = Sealer(OLD.subkey("p")).seal(b"old", nonce=NONCE, header=HEADER)
    assert ALL.sealer("p").open(sealed, nonce=NONCE, header=HEADER) == b"old"


def test_a_prepared_key_reads_and_does_not_seal() -> None:
    ring = OLD.followed_by(M1)
    assert (ring.key_id, ring.newest) == (OLD.key_id, BOTH.key_id)
    sealed = BOTH.sealer("p").seal(b"new", nonce=NONCE, header=HEADER)
    assert ring.sealer("p").open(sealed, nonce=NONCE, header=HEADER) == b"new"
    assert OLD.sealer("p").open(ring.sealer("p").seal(b"x", nonce=NONCE, header=b""), nonce=NONCE, header=b"") == b"x"
    assert ring.activated().key_id == BOTH.key_id
    with pytest.raises(BadInput, match="prepared already"):
        ring.followed_by(M2)


def test_key_files_come_back_and_show_nothing_when_they_are_broken() -> None:
    for ring in (OLD, BOTH, ALL, OLD.followed_by(M1)):
        again = keyfile.decode(b"# a remark\n" + keyfile.encode(ring).encode())
        assert (again.masters(), again.key_id, again.prepared) == (ring.masters(), ring.key_id, ring.prepared)
    for text in (b"", b"# nothing\n", b"next:\n", b"not base64!\n", b"c2hvcnQ=\n", keyfile.encode(OLD).encode() * 2):
        with pytest.raises(BadInput) as told:
            keyfile.decode(text)
        assert "c2hv" not in str(told.value) + told.value.hint
    assert M0.hex() not in repr(ALL)


def test_a_new_master_differs_where_a_header_names_it() -> None:
    drawn = iter([M0, bytes(32), M2])
    assert new_master(lambda _: next(drawn), [key_id_of(M0), key_id_of(bytes(32))]) == M2


@pytest.mark.parametrize("opener", [PHRASE, BY_SHARES], ids=["passphrase", "shares"])
def test_a_wrapped_copy_gives_the_whole_ring_and_tells_wrong_from_damaged(opener: wraps.Opener) -> None:
    wrapped = wraps.wrap(OLD.followed_by(M1), opener, salt=SALT)
    ring = wraps.unwrap(wrapped, opener)
    assert (ring.masters(), ring.key_id) == ((M0, M1), BOTH.key_id)
    for other in (Passphrase("another"), Opened(SPLIT, bytes(32)), Opened(SPLIT ^ 1, bytes(range(32)))):
        with pytest.raises(WrongOpener):
            wraps.unwrap(wrapped, other)
    said = wraps.describe(wrapped)
    assert (said.key_id, said.keys) == (BOTH.key_id, BOTH.ids)


@given(st.integers(0, 8 * len(WRAPPED) - 1))
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_of_a_wrapped_copy_is_damage_and_no_wrong_passphrase(bit: int) -> None:
    hurt = bytearray(WRAPPED)
    hurt[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged):
        wraps.describe(bytes(hurt))


def test_what_a_copy_replaces_is_believed_of_who_holds_the_key_alone() -> None:
    wrapped = wraps.wrap(BOTH, PHRASE, salt=SALT, replaces=["keys/old"])
    assert wraps.vouched(wrapped, BOTH)
    assert wraps.vouched(wrapped, ALL)
    assert not wraps.vouched(wrapped, OLD)
    forged = json.loads(wrapped) | {"replaces": ["keys/old", "keys/good"]}
    forged["digest"] = wraps.digest(wraps._authenticated(forged)).hex()
    body = json.dumps(forged).encode()
    assert wraps.describe(body).replaces == ("keys/old", "keys/good")
    assert not wraps.vouched(body, BOTH)
    with pytest.raises(WrongOpener):
        wraps.unwrap(body, PHRASE)


def test_a_store_cannot_make_us_take_all_memory() -> None:
    record = json.loads(WRAPPED) | {"n": 2**40}
    record["digest"] = wraps.digest(wraps._authenticated(record)).hex()
    with pytest.raises(Damaged):
        wraps.unwrap(json.dumps(record).encode(), PHRASE)


def test_what_the_first_version_wrapped_opens() -> None:
    first = wraps._record(WRAPPED) | {"version": 1, "key_id": OLD.key_id}
    lock = Sealer(wraps._lock({"version": 1}, PHRASE, SALT))
    sealed = lock.seal(M0, nonce=SALT[:12], header=OLD.key_id.encode())
    body = json.dumps(first | {"sealed": wraps._text(sealed)}).encode()
    assert wraps.unwrap(body, PHRASE).ids == OLD.ids
    with pytest.raises(WrongOpener):
        wraps.unwrap(body, Passphrase("another"))


@given(st.permutations(range(3)), st.sampled_from([2, 3]), st.binary(min_size=32, max_size=32))
@settings(max_examples=20, deadline=None)
def test_any_two_shares_give_the_secret(order: list[int], count: int, secret: bytes) -> None:
    split, made = shares.split(secret)
    assert shares.combine([f"  {made[each]} ".upper() for each in order[:count]]) == Opened(split, secret)


@given(st.integers(0, 2), st.integers(0, 32), st.integers(1, 1023))
@settings(max_examples=10, deadline=None)
def test_a_wrong_word_is_named_by_its_place_and_never_shown(which: int, place: int, by: int) -> None:
    words = SHARES[which].split()
    words[place] = shares.WORDLIST[(shares.WORDLIST.index(words[place]) + by) % 1024]
    others = [text for each, text in enumerate(SHARES) if each != which]
    with pytest.raises(BadInput) as told:
        shares.combine([others[0], " ".join(words)])
    assert f"share 2 does not pass its checksum: word {place + 1} is wrong" in str(told.value)
    assert not set(words) & set(f"{told.value} {told.value.hint}".split()) - {"share", "word"}


def test_shares_that_do_not_do_say_why() -> None:
    _, later = shares.split(bytes(32))
    swapped = " ".join(sorted(SHARES[0].split()))
    for given_, why in [
        ([SHARES[0]], "1 of 3 shares was given"),
        ([SHARES[0], SHARES[0]], "1 of 3 shares was given"),
        ([SHARES[0], later[1]], "not of one splitting"),
        ([SHARES[0], SHARES[1].replace(" ", " xyzzy ", 1)], "share 2: word 2 is not in the list"),
        ([SHARES[0], SHARES[1].rpartition(" ")[0]], "share 2 has 32 words, not 33"),
        ([swapped, SHARES[1]], "share 1 does not pass its checksum: more than one word"),
    ]:
        with pytest.raises(BadInput, match=why):
            shares.combine(given_)
