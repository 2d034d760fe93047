"""Redundancy deficiency: what is missing of three stores, a protected server and a standby; since when, how often.

A system that serves after a disaster looks well, and one more failure ends it: so the lack is told everywhere, with
its duration, until it is mended. Pure. Durations are counted by the agent's own clock while it runs; over its restart,
and only then, by the difference of two wall times, which may be wrong by what the clock jumped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_KINDS = {
    "stores": "fewer than three stores vote",
    "standby": "no standby is ready to take over",
    "unprotected": "the active site is not protected",
}


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that is missing now."""

    what: str  # stores, standby, unprotected
    text: str
    since_s: float


@dataclass(frozen=True, slots=True)
class Deficiency:
    """``lasting``: seconds each lack has lasted; ``count`` and ``total_s``: deficient spells so far, this one too."""

    lasting: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    total_s: float = 0.0
    spell_s: float = 0.0  # since something has been missing without a break

    @property
    def deficient(self) -> bool:
        return bool(self.lasting)

    def lacks(self) -> tuple[Lack, ...]:
        return tuple(Lack(what, self.texts.get(what, what), since) for what, since in sorted(self.lasting.items()))

    def observe(self, passed_s: float, missing: Mapping[str, str]) -> Deficiency:
        """``passed_s`` seconds later ``missing`` (kind -> words, "" for the usual ones) is missing."""
        passed = max(0.0, passed_s)
        lasting = {what: self.lasting[what] + passed if what in self.lasting else 0.0 for what in missing}
        texts = {what: text or _KINDS.get(what, what) for what, text in missing.items()}
        was = self.deficient
        return replace(
            self,
            lasting=lasting,
            texts=texts,
            count=self.count + (bool(missing) and not was),
            total_s=self.total_s + (passed if was else 0.0),
            spell_s=(self.spell_s + passed if was else 0.0) if missing else 0.0,
        )

    def record(self) -> dict[str, Any]:
        """For the agent's beacon."""
        lacks = [{"what": each.what, "text": each.text, "since_s": round(each.since_s, 1)} for each in self.lacks()]
        return {
            "lacks": lacks,
            "count": self.count,
            "total_s": round(self.total_s, 1),
            "spell_s": round(self.spell_s, 1),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], *, away_s: float) -> Deficiency:
        """As the beacon told it ``away_s`` ago: nobody looked since, so what lacked is taken to have lacked on."""
        lacks = record.get("lacks", ())
        told = cls(
            lasting={str(each["what"]): float(each["since_s"]) for each in lacks},
            texts={str(each["what"]): str(each["text"]) for each in lacks},
            count=int(record.get("count", 0)),
            total_s=float(record.get("total_s", 0.0)),
            spell_s=float(record.get("spell_s", 0.0)),
        )
        return told.observe(away_s, told.texts) if told.deficient else told


def missing_now(
    *, stores_voting: int | None, standby_ready: bool, standby_why: str, protected: bool, protected_why: str
) -> dict[str, str]:
    """What is missing. ``stores_voting``: None where nobody could tell."""
    missing: dict[str, str] = {}
    if stores_voting is not None and stores_voting < 3:
        missing["stores"] = f"{stores_voting} of three stores vote"
    if not standby_ready:
        missing["standby"] = standby_why
    if not protected:
        missing["unprotected"] = protected_why
    return missing
