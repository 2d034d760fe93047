"""PostgreSQL's .history files in the stores: sealed, and the same object whoever puts them."""

from __future__ import annotations

import pytest

from threefold.kernel.errors import Damaged
from threefold.kernel.keys import Keyring
from threefold.quorum.timelines import open_history, seal_history

_KEYRING = Keyring(bytes(range(32)))
_CONTENT = b"1\t0/3000000\tno recovery target specified\n"


def test_the_same_file_is_the_same_object_and_opens() -> None:
    body = seal_history(_KEYRING, 2, _CONTENT)
    assert body == seal_history(_KEYRING, 2, _CONTENT)
    assert _CONTENT not in body
    assert open_history(_KEYRING, 2, body) == _CONTENT


def test_other_files_share_no_nonce() -> None:
    bodies = [seal_history(_KEYRING, timeline, _CONTENT + more) for timeline in (2, 3) for more in (b"", b"\n")]
    assert len({body[:12] for body in bodies}) == len(bodies)


@pytest.mark.parametrize("place", [0, 12, -1])
def test_any_changed_byte_is_noticed(place: int) -> None:
    body = bytearray(seal_history(_KEYRING, 2, _CONTENT))
    body[place] ^= 1
    with pytest.raises(Damaged):
        open_history(_KEYRING, 2, bytes(body))


def test_it_opens_as_its_own_timeline_only() -> None:
    with pytest.raises(Damaged):
        open_history(_KEYRING, 3, seal_history(_KEYRING, 2, _CONTENT))
    with pytest.raises(Damaged):
        open_history(_KEYRING, 2, b"short")
