"""The wrapped copy of the master keys: an object in each store, opened by the passphrase, or by two of three shares.

One object is one way to open the whole ring: the newest key and all before it, so that who has a store and the
passphrase reads everything, however often the key was rotated. JSON, format version 2:

    key_id      of the newest key
    keys        the ids of all, the founding one first
    opened_by   "passphrase" (scrypt, RFC 7914, with n, r, p) or "shares" (with the number of the splitting)
    replaces    the objects that went for it, or go as soon as their retention lock ends
    salt        16 random bytes; the key that locks is derived with it and used once
    sealed      the key file's text (keyfile.py), AES-256-GCM; all other fields are authenticated with it
    vouched     HMAC-SHA256 over all of this by the newest key: whoever holds it can trust ``replaces``
    digest      SHA-256 over all of this: tells damage from a wrong passphrase (who damages on purpose can make it fit)

Version 1 held one key under a passphrase, n = 2^15, without a digest.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from threefold.kernel import keyfile
from threefold.kernel.errors import BadInput, Damaged
from threefold.kernel.keys import KEY_BYTES, NONCE_BYTES, Keyring, Sealer, digest
from threefold.kernel.shares import Opened as Shares

SALT_BYTES: Final = 16
# 128 MiB and a third of a second: what OWASP asks for at least. Ours are random, and need it less.
_SCRYPT: Final = {"n": 2**17, "r": 8, "p": 1}
_FIRST_SCRYPT: Final = {"n": 2**15, "r": 8, "p": 1}
_MOST_BYTES: Final = 2**20  # a hundred keys take a hundredth of it
_KEY_ID: Final = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Passphrase:
    """One way to open a wrapped copy."""

    text: str = field(repr=False)


Opener = Passphrase | Shares


@dataclass(frozen=True, slots=True)
class Described:
    """What a wrapped copy says of itself, in clear. ``split``: of shares, the number of the splitting."""

    key_id: str
    keys: tuple[str, ...]
    opened_by: str
    split: int | None = None
    first: bool = False  # of the first version, which no key vouches for
    replaces: tuple[str, ...] = ()  # objects that are worth nothing any more, and stay where a lock keeps them

    @property
    def words(self) -> str:
        return f"shares of splitting {self.split}" if self.split is not None else "a passphrase"


class WrongOpener(BadInput):
    """The copy is whole, and this does not open it: another passphrase, other shares."""


class UnsuitedOpener(WrongOpener):
    """A passphrase where shares open, or the other way round: nothing is said of whether it is a right one."""


def wrap(keyring: Keyring, opener: Opener, *, salt: bytes, replaces: Sequence[str] = ()) -> bytes:
    """The object's bytes. ``salt`` is `SALT_BYTES` of fresh chance; ``replaces``: the objects that are to go for it."""
    record: dict[str, Any] = {"version": 2, "key_id": keyring.newest, "keys": keyring.ids, "salt": _text(salt)}
    record["replaces"] = sorted(replaces)
    if isinstance(opener, Passphrase):
        record |= {"opened_by": "passphrase", "kdf": "scrypt", **_SCRYPT}
    else:
        record |= {"opened_by": "shares", "kdf": "hkdf-sha256", "split": opener.split}
    plain = keyfile.encode(keyring.activated()).encode()
    lock = Sealer(_lock(record, opener, salt))
    record["sealed"] = _text(lock.seal(plain, nonce=salt[:NONCE_BYTES], header=_authenticated(record)))
    record["vouched"] = _voucher(record, keyring)
    return json.dumps(record | {"digest": digest(_authenticated(record)).hex()}).encode()


def vouched(wrapped: bytes, keyring: Keyring) -> bool:
    """Whether somebody with a key of this ring made it: who holds a store can write there what he likes."""
    try:
        record = _record(wrapped)
        said = str(record.get("vouched", "")).encode(errors="replace")
        return hmac.compare_digest(said, _voucher(record, keyring).encode())
    except (Damaged, KeyError):
        return False


def holds(wrapped: bytes, keyring: Keyring, key_id: str) -> bool:
    """Whether it holds that key of the ring for certain: that key or a later one vouches for it.

    (Whoever stole an older key can vouch with that one, and would say that his copy holds the newest.)
    """
    if not vouched(wrapped, keyring):
        return False
    said = describe(wrapped)
    return key_id in said.keys and keyring.ids.index(said.key_id) >= keyring.ids.index(key_id)


def suits(said: Described, opener: Opener) -> bool:
    """Whether it is worth trying: a passphrase for a passphrase, shares for shares."""
    return isinstance(opener, Shares) == (said.opened_by == "shares")


