"""What the demo ends with: the numbers, and whether the promise was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from threefold.demo.judge import Verdict
from threefold.demo.ledger import Ack


@dataclass(frozen=True, slots=True)
class Pace:
    """How the writers fared for a while."""

    seconds: float
    changes: int
    p50_ms: float
    p99_ms: float
    longest_gap_ms: float  # between two acks of anybody

    @property
    def per_second(self) -> float:
        return self.changes / self.seconds if self.seconds else 0.0

    @classmethod
    def of(cls, acks: Sequence[Ack], seconds: float) -> Pace:
        took = sorted(ack.ms for ack in acks)
        at = sorted(ack.at for ack in acks)
        gaps = [(later - earlier).total_seconds() * 1000 for earlier, later in pairwise(at)]
        return cls(seconds, len(acks), _rank(took, 50), _rank(took, 99), max(gaps, default=0.0))


@dataclass(slots=True)
class Outcome:
    """Filled in act by act."""

    postgresql: str = ""
    rows_loaded: int = 0
    database_bytes: int = 0
    snapshot: Mapping[str, Any] = field(default_factory=dict)
    healthy: Pace | None = None
    one_store_stopped: Pace | None = None
    filled_in_seconds: float = 0.0
    after_the_mistake: Pace | None = None
    contacts_deleted: int = 0
    puts: Mapping[str, int] = field(default_factory=dict)
    stored_bytes: Mapping[str, int] = field(default_factory=dict)
    recovery: Mapping[str, Any] = field(default_factory=dict)
    writable_seconds: float = 0.0  # from the blow to the first new change in the recovered database
    latest: Verdict | None = None
    crm: Mapping[str, Any] = field(default_factory=dict)  # where its pages are, and a link that lets a device in
    crm_seconds: float = 0.0  # from the blow to the first page
    before: Mapping[str, Any] = field(default_factory=dict)  # the second recovery
    before_verdict: Verdict | None = None
    contacts_back: int = 0

    @property
    def exact(self) -> bool:
        """The promise, and nothing less."""
        verdicts = (self.latest, self.before_verdict)
        exact = all(verdict is not None and verdict.exact for verdict in verdicts)
        return exact and self.contacts_back == self.contacts_deleted > 0

    def facts(self) -> dict[str, Any]:
        facts = asdict(self)
        for name in ("latest", "before_verdict"):
            if facts[name] is not None:  # the sentences of a broken promise, but not thousands of them
                facts[name] |= {kind: facts[name][kind][:20] for kind in ("lost", "altered", "unexplained")}
        return {**facts, "exact": self.exact}


def _rank(ascending: Sequence[float], percent: int) -> float:
    """Nearest rank; 0 of nothing."""
    return ascending[max(0, -(-len(ascending) * percent // 100) - 1)] if ascending else 0.0
