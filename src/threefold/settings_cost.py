"""[cost] of threefold.toml."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from threefold.settings_values import Duration, Section


class Cost(Section):
    """What `threefold cost` cannot measure: assumed, until you write your own figures.

    Money is in the price table's currency.
    """

    prices: Path | None = Field(
        default=None, description="Your own price table. Absent: the one that is shipped, which says how old it is."
    )
    setup_hours: float = Field(default=16, ge=0, description="Hours of work until protection ran.")
    hour_of_work: float = Field(default=60, ge=0, description="What an hour of work costs.")
    years: float = Field(default=3, gt=0, description="Over how many years the starting expenditure is spread.")
    disasters_per_year: float = Field(
        default=0.05, ge=0, description="How often the primary's site is lost: 0.05 is once in twenty years."
    )
    store_lost_per_year: float = Field(
        default=0.01, ge=0, le=1, description="The chance that a provider loses what it holds, in a year."
    )
    hour_of_downtime: float = Field(default=500, ge=0, description="What an hour without the CRM costs.")
    lost_change: float = Field(
        default=5, ge=0, description="What a confirmed change that is lost costs. Only async loses any."
    )
    everything: float = Field(default=500000, ge=0, description="What it would cost to lose all of the CRM's data.")
    notice: Duration = Field(
        default=timedelta(minutes=10),
        description="How long until a person acts, where the switch is not automatic or the standby cold. A duration.",
    )
