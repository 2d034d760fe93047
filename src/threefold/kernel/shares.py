"""Two of three: a secret as words on three pieces of paper, any two of which give it back.

The splitting is SLIP-39's, by its authors' library (shamir-mnemonic). One share says nothing of the secret. A share is
33 words out of a list of 1024 that are told apart by their first four letters; its last three words are a checksum,
which finds any three wrong words, and where it is one, which one. What is split is not a master key but the secret that
a wrapped copy is locked with (wraps.py): new shares make the old ones worthless, and the key stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from shamir_mnemonic import MnemonicError, Share, combine_mnemonics, generate_mnemonics

# The package shows neither: where in a share which word is wrong is nothing that its own errors tell.
from shamir_mnemonic.rs1024 import verify_checksum
from shamir_mnemonic.wordlist import WORDLIST

from threefold.kernel.errors import BadInput

NEEDED: Final = 2
OUT_OF: Final = 3
_WORDS: Final = 33
_CUSTOM: Final = b"shamir_extendable"
_PLACES: Final = {word: place for place, word in enumerate(WORDLIST)}


@dataclass(frozen=True, slots=True)
class Opened:
    """What two shares gave. ``split`` tells one splitting from another, and is no secret."""

    split: int
    secret: bytes = field(repr=False)


def split(secret: bytes) -> tuple[int, list[str]]:
    """The number of this splitting, and three shares. ``secret``: 32 random bytes. The library draws more chance."""
    (shares,) = generate_mnemonics(1, [(NEEDED, OUT_OF)], secret, iteration_exponent=0)
    return Share.from_mnemonic(shares[0]).identifier, shares


def combine(texts: Sequence[str]) -> Opened:
    """The secret of two shares (or three). Raises BadInput, which says which share is wrong, and never a word of it."""
    texts = [" ".join(text.split()).lower() for text in texts]
    shares = [_read(number, text, len(texts)) for number, text in enumerate(texts, start=1)]
    if len({share.identifier for share in shares}) > 1:
        told = ", ".join(f"share {place}: {share.identifier}" for place, share in enumerate(shares, start=1))
        raise BadInput(
            f"the shares are not of one splitting ({told})",
            hint="new shares make older ones worthless: ask for the newest",
        )
    distinct = {share.index: text for share, text in zip(shares, texts, strict=True)}
    if len(distinct) < NEEDED:
        raise BadInput(
            f"{len(distinct)} of {OUT_OF} shares was given, {NEEDED} are needed",
            hint="a share given twice counts once: ask a second holder",
        )
    try:
        return Opened(shares[0].identifier, combine_mnemonics(list(distinct.values())[:NEEDED]))
    except MnemonicError:
        raise BadInput(
            "the shares do not fit each other, though each is whole", hint="one of them may be of another splitting"
        ) from None


def check(text: str) -> None:
    """Raises BadInput for a share that is not whole."""
    _read(1, " ".join(text.split()).lower(), 1)


def _read(number: int, text: str, of: int) -> Share:
    words = text.split()
    which = f"share {number}" if of > 1 else "the share"
    unknown = [str(place) for place, word in enumerate(words, start=1) if word not in _PLACES]
    if unknown:
        raise BadInput(
            f"{which}: word {', '.join(unknown)} is not in the list of words",
            hint="read it again; the first four letters of a word tell it from all others",
        )
    if len(words) != _WORDS:
        raise BadInput(f"{which} has {len(words)} words, not {_WORDS}", hint="all words, in their order, on one line")
    try:
        return Share.from_mnemonic(text)
    except MnemonicError:
        place = _wrong_place([_PLACES[word] for word in words])
        what = f"word {place} is wrong" if place else "more than one word is wrong, or out of order"
        raise BadInput(f"{which} does not pass its checksum: {what}", hint="read it again, word by word") from None


def _wrong_place(indices: list[int]) -> int | None:
    """Which word, counted from 1, where another one in its place would make the checksum right."""
    for place, index in enumerate(indices):
        for other in range(len(WORDLIST)):
            if other != index and verify_checksum([*indices[:place], other, *indices[place + 1 :]], _CUSTOM):
                return place + 1
    return None
