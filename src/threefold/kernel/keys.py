"""The master keys, what is derived from them, and authenticated encryption with them.

One 32-byte master key is in force at a time; a *ring* holds it and all before it, the founding one first, so that what
was sealed stays readable without being rewritten (docs/adr/0011-keys.md). Subkeys by HKDF-SHA256 (RFC 5869), one per
purpose, so that a nonce only has to be unique within its purpose. AES-256-GCM (NIST SP 800-38D): what opens is what was
sealed (invariant 6), and the provider sees ciphertext only (invariant 8).

What a ring seals says which key opens it:

    offset  size
         0     4  magic ``3FKY``
         4     8  key id: the first bytes of the subkey for "key id"
        12     .  ciphertext, and 16 bytes of tag; the first 12 bytes are authenticated with it

So another key is told from damage before anything is decrypted. Without the magic (the first version wrote none) it is
the founding key's. A key id tells nothing of the key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from threefold.kernel.errors import BadInput, Damaged, OtherKey

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
_MAGIC = b"3FKY"
_ID_BYTES = 8
_FRAME_BYTES = len(_MAGIC) + _ID_BYTES
SEALED_MORE = _FRAME_BYTES + TAG_BYTES  # what a ring's sealing adds to the plaintext
TAG_DIGITS = 4  # of a key id: enough to find a key of the ring by (`new_master` sees to it)


class Sealer:
    """Encrypts and opens with one key. The caller sees to it that a nonce is used for one plaintext only."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, plain: bytes, *, nonce: bytes, header: bytes) -> bytes:
        """Ciphertext and tag (16 bytes longer than ``plain``); ``header`` is authenticated, not hidden."""
        return self._aead.encrypt(nonce, plain, header)

    def open(self, sealed: bytes, *, nonce: bytes, header: bytes) -> bytes:
        """Raises Damaged where a single bit differs, in the header too, or the key is another one."""
        try:
            return self._aead.decrypt(nonce, sealed, header)
        except (InvalidTag, ValueError):
            raise Damaged("the object does not open: it is damaged, or was sealed with another key") from None


class RingSealer:
    """Seals for one purpose with the key in force, and opens what any key of the ring sealed.

    Nonces as in `Sealer`, for each key. Safe to call from several threads.
    """

    def __init__(self, ring: Keyring, purpose: str) -> None:
        self._ring = ring
        self._purpose = purpose
        self._sealers: dict[str, Sealer] = {}

    def seal(self, plain: bytes, *, nonce: bytes, header: bytes) -> bytes:
        """`SEALED_MORE` bytes longer than ``plain``."""
        frame = _MAGIC + bytes.fromhex(self._ring.key_id)
        return frame + self._sealer(self._ring.key_id).seal(plain, nonce=nonce, header=header + frame)

    def open(self, sealed: bytes, *, nonce: bytes, header: bytes) -> bytes:
        """Raises OtherKey for what a key outside of the ring sealed, Damaged where a bit differs."""
        frame, rest = sealed[:_FRAME_BYTES], sealed[_FRAME_BYTES:]
        if not frame.startswith(_MAGIC) or len(frame) < _FRAME_BYTES:
            return self._sealer(self._ring.founding).open(sealed, nonce=nonce, header=header)
        key_id = frame[len(_MAGIC) :].hex()
        if key_id in self._ring.ids:
            return self._sealer(key_id).open(rest, nonce=nonce, header=header + frame)
        if any(self._opens(known, rest, nonce, header) for known in self._ring.ids):
            raise Damaged("the object does not open: the name of its key is damaged")
        raise OtherKey(key_id)

    def _opens(self, key_id: str, rest: bytes, nonce: bytes, header: bytes) -> bool:
        try:
            self._sealer(key_id).open(rest, nonce=nonce, header=header + _MAGIC + bytes.fromhex(key_id))
        except Damaged:
            return False
        return True

    def _sealer(self, key_id: str) -> Sealer:
        if key_id not in self._sealers:
            self._sealers[key_id] = Sealer(self._ring.subkey(self._purpose, key_id))
        return self._sealers[key_id]


class Keyring:
    """The master keys of one log, the founding one first. ``str`` and ``repr`` never show key bytes.

    ``prepared``: the last one is there to read with; the one before it is in force, until the log goes on under the
    last one. Raises BadInput.
    """

    def __init__(self, *masters: bytes, prepared: bool = False) -> None:
        for master in masters:
            if len(master) != KEY_BYTES:
                raise BadInput(
                    f"the master key has {len(master)} bytes, not {KEY_BYTES}",
                    hint="use the file that `threefold init` wrote",
                )
        self._masters = {key_id_of(master): master for master in masters}
        self.ids = tuple(self._masters)
        self.prepared = prepared
        if len({each[:TAG_DIGITS] for each in self.ids}) < len(masters) or len(masters) < 1 + prepared:
            raise BadInput("the key file does not hold one line for each key", hint=REPLACE_HINT)
        self.founding = self.ids[0]
        self.key_id = self.ids[-2 if prepared else -1]

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self.ids)})"

    @property
    def newest(self) -> str:
        """The last key's id: in force, or prepared."""
        return self.ids[-1]

    def masters(self) -> tuple[bytes, ...]:
        """The keys themselves, for a key file or a wrapped copy."""
        return tuple(self._masters.values())

    def followed_by(self, master: bytes) -> Keyring:
        """With one more key, prepared. Raises BadInput where one is prepared already."""
        if self.prepared:
            raise BadInput(f"key {self.newest} is prepared already")
        return Keyring(*self.masters(), master, prepared=True)

    def activated(self) -> Keyring:
        """With the last key in force."""
        return Keyring(*self.masters())

    def subkey(self, purpose: str, key_id: str | None = None) -> bytes:
        """32 bytes for one purpose, of the key in force or another one of the ring."""
        return _derive(self._masters[key_id or self.key_id], purpose)

    def sealer(self, purpose: str) -> RingSealer:
        return RingSealer(self, purpose)


REPLACE_HINT = "copy the key file of a host that has it, or write it anew from the stores: threefold keys export"


def key_id_of(master: bytes) -> str:
    """16 hexadecimal digits that name a master key and tell nothing of it."""
    return _derive(master, "key id")[:_ID_BYTES].hex()


def new_master(random: Callable[[int], bytes], others: Sequence[str] = ()) -> bytes:
    """A new master key out of ``random``, which the first digits of its id tell from the ``others``."""
    taken = {each[:TAG_DIGITS] for each in others} | {"0" * TAG_DIGITS}
    while True:
        master = random(KEY_BYTES)
        if key_id_of(master)[:TAG_DIGITS] not in taken:
            return master


def goes_on_under_another(key_id: str, keyring: Keyring) -> BadInput:
    """What somebody with an older key file is told, once enough stores show it. ``key_id`` may be its beginning."""
    return BadInput(
        f"the log goes on under key {key_id}, which this key file does not hold (it ends with {keyring.newest})",
        hint=REPLACE_HINT,
    )


def _derive(master: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=b"threefold", info=purpose.encode()).derive(master)


def digest(data: bytes) -> bytes:
    """SHA-256, 32 bytes: names chunks, chains entries."""
    return sha256(data).digest()
