"""The simulated world: virtual time, chance from one seed, three stores, and processes that stall and crash.

Everything that happens is an event on one heap, ordered by (time, number), and every decision of chance comes from
one `random.Random`, so a seed reproduces a run exactly; `World.trace` is a checksum over all that happened.

What a store may do to a request (tests/simulation/README in prose: docs/explanation/simulation.md): delay and reorder
it, lose it, answer 503, apply it and lose the reply, apply it long after the client gave up, list without its newest
keys, be unreachable, hand out damaged bytes, and come back from an outage with an empty disk.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from threefold.kernel.errors import ThreefoldError
from threefold.quorum import keys
from threefold.quorum.requests import Ask, Create, Delete, List, Pause, Read, Request
from threefold.quorum.walk import SupersededError
from threefold.stores.store import ABSENT, Listed, Made, Page, Unknown

STORES = ("S1", "S2", "S3")
TIMEOUT_S = 1.0
PAGE_KEYS = 60

TIMED_OUT = Unknown("did not answer in time")
UNAVAILABLE = Unknown("503")
OTHER_DISK = Unknown("another incarnation of this store")


@dataclass(slots=True)
class Faults:
    """How often a request meets a fault."""

    lost: float = 0.0  # never arrives
    refused: float = 0.0  # 503, or 409 "two requests met": not applied
    late: float = 0.0  # applied up to a minute after the client gave up
    reply_lost: float = 0.0  # applied, but the client hears nothing
    stale_lists: float = 0.0  # a listing lacks the keys of the last seconds


class SimStore:
    """One store's disk, and the line to it."""

    def __init__(self, name: str, latency: float) -> None:
        self.name = name
        self.latency = latency
        self.faults = Faults()
        self.objects: dict[str, bytes] = {}
        self.under: dict[str, set[str]] = {}  # the keys by what stands before their last slash
        self.born: dict[str, float] = {}
        self.damaged: dict[str, bytes] = {}
        self.incarnation = 0
        self.up = True  # False: no answer at all
        self.gone = False  # the bucket is gone: errors, until somebody makes it anew

    def perform(self, request: Request, now: float, stale: bool) -> Any:
        """What the request does to the disk, and the answer."""
        match request:
            case Read(_, key, length):
                body = self.damaged.get(key)
                if body is None:
                    body = self.objects.get(key)
                    if body is None:
                        return ABSENT
                return body if length is None else body[:length]
            case Create(_, key, body):
                if key in self.objects:
                    return Made.EXISTS
                self.keep(key, body, now)
                return Made.CREATED
            case List(_, prefix, after):
                born = self.born
                found = sorted(
                    key for key in self.under.get(prefix, ()) if key > after and not (stale and born[key] > now - 5)
                )
                listed = tuple(Listed(key, len(self.objects[key])) for key in found[:PAGE_KEYS])
                return Page(listed, last=len(found) <= PAGE_KEYS)
            case Delete(_, names):
                for key in names:
                    if self.objects.pop(key, None) is not None:
                        self.under[key.rpartition("/")[0]].discard(key)
                    self.damaged.pop(key, None)
                return None

    def keep(self, key: str, body: bytes, now: float) -> None:
        self.objects[key] = body
        self.born[key] = now
        self.under.setdefault(key.rpartition("/")[0], set()).add(key)

    def wipe(self) -> None:
        """The disk is lost, and with it everything it held; requests for the old one are refused from now on."""
        self.objects.clear()
        self.under.clear()
        self.damaged.clear()
        self.incarnation += 1
        self.gone = True


