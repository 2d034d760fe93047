"""The books of a campaign: every operation and answer, and what each key may hold."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from dataclasses import dataclass

from tests.torture.model import Operation, Said, Seen, State, Verb, Version, Violation, allowed_after

Name = tuple[str, str]  # bucket and key
_ABSENT: frozenset[State] = frozenset({None})


@dataclass(frozen=True, slots=True)
class Shown:
    """One object of a listing."""

    etag: str
    size: int


class Ledger:
    def __init__(self) -> None:
        self.allowed: dict[Name, frozenset[State]] = {}
        self.bodies: dict[str, bytes] = {}
        self.buckets: set[str] = set()  # that stand for certain
        self.asked_buckets: set[str] = set()  # that may stand
        self.files: set[str] = set()  # ETags of objects that were put as parts: files whatever their size
        self.operations = 0
        self.newest: dict[Name, str] = {}  # the ETag last heard of: what a conditional put expects
        self._under_way: dict[Name, list[Operation]] = defaultdict(list)
        self._moment = 0

    # what happens

    def body(self, data: bytes) -> str:
        """Its ETag; from now on it may be met."""
        etag = hashlib.sha256(data).hexdigest()
        self.bodies[etag] = data
        return etag

    def moment(self) -> int:
        self._moment += 1
        return self._moment

    def begin(self, name: Name, verb: Verb, **more: object) -> Operation:
        operation = Operation(verb, self.moment(), from_ms=time.time() * 1000, **more)  # type: ignore[arg-type]
        self._under_way[name].append(operation)
        return operation

    def end(self, operation: Operation, said: Said, seen: Seen | None = None) -> None:
        operation.ended, operation.said, operation.seen = self.moment(), said, seen
        operation.to_ms = time.time() * 1000

    def never_sent(self, name: Name, operation: Operation) -> None:
        self._under_way[name].remove(operation)

    def listed(self, name: Name, began: int, shown: Shown | None) -> None:
        """A listing that was asked for at ``began`` showed this, None: that there is nothing."""
        seen = self.seen_listed(name, shown)
        self._under_way[name].append(Operation(Verb.READ, began, seen=seen, said=Said.DONE, ended=self.moment()))

    def seen_listed(self, name: Name, shown: Shown | None) -> Seen:
        if shown is None:
            return Seen(None)
        if shown.etag not in self.bodies or len(self.bodies[shown.etag]) != shown.size:
            raise Violation(f"{name} was listed as {shown}, which nobody put")
        return Seen(shown.etag)

    def known(self, bucket: str) -> set[str]:
        """Keys that may stand, or were asked for since the last crash."""
        return {key for there, key in [*self.allowed, *self._under_way] if there == bucket}

    # what a crash leaves

    def crash(self) -> None:
        """Every operation has been answered, or never will be. Raises Violation."""
        for name, operations in self._under_way.items():
            try:
                allowed = allowed_after(self.allowed.get(name, _ABSENT), operations)
            except Violation as error:
                raise Violation(f"{name}: {error}") from None
            self._allow(name, allowed)
        self._under_way.clear()

    def found(self, name: Name, seen: Seen) -> None:
        """After a restart, with nothing under way: it is so from now on. Raises Violation."""
        allowed = self.allowed.get(name, _ABSENT)
        fitting = frozenset(state for state in allowed if seen.fits(state))
        if not fitting:
            raise Violation(f"{name}: found {seen}, allowed {set(allowed)}")
        self._allow(name, fitting)

    def _allow(self, name: Name, states: frozenset[State]) -> None:
        if states == _ABSENT:
            self.allowed.pop(name, None)
        else:
            self.allowed[name] = states

    def standing(self, bucket: str) -> dict[str, Version]:
        """After a check: what stands in a bucket."""
        there = {}
        for (where, key), states in self.allowed.items():
            if where == bucket:
                (state,) = states
                if state is not None:
                    there[key] = state
        return there
