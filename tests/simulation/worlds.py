"""Worlds that lean to one side, in which variants of the protocol are looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.simulation.plan import Plan, plan_of
from tests.simulation.world import World

Bias = Callable[[World], Plan]


def any_world(world: World) -> Plan:
    return plan_of(world)


def _with(**changes: Any) -> Bias:
    return lambda world: replace(plan_of(world), **changes)


# Small segments, a live old leader that trims while it is taken over, one slow line.
trimming = _with(segment_bytes=64, entry_bytes=6, write_every=0.08, stall_every=2.0, stall_seconds=3.0, wipe_every=0.0)
# Stores that come and go.
shaky = _with(outage_every=2.5, fault=0.06, damage_every=0.0, wipe_every=0.0)
# Leaders that die early, sites that recover twice.
contended = _with(contend_every=1.5, disaster_every=4.0, blind=0.9, crash_every=4.0, wipe_every=0.0, damage_every=0.0)
# Lines that fail often, leaders that die in the middle of a segment.
hasty = _with(
    segment_bytes=64, entry_bytes=40, write_every=0.05, fault=0.15, crash_every=1.5, contend_every=1.5, stall_every=0.0,
    outage_every=3.0, wipe_every=0.0, damage_every=0.0,
)  # fmt: skip
# Disks that are lost.
forgetful = _with(wipe_every=4.0, damage_every=0.0, contend_every=2.0, outage_every=4.0)

# Sites that are left while they live, and come and go.
switching_sites = _with(
    switch_every=3.0, contend_every=4.0, blind=0.7, crash_every=9.0, outage_every=3.0, damage_every=0.0, wipe_every=0.0
)

# Stores that are replaced, one after the other, while everything else goes on.
replacing_stores = _with(
    replace_every=4.0, contend_every=4.0, blind=0.5, crash_every=8.0, outage_every=8.0, stall_every=5.0,
    stall_seconds=4.0, disaster_every=20.0, damage_every=0.0, wipe_every=0.0, read_every=2.0, seconds=60.0, fault=0.02,
)  # fmt: skip

WORLDS: dict[str, Bias] = {
    "any": any_world,
    "trimming": trimming,
    "shaky": shaky,
    "contended": contended,
    "hasty": hasty,
    "forgetful": forgetful,
    "switching": switching_sites,
    "replacing": replacing_stores,
}
