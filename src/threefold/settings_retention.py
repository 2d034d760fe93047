"""[retention] and [locks] of threefold.toml: how long what is stored stays, and may not be deleted."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from threefold.settings_values import Duration, Section

_LOCK_MOST = timedelta(days=3650)


class Retention(Section):
    """How long what is stored is kept; `threefold prune` goes by it."""

    pitr: Duration = Field(
        default=timedelta(days=7),
        description="Every moment of that long before the newest snapshot can be recovered. A duration.",
    )
    daily: int = Field(default=7, ge=0, description="The last snapshot of each of so many days is kept.")
    weekly: int = Field(default=4, ge=0, description="The last snapshot of each of so many weeks is kept.")
    monthly: int = Field(default=12, ge=0, description="The last snapshot of each of so many months is kept.")
    grace: Duration = Field(
        default=timedelta(hours=24),
        description="What is needed no more is marked, and deleted by a later `threefold prune`, at least that long "
        "afterwards, if it still is needed no more. A duration.",
    )
    repack_below: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="`threefold prune` writes packs anew of which less than this share is needed, so that the rest can "
        "go. 0: never.",
    )
    repack_least_mib: int = Field(
        default=64, ge=0, description="It does so only where that wins at least so much, on each store. MiB."
    )
    repack_most_mib: int = Field(
        default=16384, ge=1, description="So much is copied by one run at the most, on each store. MiB."
    )


class Locks(Section):
    """Retention locks: nobody deletes what a recovery needs, not even with our own credentials."""

    period: Duration = Field(
        default=timedelta(0),
        description="How long segments, packs, manifests, timelines and wrapped keys are locked at the stores; made "
        "longer while they are needed. 0s: no locks. A duration of days, 3650d at the most.",
    )
    mode: Literal["compliance", "governance"] = Field(
        default="compliance",
        description="What S3 calls the lock. compliance: nobody ends it early. governance: who has a right of its own "
        "can; never give that right to the keys of this file.",
    )

    @model_validator(mode="after")
    def _of_a_sensible_length(self) -> Locks:
        if self.period > _LOCK_MOST:
            raise ValueError("a lock lasts 3650d at the most: nobody ends a longer one if it was a slip")
        return self
