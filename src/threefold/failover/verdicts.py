"""What the detector may conclude, and how that is said."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    HEALTHY = "healthy"
    SLOW = "slow"  # it answers late, or not to everybody: not dead
    SERVICE_DISRUPTION = "service-disruption"  # its host or its site answers, PostgreSQL does not serve
    NETWORK_FAILURE = "network-failure"  # others see it alive, we do not
    SITE_FAILURE = "site-failure"  # nobody sees it, and nothing else of its site is heard
    STORE_FAILURE = "store-failure"  # the primary is well, one or two stores are not
    CUT_OFF = "cut-off"  # we see no quorum of stores: it is us
    UNKNOWN = "unknown"  # not enough was seen yet


@dataclass(frozen=True, slots=True)
class Verdict:
    """``since``: when what it says began, on the caller's monotonic clock, less what we slept through.

    ``give_up``: it has lasted longer than [failover] allows, so the site is to be given up. Whether it is then left
    is the policy's business, and whether that is safe is the epoch's (quorum-log); never this verdict's.
    """

    kind: Kind
    sentence: str
    evidence: tuple[str, ...]
    since: float
    give_up: bool = False
    lasted_s: float = 0.0  # of attended time
