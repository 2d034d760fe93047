"""``postgresql.conf`` and ``postgresql.auto.conf`` of a restored data folder. Pure.

PostgreSQL takes a setting's last value, and this file over ``postgresql.conf``; so what has to differ here is
appended. A recovered server waits for no standby, follows nobody and archives nowhere: until it is protected anew,
under an epoch of its own, nothing of it may reach the log (drills that archived into the live repository: peers.md).

What leads out of the data folder cannot be overruled there: PostgreSQL goes to ``data_directory`` before it reads this
file, so ``pg_ctl -D`` on the recovered folder would start the cluster that lies where the primary's lay, and an
``include`` that is missing stops it. Such lines are made comments, in every file that is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

SEVERED: Final = {
    "synchronous_standby_names": "",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "archive_mode": "off",
    "archive_command": "",
    "archive_library": "",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    # Nobody reads before the promotion, and a smaller machine than the primary may then recover.
    "hot_standby": "off",
}
# Only while recovering; reset after the promotion.
TEMPORARY: Final = (
    "hot_standby",
    "restore_command",
    "recovery_target_timeline",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_time",
    "recovery_target_name",
)
_LAID_OVER: Final = "# Laid over by threefold recover:"
_STANDBYS: Final = "# Laid over by threefold standby:"
_STANDBYS_END: Final = "# Up to here."
_TAKEN_OUT: Final = "# Taken out by threefold recover: "
# guc-file.l: a setting a line, its name in any case, with or without =; a quote within quotes is doubled or escaped.
_LEADING = re.compile(
    r"^[ \t]*(data_directory|hba_file|ident_file|external_pid_file|include|include_if_exists|include_dir)"
    r"(?:[ \t]*=[ \t]*|[ \t]+|(?='))(?:'((?:[^'\\\n]|''|\\.)*)'|([^\s#']+)).*$",
    re.MULTILINE | re.IGNORECASE,
)


def appended(auto_conf: str, settings: Mapping[str, str]) -> str:
    """The file with ``settings`` laid over what stands in it."""
    lines = [f"{name} = '{_quoted(value)}'" for name, value in settings.items()]
    return "\n".join([auto_conf.rstrip("\n"), _LAID_OVER, *lines, ""]).lstrip("\n")


def without_temporary(auto_conf: str) -> str:
    """After the promotion: what only the recovery needed is gone, so that the next one does not meet it."""
    before, line, laid_over = auto_conf.rpartition(_LAID_OVER)
    kept = [each for each in laid_over.splitlines(keepends=True) if each.split(" =", 1)[0] not in TEMPORARY]
    return before + line + "".join(kept)


def with_standby(auto_conf: str, settings: Mapping[str, str]) -> str:
    """The file with a standby's ``settings`` laid over it, in the place of those that were laid over it before."""
    lines = [f"{name} = '{_quoted(value)}'" for name, value in settings.items()]
    return "\n".join([without_standby(auto_conf).rstrip("\n"), _STANDBYS, *lines, _STANDBYS_END, ""]).lstrip("\n")


def without_standby(auto_conf: str) -> str:
    """The file as it was before. ALTER SYSTEM takes the comments out; then they stay, and what is laid over wins."""
    before, begin, rest = auto_conf.partition(f"{_STANDBYS}\n")
    if not begin:
        return auto_conf
    _, end, after = rest.partition(f"{_STANDBYS_END}\n")
    return before + after if end else before


@dataclass(frozen=True, slots=True)
class Local:
    """A settings file, made fit for another machine."""

    text: str
    taken_out: tuple[str, ...]  # the lines
    includes: tuple[tuple[str, str], ...]  # (include, include_if_exists or include_dir; path), those that stay


def localized(text: str, is_here: Callable[[str], bool]) -> Local:
    """Lines that lead to the primary's machine made comments; an include stays where ``is_here(path)``."""
    taken_out: list[str] = []
    includes: list[tuple[str, str]] = []

    def judge(line: re.Match[str]) -> str:
        name = line[1].lower()
        path = line[3] or (line[2] or "").replace("''", "'")
        if name.startswith("include") and is_here(path):
            includes.append((name, path))
            return line[0]
        taken_out.append(line[0].strip())
        return f"{_TAKEN_OUT}{line[0].strip()}"

    return Local(_LEADING.sub(judge, text), tuple(taken_out), tuple(includes))


def _quoted(value: str) -> str:
    """guc-file.l: a quote is doubled, a backslash escapes."""
    return value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")
