"""The master key, what is derived from it, and authenticated encryption with it.

One 32-byte master key per deployment. Subkeys by HKDF-SHA256 (RFC 5869), one per purpose, so that a nonce only
has to be unique within its purpose. AES-256-GCM (NIST SP 800-38D): what opens is what was sealed (invariant 6),
and the provider sees ciphertext only (invariant 8).

The wrapped master key lies in each store under ``keys/{key id}``, opened by the passphrase (scrypt, RFC 7914).
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from threefold.kernel.errors import BadInput, Damaged

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
_SCRYPT = {"n": 2**15, "r": 8, "p": 1}


class Sealer:
    """Encrypts and opens for one purpose. The caller sees to it that a nonce is used for one plaintext only."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, plain: bytes, *, nonce: bytes, header: bytes) -> bytes:
        """Ciphertext and tag (16 bytes longer than ``plain``); ``header`` is authenticated, not hidden."""
        return self._aead.encrypt(nonce, plain, header)

    def open(self, sealed: bytes, *, nonce: bytes, header: bytes) -> bytes:
        """Raises Damaged where a single bit differs, in the header too, or the key is another one."""
        try:
            return self._aead.decrypt(nonce, sealed, header)
        except InvalidTag:
            raise Damaged("the object does not open: it is damaged, or was sealed with another key") from None


class Keyring:
    """The master key and its subkeys. ``str`` and ``repr`` never show key bytes."""

    def __init__(self, master: bytes) -> None:
        if len(master) != KEY_BYTES:
            raise BadInput(
                f"the master key has {len(master)} bytes, not {KEY_BYTES}",
                hint="use the file that `threefold init` wrote",
            )
        self._master = master
        self.key_id = self.subkey("key id")[:8].hex()

    def __repr__(self) -> str:
        return f"Keyring({self.key_id})"

    def subkey(self, purpose: str) -> bytes:
        """32 bytes for one purpose."""
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=b"threefold", info=purpose.encode()).derive(self._master)

    def sealer(self, purpose: str) -> Sealer:
        return Sealer(self.subkey(purpose))

    def wrap(self, passphrase: str, *, salt: bytes) -> bytes:
        """The object ``keys/{key id}``: the master key, to be opened by the passphrase. ``salt`` is 16 random bytes."""
        sealed = Sealer(_stretch(passphrase, salt)).seal(
            self._master, nonce=salt[:NONCE_BYTES], header=self.key_id.encode()
        )
        record = {"version": 1, "key_id": self.key_id, "kdf": "scrypt", **_SCRYPT}
        return json.dumps(record | {"salt": b64encode(salt).decode(), "sealed": b64encode(sealed).decode()}).encode()

    @classmethod
    def unwrap(cls, wrapped: bytes, passphrase: str) -> Keyring:
        """Raises BadInput for a wrong passphrase, Damaged for a wrapped key that is not whole."""
        try:
            record = json.loads(wrapped)
            salt, sealed = b64decode(record["salt"]), b64decode(record["sealed"])
            key_id = str(record["key_id"])
        except (ValueError, KeyError, TypeError):
            raise Damaged("the wrapped master key is not readable", hint="take the copy of another store") from None
        try:
            master = Sealer(_stretch(passphrase, salt)).open(sealed, nonce=salt[:NONCE_BYTES], header=key_id.encode())
        except Damaged:
            raise BadInput(
                "the passphrase does not open the master key",
                hint="check the passphrase; if it is right, this copy of the key is damaged: try --from another store",
            ) from None
        return cls(master)


def _stretch(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, **_SCRYPT).derive(passphrase.encode())


def digest(data: bytes) -> bytes:
    """SHA-256, 32 bytes: names chunks, chains entries."""
    return sha256(data).digest()