class World:
    """Virtual time, chance, and the stores."""

    def __init__(self, seed: object, *, verbose: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.trace = 0
        self.requests = 0
        self.stores = {name: SimStore(name, self.rng.choice((0.004, 0.01, 0.03, 0.3))) for name in STORES}
        # Sees every request as it is applied, with its answer.
        self.watchers: list[Callable[[SimStore, Request, Any], None]] = []
        # Sees every deletion before it is applied.
        self.guards: list[Callable[[SimStore, Delete], None]] = []
        self._verbose = verbose
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def add(self, name: str) -> SimStore:
        """One store more, empty: nobody's member."""
        store = self.stores[name] = SimStore(name, self.rng.choice((0.004, 0.01, 0.03, 0.3)))
        store.faults = next(iter(self.stores.values())).faults
        return store

    def at(self, delay: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, event))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Perform events up to a time, or until ``done``."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, event = heapq.heappop(heap)
            event()
            if done():
                return
        self.now = until

    def note(self, text: str) -> None:
        """Something worth reading in a trace."""
        self.trace = zlib.crc32(f"{self.now!r} {text}".encode(), self.trace)
        if self._verbose:
            print(f"{self.now:10.4f}  {text}")

    def send(
        self, process: Process, request: Request, reply: Callable[[Any], None], incarnation: int | None = None
    ) -> None:
        """Perform one request: exactly one reply to the process, now or at its time-out."""
        self.requests += 1
        store = self.stores[request.store]
        faults, rng, sent = store.faults, self.rng, self.now
        there = store.latency * (0.5 + rng.random())
        back = store.latency * (0.5 + rng.random())
        fate = rng.random()
        if fate < 0.03:
            there *= 10
        heard = True
        if fate > 0.5:  # the lower half is what the line above uses
            fate = 1 - fate
            if fate < faults.lost:
                self.at(TIMEOUT_S, lambda: process.deliver(lambda: reply(TIMED_OUT)))
                return
            fate -= faults.lost
            if 0 <= fate < faults.refused:
                self.at(there + back, lambda: process.deliver(lambda: reply(UNAVAILABLE)))
                return
            fate -= faults.refused
            if 0 <= fate < faults.late:
                there = TIMEOUT_S + rng.random() ** 3 * 60
                self.at(TIMEOUT_S, lambda: process.deliver(lambda: reply(TIMED_OUT)))
                heard = False
            fate -= faults.late
            if heard and 0 <= fate < faults.reply_lost:
                heard = False
                told = TIMEOUT_S if rng.random() < 0.5 else there + back
                self.at(told, lambda: process.deliver(lambda: reply(TIMED_OUT)))
        if heard and there >= TIMEOUT_S:
            heard = False
            self.at(TIMEOUT_S, lambda: process.deliver(lambda: reply(TIMED_OUT)))
        stale = rng.random() < faults.stale_lists if type(request) is List else False

        def arrive() -> None:
            if not store.up:
                if rng.random() < 0.2 and type(request) is Create:  # it waits somewhere on the way
                    self.at(rng.random() * 20, lambda: self._apply(store, request, incarnation, stale))
                if heard:
                    self.at(max(0.0, sent + TIMEOUT_S - self.now), lambda: process.deliver(lambda: reply(TIMED_OUT)))
                return
            answer = self._apply(store, request, incarnation, stale)
            if heard:
                if self.now + back > sent + TIMEOUT_S:
                    answer = TIMED_OUT
                    self.at(sent + TIMEOUT_S - self.now, lambda: process.deliver(lambda: reply(answer)))
                else:
                    self.at(back, lambda: process.deliver(lambda: reply(answer)))

        self.at(there, arrive)

    def _apply(self, store: SimStore, request: Request, incarnation: int | None, stale: bool) -> Any:
        if not store.up or store.gone:
            return UNAVAILABLE
        if incarnation is not None and incarnation != store.incarnation:
            return OTHER_DISK
        if type(request) is Delete:
            for guard in self.guards:
                guard(store, request)
        answer = store.perform(request, self.now, stale)
        key = getattr(request, "key", "")
        self.trace = zlib.crc32(key.encode(), self.trace ^ (self._number & 0xFFFFFFFF))
        if self._verbose and type(request) in (Create, Delete):
            print(f"{self.now:10.4f}    {store.name} {type(request).__name__} {key or ' '.join(request.keys)} {answer}")
        for watch in self.watchers:
            watch(store, request, answer)
        return answer


class Process:
    """Something that may stall (events wait for it) and crash (they are lost)."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.wakes = 0.0

    @property
    def stalled(self) -> bool:
        return self.world.now < self.wakes

    def deliver(self, event: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.world.now < self.wakes:
            self.world.at(self.wakes - self.world.now, lambda: self.deliver(event))
            return
        event()

    def later(self, delay: float, event: Callable[[], None]) -> None:
        self.world.at(delay, lambda: self.deliver(event))

    def stall(self, seconds: float) -> None:
        self.world.note(f"{self.name} stalls for {seconds:.1f} s")
        self.wakes = max(self.wakes, self.world.now + seconds)

    def crash(self, why: str = "crashes") -> None:
        if self.alive:
            self.world.note(f"{self.name} {why}")
        self.alive = False


@dataclass(slots=True)
class Running:
    """A procedure under way in a process, as driver.py performs it."""

    process: Process
    procedure: Generator[Any, Any, Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    pins: dict[str, int] = field(default_factory=dict)  # the incarnation this client saw of each store

    def start(self) -> Running:
        self._resume(None)
        return self

    def _resume(self, value: Any) -> None:
        try:
            step = self.procedure.send(value)
        except StopIteration as end:
            self.done(end.value)
            return
        except (ThreefoldError, SupersededError, ValueError) as error:
            self.failed(error)
            return
        if isinstance(step, Pause):
            pause = step.seconds * (0.5 + self.process.world.rng.random())
            self.process.later(pause, lambda: self._resume(None))
        else:
            self._ask(step)

    def _ask(self, ask: Ask) -> None:
        answers: dict[int, Any] = {}
        wanted, enough, over = len(ask.requests), ask.enough, False

        grace = getattr(ask, "grace", 0.0)  # how much longer to wait for the others, once there is enough

        def go_on(heard: int) -> None:
            nonlocal over
            if not over and len(answers) == heard:
                over = True
                self._resume(answers)

        def take(place: int, answer: Any) -> None:
            if over:
                return
            answers[place] = answer
            heard = len(answers)
            if heard == wanted:
                go_on(heard)
            elif enough(answers):
                if grace:
                    self.process.later(grace, lambda: go_on(heard))
                else:
                    go_on(heard)

        if not wanted:
            self._resume({})
        world, process, pins = self.process.world, self.process, self.pins
        for place, request in enumerate(ask.requests):
            pin = None if type(request) is Read and request.key == keys.FORMAT else pins.get(request.store)
            world.send(process, request, lambda answer, place=place: take(place, answer), pin)


def at_once(world: World, procedure: Generator[Any, Any, Any], stores: tuple[str, ...], pauses: int = 60) -> Any:
    """Run a reading procedure at this very moment, with stores that answer; TimeoutError where it cannot decide."""
    value: Any = None
    while True:
        try:
            step = procedure.send(value)
        except StopIteration as end:
            return end.value
        if isinstance(step, Pause):
            pauses -= 1
            if not pauses:
                raise TimeoutError
            value = None
            continue
        value = {
            place: world.stores[request.store].perform(request, world.now, stale=False)
            for place, request in enumerate(step.requests)
            if request.store in stores
        }
