"""The replacement of a store, broken on purpose: who votes too early, and who goes by old settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tests.simulation.broken.patching import patched
from tests.simulation.leader import Leader
from tests.simulation.replacing import Operator
from threefold.quorum import reading, start, takeover
from threefold.quorum.membership import Named


def votes_before_it_is_full() -> Any:
    """The store that joins is counted in with nothing but its format object."""
    return patch.object(Operator, "copy", lambda *_: None)


def fills_before_the_old_three_are_fenced() -> Any:
    """What was copied ahead is believed to be all."""

    def make(copy: Any) -> Any:
        def ahead(self: Operator, leader: Leader, sources: Any, target: Any) -> None:
            if not leader.membership.is_joint:
                copy(self, leader, sources, target)

        return ahead

    return patched(Operator, "copy", make)


def _unchecked() -> Any:
    """Production refuses to make such a step at all (membership.check_step)."""
    return patch.object(start, "check_step", lambda *_: None)


@contextmanager
def seals_on_two_of_the_new_three() -> Iterator[None]:
    """No middle: who goes by it counts the store that joins as well."""

    def make(voters: Any) -> Any:
        return lambda self, now: (*voters(self, now), now.joining) if now.is_joint else voters(self, now)

    def asked(_self: Leader, _change: Any, scope: Any) -> Any:
        return scope

    with patched(Named, "voters", make), patch.object(Leader, "_asked_for", asked), _unchecked():
        yield


@contextmanager
def goes_back_by_two_of_the_old_three() -> Iterator[None]:
    """In the middle the store that leaves still counts, if the settings know it."""

    def make(voters: Any) -> Any:
        def more(self: Any, now: Any) -> Any:
            found = voters(self, now)
            return (*found, now.leaving) if now.is_joint and now.leaving in self.stores else found

        return more

    def asked(_self: Leader, _change: Any, scope: Any) -> Any:
        return scope

    with patched(Named, "voters", make), patch.object(Leader, "_asked_for", asked), _unchecked():
        yield


@contextmanager
def takes_over_with_old_settings() -> Iterator[None]:
    """Whoever takes over goes by the membership that it knew, whatever it finds."""
    with patch.object(takeover, "same_membership", lambda *_: None), _unchecked():
        yield


def reads_with_old_settings() -> Any:
    return patch.object(reading, "same_membership", lambda *_: None)
