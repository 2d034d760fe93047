"""What may befall a simulated system, and how often.

`plan_of` draws a plan from the world's chances, so that every seed is a different world.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.simulation.world import World


@dataclass(frozen=True)
class Plan:
    """What may happen, and how often (mean seconds between two of a kind; 0 for never)."""

    seconds: float = 60.0
    segment_bytes: int = 128
    bundle_slots: int = 4
    entry_bytes: int = 16
    write_every: float = 0.15
    fault: float = 0.03  # how likely a request meets each kind of fault
    outage_every: float = 12.0
    stall_every: float = 8.0
    stall_seconds: float = 30.0
    crash_every: float = 15.0
    contend_every: float = 10.0
    blind: float = 0.4  # contenders that do not look first
    disaster_every: float = 25.0
    partition: float = 0.5  # disasters that only cut the site off: it lives on
    read_every: float = 6.0
    wipe_every: float = 0.0
    damage_every: float = 0.0
    sleepy: float = 0.5  # stalls that begin just when somebody else takes over
    switch_every: float = 0.0  # then other sites become active by switches alone
    replace_every: float = 0.0  # stores are replaced by others


def plan_of(world: World) -> Plan:
    rng = world.rng
    plan = Plan(
        seconds=rng.choice((15.0, 25.0, 40.0)),
        segment_bytes=rng.choice((64, 64, 128, 256)),
        entry_bytes=rng.choice((6, 12, 40)),
        write_every=rng.choice((0.15, 0.3, 0.6)),
        fault=rng.choice((0.0, 0.01, 0.04, 0.1)),
        outage_every=rng.choice((6.0, 20.0)),
        stall_every=rng.choice((3.0, 8.0)),
        stall_seconds=rng.choice((4.0, 20.0, 90.0)),
        crash_every=rng.choice((6.0, 20.0)),
        contend_every=rng.choice((3.0, 10.0)),
        disaster_every=rng.choice((7.0, 25.0)),
        blind=rng.choice((0.2, 0.8)),
    )
    special = rng.random()
    if special < 0.25:
        return replace(plan, wipe_every=8.0)
    if special < 0.45:
        return replace(plan, damage_every=4.0)
    return plan
