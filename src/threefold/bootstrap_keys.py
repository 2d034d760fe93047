"""Where the master keys come from: the key file; or the wrapped copy in the stores, and what opens that.

Secrets are taken from files, from the environment, or from a prompt: never from arguments, which others can list.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from threefold.kernel import keyfile, secret_file, shares
from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput
from threefold.kernel.hardening import keep_out_of_dumps
from threefold.kernel.keys import Keyring
from threefold.kernel.shares import Opened
from threefold.kernel.wraps import Opener, Passphrase
from threefold.settings import Settings
from threefold.stores.store import ObjectStore
from threefold.upkeep.unwrap import unwrap_from_stores

PASSPHRASE: Final = "THREEFOLD_PASSPHRASE"  # noqa: S105 - the variable's name
SHARE_FILES: Final = "THREEFOLD_SHARE_FILES"
_HINT: Final = (
    f"without the key file, the passphrase opens the copy in the stores ({PASSPHRASE}, or --passphrase-file), "
    f"or two of three shares do ({SHARE_FILES}, or --share-file)"
)


async def ring_of(
    settings: Settings,
    stores: Mapping[str, ObjectStore],
    clock: Clock,
    *,
    opener: Opener | None = None,
    ask: Callable[[], Opener | None] = lambda: None,
) -> Keyring:
    """The keys: opened by ``opener`` where there is one; else the key file; else by the environment, or by asking.

    Raises BadInput, Refused, NotThere, Unavailable, Damaged.
    """
    keep_out_of_dumps()
    if opener is None:
        try:
            return keyring_from(settings)
        except BadInput as error:
            opener = opener_of_environment() or ask()
            if opener is None:
                raise BadInput(error.message, hint=_HINT) from None
    return await unwrap_from_stores(stores, clock, opener)


def keyring_from(settings: Settings) -> Keyring:
    """The keys of the settings' key file. Raises BadInput, Refused."""
    keep_out_of_dumps()
    return keyfile.decode(settings.secret_bytes(settings.keys.master))


def wrapped_key_of(settings: Settings) -> bytes | None:
    """The keys locked with the passphrase, for a log that is founded; None where the settings name none."""
    return settings.secret_bytes(settings.keys.wrapped).strip() if settings.keys.wrapped else None


def opener_of_environment() -> Opener | None:
    """THREEFOLD_PASSPHRASE, or the share files of THREEFOLD_SHARE_FILES (two paths, parted as in PATH)."""
    if (phrase := passphrase_of_environment()) is not None:
        return phrase
    if paths := os.environ.get(SHARE_FILES):
        return shares_from([Path(path) for path in paths.split(os.pathsep) if path])
    return None


def passphrase_of_environment() -> Passphrase | None:
    text = os.environ.get(PASSPHRASE)
    return Passphrase(text) if text else None


def shares_from(paths: list[Path]) -> Opened:
    """Of files as `threefold keys split --to` writes them. Raises BadInput."""
    texts = [_text(path) for path in paths]
    return shares.combine([_share_in(path, text) for path, text in zip(paths, texts, strict=True)])


def passphrase_from(path: Path) -> Passphrase:
    """The first line of the file. Raises BadInput."""
    lines = _text(path).splitlines()
    if not lines or not lines[0].strip():
        raise BadInput(f"{path} has no passphrase in its first line")
    return Passphrase(lines[0].strip())


def key_file(settings: Settings) -> Path:
    """Where the key file is. Raises BadInput where the settings take the key from elsewhere: that we cannot change."""
    kind, _, rest = settings.keys.master.partition(":")
    if kind != "file":
        raise BadInput(
            "the master key is not in a file: it cannot be changed from here",
            hint='write one (threefold keys export --to FILE) and name it: [keys] master = "file:..."',
        )
    return settings.path(Path(rest))


def replace_wrapped(settings: Settings, wrapped: bytes) -> None:
    """The copy that lies beside the key file, for logs that are founded later; nothing where the settings name none."""
    kind, _, rest = (settings.keys.wrapped or "").partition(":")
    if kind == "file":
        secret_file.replace(settings.path(Path(rest)), wrapped.decode() + "\n")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or "not a text").lower()
        raise BadInput(f"cannot read {path}: {reason}") from None


def _share_in(path: Path, text: str) -> str:
    """The words, without the remarks above them."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise BadInput(f"{path} holds no share", hint="a share is 33 words; `threefold keys split` makes three")
    return " ".join(lines)
