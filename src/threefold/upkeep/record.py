"""What scrubs found and how the stores answered, kept in the stores themselves: `beacons/scrub`, overwritten.

The DRaaS server has no disk of its own, so the cursor of a scrub lies there too. Nothing safe rests on it (invariant
2): a record that is gone costs a scrub from the beginning and the scores' past. It is sealed like everything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Damaged
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.stores.store import ObjectStore
from threefold.upkeep.mend import Finding
from threefold.upkeep.score import Tally

KEY: Final = "beacons/scrub"
FINDINGS_MAX: Final = 1000  # of which each is named; more are counted
DAYS_KEPT: Final = 30


@dataclass(slots=True)
class Record:
    """One scrub, under way or finished, and the tallies of the last days."""

    run: str = ""
    beat: int = 0
    started: str = ""
    at: str = ""
    finished: bool = False
    prefix: str = ""  # the cursor: everything before this prefix, and in it up to this key, was seen
    after: str = ""
    objects: dict[str, int] = field(default_factory=dict)  # store → read and verified
    bytes: dict[str, int] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # store → missing, damaged, ... and mended
    findings: list[Finding] = field(default_factory=list)
    away: dict[str, str] = field(default_factory=dict)
    days: dict[str, dict[str, Tally]] = field(default_factory=dict)  # date → store

    def add(self, finding: Finding) -> None:
        counts = self.counts.setdefault(finding.store, {})
        counts[finding.what] = counts.get(finding.what, 0) + 1
        counts["mended"] = counts.get("mended", 0) + finding.mended
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)

    def repaired(self, store: str, findings: Sequence[Finding]) -> Record:
        """The same, after a repair of ``store`` that found ``findings``."""
        mended = {finding.key for finding in findings if finding.store == store and finding.mended}
        for place, finding in enumerate(self.findings):
            if finding.store == store and finding.key in mended and not finding.mended:
                self.findings[place] = replace(finding, mended=True)
                self.counts[store]["mended"] += 1
        return self

    def tally(self, day: str, store: str) -> Tally:
        """Today's, to be added to; days long past are let go."""
        made = self.days.setdefault(day, {}).setdefault(store, Tally())
        for old in sorted(self.days)[:-DAYS_KEPT]:
            del self.days[old]
        return made


def encode(record: Record, keyring: Keyring, nonce: bytes) -> bytes:
    plain = json.dumps(asdict(record)).encode()
    return nonce + keyring.sealer("scrub").seal(plain, nonce=nonce, header=KEY.encode())


def decode(body: bytes, keyring: Keyring) -> Record:
    """Raises Damaged."""
    plain = keyring.sealer("scrub").open(body[NONCE_BYTES:], nonce=body[:NONCE_BYTES], header=KEY.encode())
    try:
        found: dict[str, Any] = json.loads(plain)
        found["findings"] = [Finding(**each) for each in found["findings"]]
        found["days"] = {
            day: {store: Tally(**tally) for store, tally in stores.items()} for day, stores in found["days"].items()
        }
        return Record(**found)
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged("the record of the last scrub is not readable", hint="another version wrote it") from error


async def read_record(stores: Mapping[str, ObjectStore], keyring: Keyring) -> Record:
    """The newest that any store gives; a new one where none does."""
    found = []
    for store in stores.values():
        body = await store.read(KEY)
        if isinstance(body, bytes):
            try:
                found.append(decode(body, keyring))
            except Damaged:
                continue
    return max(found, key=lambda each: (each.started, each.beat), default=Record())


async def write_record(stores: Mapping[str, ObjectStore], record: Record, keyring: Keyring, clock: Clock) -> None:
    """To every store that takes it."""
    record.beat += 1
    record.at = clock.now().isoformat(timespec="seconds")
    body = encode(record, keyring, bytes.fromhex(clock.new_id())[:NONCE_BYTES])
    for name, store in stores.items():
        if name not in record.away:
            await store.write(KEY, body)