def describe(wrapped: bytes) -> Described:
    """Raises Damaged."""
    record = _record(wrapped)
    if record["version"] == 1:
        return Described(record["key_id"], (record["key_id"],), "passphrase", first=True)
    return Described(
        record["key_id"],
        tuple(record["keys"]),
        record["opened_by"],
        record.get("split"),
        replaces=tuple(record["replaces"]),
    )


def unwrap(wrapped: bytes, opener: Opener) -> Keyring:
    """Raises WrongOpener for a wrong passphrase or other shares, Damaged for a copy that is not whole."""
    record, said = _record(wrapped), describe(wrapped)
    if not suits(said, opener):
        raise UnsuitedOpener(
            f"this copy of the master key is opened by {said.words}", hint="that is the other way to open it"
        )
    if isinstance(opener, Shares) and opener.split != said.split:
        raise WrongOpener(
            f"the shares are of splitting {opener.split}, and this copy of the master key is opened by {said.words}",
            hint="new shares make older ones worthless: ask the holders for the newest",
        )
    salt, sealed = b64decode(record["salt"]), b64decode(record["sealed"])
    first = record["version"] == 1
    header = said.key_id.encode() if first else _authenticated(record, without=("digest", "sealed", "vouched"))
    try:
        plain = Sealer(_lock(record, opener, salt)).open(sealed, nonce=salt[:NONCE_BYTES], header=header)
    except Damaged:
        what = "the passphrase does not open" if isinstance(opener, Passphrase) else "the shares do not open"
        doubt = "; if it is right, this copy of the key is damaged: try another store's" if first else ""
        raise WrongOpener(f"{what} the master key", hint=f"check it{doubt}") from None
    found = Keyring(plain) if first else keyfile.decode(plain)
    if found.newest != said.key_id:
        raise Damaged("the wrapped master key names another key than it holds", hint="take the copy of another store")
    return found


def _voucher(record: Mapping[str, Any], keyring: Keyring) -> str:
    """Raises KeyError where the key is not of this ring."""
    key = keyring.subkey("wrapped key", record["key_id"])
    return hmac.digest(key, _authenticated(record, without=("digest", "vouched")), "sha256").hex()


def _lock(record: Mapping[str, Any], opener: Opener, salt: bytes) -> bytes:
    """The key that locks, new for every salt."""
    if isinstance(opener, Passphrase):
        costs = _FIRST_SCRYPT if record["version"] == 1 else {name: record[name] for name in _SCRYPT}
        return Scrypt(salt=salt, length=KEY_BYTES, **costs).derive(opener.text.encode())
    info = b"wrapped master key"
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(opener.secret)


def _authenticated(record: Mapping[str, Any], without: tuple[str, ...] = ("digest",)) -> bytes:
    return json.dumps({name: each for name, each in record.items() if name not in without}, sort_keys=True).encode()


def _record(wrapped: bytes) -> dict[str, Any]:
    """Checked: of a known version, all fields there, as they were written. Raises Damaged, and nothing else.

    What is read comes from a store, and whoever writes there can make the digest fit.
    """
    damaged = Damaged("the wrapped master key is damaged", hint="take the copy of another store")
    if len(wrapped) > _MOST_BYTES:
        raise damaged
    try:
        record = json.loads(wrapped)
        version = record["version"]
        salt, sealed = b64decode(record["salt"], validate=True), b64decode(record["sealed"], validate=True)
        whole = len(salt) == SALT_BYTES and bool(sealed) and _names_a_key(record["key_id"])
        if version != 1:
            whole = whole and record["digest"] == digest(_authenticated(record)).hex()
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    if whole and type(version) is int and version not in {1, 2}:
        raise Damaged(
            f"the wrapped master key has format version {version}", hint="use the newer program that wrote it"
        )
    if not (whole and type(version) is int and (version == 1 or _shaped(record))):
        raise damaged
    found: dict[str, Any] = record
    return found


def _shaped(record: Mapping[str, Any]) -> bool:
    """Of version 2: each field of the type that was written. Other costs of scrypt than ours could take all memory."""
    keys, replaces = record.get("keys"), record.get("replaces")
    if not (isinstance(keys, list) and keys and all(map(_names_a_key, keys)) and keys[-1] == record["key_id"]):
        return False
    if not (isinstance(replaces, list) and all(isinstance(each, str) for each in replaces)):
        return False
    if record.get("opened_by") == "shares":
        return type(record.get("split")) is int
    as_ours = all(type(record.get(name)) is int and record[name] == cost for name, cost in _SCRYPT.items())
    return record.get("opened_by") == "passphrase" and "split" not in record and as_ours


def _names_a_key(text: object) -> bool:
    return isinstance(text, str) and _KEY_ID.fullmatch(text) is not None


def _text(data: bytes) -> str:
    return b64encode(data).decode()
