"""How the CRM stands: which site one reads from, how old that is, whether changes are taken. For banner and headers.

What the database itself says comes first, for it is what is shown: its server's address names the site. The epoch and
what protection lacks are told by those who protect it, where this host knows them (`About`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from threefold.connectivity import mode
from threefold.connectivity.intake import Deferral
from threefold.connectivity.mode import Mode
from threefold.crm.desk import Tx
from threefold.crm.pages.site import Site
from threefold.crm.sql.database import Database
from threefold.crm.sql.servers import Watch

_LONG_AGO: Final = 7 * 24 * 3600  # nobody can tell how old it is


@dataclass(frozen=True, slots=True)
class About:
    """What is known beside the database. ``sites``: names by host:port; ``name``: where none is known.

    ``epoch``: of the leader's beacon; ``lacking``: what protection lacks now, a sentence, or empty.
    """

    name: str = "this machine"
    sites: dict[str, str] = field(default_factory=dict)
    epoch: Callable[[], int | None] = lambda: None
    lacking: Callable[[], str] = lambda: ""


class Standing:
    def __init__(self, watch: Watch, deferral: Deferral, about: About, tell_mode: Callable[[], Mode]) -> None:
        self._watch = watch
        self._deferral = deferral
        self._about = about
        self._mode = tell_mode

    def site(self) -> Site:
        """As of the last look."""
        found, told = self._watch.found, self._mode()
        reader = found.reader if found else None
        age = self._watch.age()
        return Site(
            name=self._about.sites.get(reader.address, self._about.name) if reader else self._about.name,
            epoch=self._about.epoch(),
            timeline=reader.timeline if reader else None,
            age_seconds=_LONG_AGO if age is None else round(age),
            writable=self._watch.writable and not told.on,
            deferring=not self._watch.writable and self._deferral.stores is not None and not told.on,
            read_only=told.sentence if told.on else "",
            reachable=found is None or reader is not None,
            lacking=self._about.lacking(),
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of every answer that holds data."""
        site = self.site()
        told = [
            (b"threefold-site", site.name.encode("ascii", "replace")),
            (b"threefold-age", str(site.age_seconds).encode()),
            (b"threefold-writes", site.writes.encode()),
        ]
        if site.epoch is not None:
            told.append((b"threefold-epoch", str(site.epoch).encode()))
        if site.timeline is not None:
            told.append((b"threefold-timeline", str(site.timeline).encode()))
        return told


class OfProcess(Protocol):
    @property
    def mode(self) -> Mode: ...


class ReadOnlyMode:
    """What the CRM's routes ask and set (crm/api/intake.py)."""

    def __init__(self, database: Database, process: OfProcess) -> None:
        self._database = database
        self._process = process

    async def get(self) -> dict[str, Any]:
        """As this process holds to it now; where that is the database's word, as it is now."""
        told = self._process.mode
        if not told.by_flag:
            async with self._database.read() as connection:
                told = await mode.read(connection)
        return told.told()

    async def set(self, tx: Tx, *, on: bool, reason: str, until: datetime | None) -> dict[str, Any]:
        """Raises Invalid."""
        told = mode.checked(reason, until) if on else mode.WRITABLE
        await mode.keep(tx, told)
        return told.told()

    async def heard(self) -> None:
        """After the change is saved: this process holds to it with its next request."""
        await self._database.watch.look()
