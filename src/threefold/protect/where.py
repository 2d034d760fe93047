"""Which site is active: whose PostgreSQL the DRaaS server leads the log for.

The answer comes from the journal of switches, which lies in the stores (failover/journal.py); it is handed in, because
that layer stands above this one. Asked while nothing is held, the answer is courtesy: it says where to connect to.
Asked between the take-over and slot 0 it is safety; leadership.py says why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

APPLICATION_NAME: Final = "threefold"


@dataclass(frozen=True, slots=True)
class Primary:
    """Where the CRM's PostgreSQL is; the password is in the DSN by now, which is therefore never shown."""

    dsn: str
    slot: str
    application_name: str = APPLICATION_NAME


@dataclass(frozen=True, slots=True)
class Where:
    """The active site. ``switch`` is the number of the switch that made it active, 0 for the first site.

    ``under_way``: a newer switch was ordered, and has neither reached its target nor been abandoned: until then nobody
    begins an epoch. ``newest`` is its number, or that of the last one. ``primary`` is None where nobody told us how to
    reach that site.
    """

    site: str
    primary: Primary | None
    under_way: bool = False
    switch: int = 0
    newest: int = 0

    def is_still(self, before: Where) -> bool:
        """Whether whoever led for ``before`` may begin an epoch now."""
        return not self.under_way and (self.site, self.switch) == (before.site, before.switch)


# Asks two stores at least, anew each time. Raises Unavailable where they do not decide it.
AsksWhere = Callable[[], Awaitable[Where]]


class ElsewhereError(Exception):
    """Another site is active, or a switch was ordered: this epoch is given up, or over."""


def always(where: Where) -> AsksWhere:
    """One site that nobody ever switches."""

    async def ask() -> Where:
        return where

    return ask
