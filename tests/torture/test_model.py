"""The model itself: what it lets pass, and what it must not."""

from __future__ import annotations

import pytest

from tests.torture.model import Operation, Said, Seen, State, Verb, Version, Violation, allowed_after, page

A, B = Version("aa"), Version("bb")
ABSENT: frozenset[State] = frozenset({None})


def put(began: int, ended: int, etag: str, said: Said = Said.DONE, **more: object) -> Operation:
    return Operation(Verb.PUT, began, etag=etag, ended=ended, said=said if ended else Said.NOTHING, **more)  # type: ignore[arg-type]


def delete(began: int, ended: int, said: Said = Said.DONE, **more: object) -> Operation:
    return Operation(Verb.DELETE, began, ended=ended, said=said if ended else Said.NOTHING, **more)  # type: ignore[arg-type]


def read(began: int, ended: int, etag: str | None, until: int = 0) -> Operation:
    return Operation(Verb.READ, began, ended=ended, said=Said.DONE, seen=Seen(etag, until if etag else None))


def lock(began: int, ended: int, until: int, said: Said = Said.DONE, **more: object) -> Operation:
    return Operation(Verb.LOCK, began, ended=ended, said=said if ended else Said.NOTHING, lock=until, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("operations", "left"),
    [
        ([], {None}),
        ([put(1, 2, "aa")], {A}),
        ([put(1, 0, "aa")], {None, A}),
        ([put(1, 2, "aa"), put(3, 0, "bb")], {A, B}),
        ([put(1, 2, "aa"), put(3, 0, "bb", match="cc")], {A}),
        ([put(1, 2, "aa"), put(3, 0, "bb", create=True), delete(4, 5)], {None, B}),
        ([put(1, 2, "aa"), put(3, 0, "bb"), read(4, 5, "bb")], {B}),
        ([put(1, 2, "aa"), put(3, 0, "bb"), read(4, 5, "aa")], {A, B}),
        ([put(1, 0, "aa"), put(2, 0, "bb")], {None, A, B}),
        ([put(1, 4, "aa"), put(2, 3, "bb")], {A, B}),
        ([put(1, 4, "aa", create=True), put(2, 3, "bb", Said.OTHER, create=True)], {A}),
        ([put(1, 6, "aa"), read(2, 3, None), read(4, 5, "aa")], {A}),
        ([put(1, 2, "aa", lock=9000), put(3, 4, "bb", Said.LOCKED, to_ms=5000)], {Version("aa", 9000)}),
        ([put(1, 2, "aa", lock=9000), delete(3, 4, from_ms=9001)], {None}),
        ([put(1, 2, "aa", lock=9000), delete(3, 0, from_ms=8000)], {None, Version("aa", 9000)}),
        ([put(1, 2, "aa"), lock(3, 4, 9000), lock(5, 6, 8000, Said.LOCKED, to_ms=7000)], {Version("aa", 9000)}),
        ([put(1, 2, "aa"), lock(3, 0, 9000)], {A, Version("aa", 9000)}),
        ([lock(1, 2, 9000, Said.ABSENT)], {None}),
        ([put(1, 2, "aa", lock=9000), read(3, 4, "aa", 9001)], {Version("aa", 9000)}),
    ],
)
def test_what_some_order_explains_is_allowed(operations: list[Operation], left: set[State]) -> None:
    assert allowed_after(ABSENT, operations) == left


@pytest.mark.parametrize(
    "operations",
    [
        [read(1, 2, "aa")],
        [put(1, 2, "aa"), read(3, 4, None)],
        [put(1, 2, "aa"), put(3, 4, "bb"), read(5, 6, "aa")],
        [put(1, 4, "aa", create=True), put(2, 3, "bb", create=True)],
        [put(1, 2, "aa", Said.OTHER, create=True)],
        [put(1, 2, "aa"), put(3, 4, "bb", match="cc")],
        [put(1, 2, "aa"), delete(3, 4), read(5, 6, "aa")],
        [put(1, 0, "aa"), read(2, 3, "aa"), read(4, 5, None)],
        [put(1, 6, "aa"), read(2, 3, "aa"), read(4, 5, None)],
        [put(1, 2, "aa", lock=9000), delete(3, 4, to_ms=8000)],
        [put(1, 2, "aa"), delete(3, 4, Said.LOCKED)],
        [put(1, 2, "aa", lock=9000), delete(3, 4, Said.LOCKED, from_ms=9001)],
        [put(1, 2, "aa"), lock(3, 4, 9000), read(5, 6, "aa")],
        [put(1, 2, "aa"), lock(3, 4, 9000), lock(5, 6, 8000, to_ms=7000)],
        [put(1, 2, "aa"), lock(3, 4, 9000, Said.ABSENT)],
    ],
)
def test_what_no_order_explains_is_a_violation(operations: list[Operation]) -> None:
    with pytest.raises(Violation, match="no order explains"):
        allowed_after(ABSENT, operations)


def test_what_had_not_happened_by_the_crash_never_will() -> None:
    allowed = allowed_after(ABSENT, [put(1, 0, "aa")])
    assert allowed_after(frozenset(state for state in allowed if Seen(None).fits(state)), []) == ABSENT
    with pytest.raises(Violation):
        allowed_after(ABSENT, [read(2, 3, "aa")])


def test_pages() -> None:
    keys = ["a", "b/1", "b/2", "b/c/3", "d"]
    assert page(keys, prefix="", after="", delimiter="", limit=9) == (keys, [], False)
    assert page(keys, prefix="", after="", delimiter="/", limit=9) == (["a", "d"], ["b/"], False)
    assert page(keys, prefix="", after="", delimiter="/", limit=2) == (["a"], ["b/"], True)
    assert page(keys, prefix="", after="b/", delimiter="/", limit=2) == (["d"], [], False)
    assert page(keys, prefix="b/", after="b/1", delimiter="/", limit=9) == (["b/2"], ["b/c/"], False)
