"""The key file: a master key a line, in base64, the founding one first.

A last line that begins with ``next:`` is a key that is prepared: it is read with, and is not in force yet. A line that
begins with ``#`` is a remark. (A file of one line, without remarks, is what the first version wrote.)
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode

from threefold.kernel.errors import BadInput
from threefold.kernel.keys import Keyring

_NEXT = "next:"


def encode(keyring: Keyring) -> str:
    """The file's text, with an end of line."""
    lines = [b64encode(master).decode() for master in keyring.masters()]
    if keyring.prepared:
        lines[-1] = _NEXT + lines[-1]
    return "".join(f"{line}\n" for line in lines)


def decode(text: bytes) -> Keyring:
    """Raises BadInput; never shows a line."""
    lines = [line.strip() for line in text.decode(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise BadInput("the key file is empty", hint="write it anew from the stores: threefold keys export")
    prepared = lines[-1].startswith(_NEXT)
    try:
        masters = [b64decode(line.removeprefix(_NEXT).encode(), validate=True) for line in lines]
    except (binascii.Error, UnicodeError):
        raise BadInput(
            "the master key is not readable: it is not base64",
            hint="use the file that `threefold init` wrote, or a passphrase to open the copy in the stores",
        ) from None
    return Keyring(*masters, prepared=prepared)
