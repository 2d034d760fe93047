"""``postgresql.auto.conf`` of a restored data folder. Pure.

PostgreSQL takes a setting's last value, and this file over ``postgresql.conf``; so what has to differ here is
appended. A recovered server waits for no standby, follows nobody and archives nowhere: until it is protected anew,
under an epoch of its own, nothing of it may reach the log (drills that archived into the live repository: peers.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
_ELSEWHERE = re.compile(r"^\s*(data_directory|hba_file|ident_file|external_pid_file)\s*=?\s*'?([^'#\n]+)", re.MULTILINE)


def appended(auto_conf: str, settings: Mapping[str, str]) -> str:
    """The file with ``settings`` laid over what stands in it."""
    lines = [f"{name} = '{_quoted(value)}'" for name, value in settings.items()]
    return "\n".join([auto_conf.rstrip("\n"), _LAID_OVER, *lines, ""]).lstrip("\n")


def without_temporary(auto_conf: str) -> str:
    """After the promotion: what only the recovery needed is gone, so that the next one does not meet it."""
    before, line, laid_over = auto_conf.rpartition(_LAID_OVER)
    kept = [each for each in laid_over.splitlines(keepends=True) if each.split(" =", 1)[0] not in TEMPORARY]
    return before + line + "".join(kept)


def files_elsewhere(conf: str) -> dict[str, str]:
    """Settings in ``postgresql.conf`` that lead to files of the primary's machine."""
    return {match[1]: match[2].strip() for match in _ELSEWHERE.finditer(conf)}


def _quoted(value: str) -> str:
    """guc-file.l: a quote is doubled, a backslash escapes."""
    return value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")
