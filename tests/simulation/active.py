"""What the journal of switches says to who wants to lead: bootstrap.where_of, for the simulated world."""

from __future__ import annotations

from threefold.failover.steps import Kind, Switches


def won(switches: Switches) -> int:
    """The number of the switch that made the active site active."""
    return next((each.number for each in reversed(switches.all) if each.took_over), 0)


def waits(switches: Switches) -> bool:
    """Whether nobody may begin an epoch now (bootstrap.where_of)."""
    newest = switches.newest
    active = next((each for each in reversed(switches.all) if each.took_over), None)
    coming = active is not None and active.last.kind is Kind.PROMOTING
    return coming or (newest is not None and newest.under_way)
