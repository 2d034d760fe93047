"""Where the owner's keys come from: a file or the environment, never the command line (`ps` shows that to all).

The file has one key a line, ``ACCESS_KEY_ID SECRET_ACCESS_KEY``; empty lines and ``#`` lines are skipped. Several
keys let a key be changed without a gap: add the new one, restart, change the clients, remove the old one.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from threefold.kernel.errors import BadInput, Refused
from threefold.storage_server.sigv4 import Credentials

ENV_KEY = "THREEFOLD_STORAGE_ACCESS_KEY_ID"
ENV_SECRET = "THREEFOLD_STORAGE_SECRET_ACCESS_KEY"  # noqa: S105 - a variable's name
_SECRET_CHARS_MIN = 16


def from_file(path: Path) -> dict[str, Credentials]:
    """Raises BadInput for a file that cannot be meant, Refused for one that others may read."""
    try:
        mode = path.stat().st_mode
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"the credentials file {path} cannot be read") from None
    if stat.S_IMODE(mode) & 0o077:
        raise Refused(f"others may read the credentials file {path}", hint=f"chmod 600 {path}")
    found: dict[str, Credentials] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise BadInput(
                f"line {number} of {path} is not a key", hint="a line reads: ACCESS_KEY_ID SECRET_ACCESS_KEY"
            )
        found[words[0]] = _checked(words[0], words[1])
    if not found:
        raise BadInput(f"no key in the credentials file {path}", hint="a line reads: ACCESS_KEY_ID SECRET_ACCESS_KEY")
    return found


def from_environment(environment: Mapping[str, str]) -> dict[str, Credentials]:
    key, secret = environment.get(ENV_KEY, ""), environment.get(ENV_SECRET, "")
    if not key or not secret:
        raise BadInput("no credentials were given", hint=f"name a credentials file, or set {ENV_KEY} and {ENV_SECRET}")
    return {key: _checked(key, secret)}


def _checked(key: str, secret: str) -> Credentials:
    if "/" in key or len(secret) < _SECRET_CHARS_MIN:
        raise BadInput(
            f"the key {key} will not do",
            hint=f"no / in the access key id, and at least {_SECRET_CHARS_MIN} random characters in the secret",
        )
    return Credentials(key, secret)
