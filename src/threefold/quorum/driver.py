"""The hands of the quorum log: performs what the pure parts ask, against real stores.

Nothing is decided here. A request that is no longer waited for is left to finish: it may land later or never, and the
protocol expects both.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable
from threefold.kernel.lsn import Lsn
from threefold.quorum.appender import Appender, Encode, Encoded, Send
from threefold.quorum.objects import Codec
from threefold.quorum.requests import Answer, Ask, Create, Delete, List, Pause, Procedure, Read, Request, T
from threefold.stores.store import ObjectStore, Unknown, create_at_once, hangs

# How many reads of one store may go on unheard: few enough for the descriptors of one process.
_READS_LEFT_ALONE = 128


class Driver:
    """Performs requests and procedures."""

    def __init__(self, stores: Mapping[str, ObjectStore], clock: Clock) -> None:
        self._stores = stores
        self._clock = clock
        self._left_alone: set[asyncio.Task[Answer]] = set()
        self._reads_left_alone: dict[str, dict[asyncio.Task[Answer], None]] = {}  # oldest first
        self._hangs: set[str] = set()  # stores that were waited for in vain, and have answered nothing since

    async def perform(self, request: Request) -> Answer:
        store = self._stores[request.store]
        match request:
            case Create(_, key, body):
                return await store.create(key, body)
            case Read(_, key, length):
                return await store.read(key, length=length)
            case List(_, prefix, after):
                return await store.list(prefix, after=after)
            case Delete(_, keys):
                return await store.delete(keys)

    def create_at_once(self, request: Create, hear: Callable[[Answer], None]) -> bool:
        """As `store.create_at_once`."""
        return create_at_once(self._stores[request.store], request.key, request.body, hear)

    async def run(self, procedure: Procedure[T], *, patience: float | None = None) -> T:
        """Run to the end, or raise Unavailable, naming what did not answer.

        ``patience``: how many seconds nothing new may be read. A long log takes its time; who waits asks the same.
        """
        doubts: dict[str, str] = {}
        read: set[str] = set()
        try:
            async with asyncio.timeout(patience) as limit:
                step = next(procedure)
                while True:
                    if isinstance(step, Pause):
                        await self._clock.sleep(step.seconds * (0.5 + self._clock.random()))
                        step = procedure.send(None)
                    else:
                        further = {request.key for request in step.requests if isinstance(request, Read)} - read
                        if patience is not None and further:
                            limit.reschedule(asyncio.get_running_loop().time() + patience)
                            read |= further
                        step = procedure.send(await self._ask(step, doubts))
        except StopIteration as done:
            result: T = done.value
            return result
        except TimeoutError:
            reasons = "; ".join(f"{store}: {reason}" for store, reason in sorted(doubts.items()))
            raise Unavailable(
                f"too few stores answered in {patience:g} s ({reasons or 'no answer'})",
                hint="two of the three stores are needed: see `threefold status`",
            ) from None
        finally:
            procedure.close()

    async def _ask(self, ask: Ask, doubts: dict[str, str]) -> dict[int, Answer]:
        tasks = {asyncio.create_task(self.perform(request)): place for place, request in enumerate(ask.requests)}
        answers: dict[int, Answer] = {}
        # Each task tells of itself: asyncio.wait would go over all of them for each one that is done.
        came: deque[asyncio.Task[Answer]] = deque()
        arrived = asyncio.Event()

        def tell(task: asyncio.Task[Answer]) -> None:
            came.append(task)
            arrived.set()

        for task in tasks:
            task.add_done_callback(tell)
        try:
            while len(answers) < len(tasks):
                # A store that hangs is given its moment once, not with each of a dozen steps that follow.
                late = {request.store for place, request in enumerate(ask.requests) if place not in answers}
                grace = ask.grace if ask.enough(answers) else None
                if grace is not None and (grace == 0.0 or all(self._known_to_hang(store) for store in late)):
                    break
                try:
                    async with asyncio.timeout(grace):
                        await arrived.wait()
                except TimeoutError:
                    self._hangs |= late
                    break
                arrived.clear()
                while came:
                    task = came.popleft()
                    answer = answers[tasks[task]] = task.result()
                    store = ask.requests[tasks[task]].store
                    if isinstance(answer, Unknown):
                        doubts[store] = answer.reason
                    else:
                        doubts.pop(store, None)
                        self._hangs.discard(store)
        finally:
            for task, place in tasks.items():
                if not task.done():
                    self._leave_alone(task, ask.requests[place])
        return answers

    def _known_to_hang(self, store: str) -> bool:
        return store in self._hangs or hangs(self._stores[store])

    def _leave_alone(self, task: asyncio.Task[Answer], request: Request) -> None:
        """Keep it until it is done. Reads behind a store that hangs would pile up, a connection each: the oldest go."""

        def heard(done: asyncio.Task[Answer]) -> None:
            self._left_alone.discard(done)
            if not done.cancelled() and done.exception() is None and not isinstance(done.result(), Unknown):
                self._hangs.discard(request.store)

        self._left_alone.add(task)
        task.add_done_callback(heard)
        if isinstance(request, Read | List):
            reads = self._reads_left_alone.setdefault(request.store, {})
            reads[task] = None
            task.add_done_callback(lambda done: reads.pop(done, None))
            for oldest in list(reads)[: max(len(reads) - _READS_LEFT_ALONE, 0)]:
                oldest.cancel()


class LogWriter:
    """Drives an Appender: `offer` bytes, and hear of the settled LSN."""

    def __init__(
        self, driver: Driver, appender: Appender, codec: Codec, clock: Clock, on_settled: Callable[[Lsn], None]
    ) -> None:
        self.appender = appender
        self.fenced = asyncio.Event()
        self._driver = driver
        self._codec = codec.fork()
        self._clock = clock
        self._on_settled = on_settled
        self._told = appender.settled
        self._loop = asyncio.get_running_loop()  # asking again costs a system call before Python 3.12
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._turn = asyncio.Event()

    def offer(self, *data: bytes | memoryview) -> None:
        """The next bytes of the log, in pieces as they came."""
        for piece in data:
            self.appender.offer(piece)
        self.pump()

    async def room(self, most: int) -> None:
        """Wait until fewer than ``most`` bytes are buffered, so that a primary that runs ahead is held back."""
        while self.appender.buffered >= most and not self.fenced.is_set():
            self._room.clear()
            await self._room.wait()

    async def turn(self, patience: float) -> None:
        """Wait until no slot is under way, ``patience`` seconds at the most: what arrives meanwhile shares the next."""
        if not self.appender.unsettled:
            return
        over = False

        def end() -> None:
            # A timer may fire a little early: going by the clock, we would wait again, and nothing might end that.
            nonlocal over
            over = True
            self._turn.set()

        timer = self._loop.call_later(patience, end)
        try:
            while self.appender.unsettled and not over and not self.fenced.is_set():
                self._turn.clear()
                await self._turn.wait()
        finally:
            timer.cancel()

    def pump(self) -> None:
        """Start whatever the appender wants started."""
        for send in self.appender.poll(self._clock.monotonic()):
            if not self._begin(send):
                task = self._loop.create_task(self._perform(send))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._set_timer()

    def _begin(self, send: Send) -> bool:
        """A create, which is what commits wait for, without a task of its own where the store can."""
        request = send.request
        return isinstance(request, Create) and self._driver.create_at_once(request, partial(self._heard, send.token))

    async def close(self) -> None:
        """Stop asking. What is under way may still land; nothing more is acknowledged."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _perform(self, send: Send) -> None:
        answer: Answer | Encoded
        if isinstance(send.request, Encode):
            codec = self._codec.fork()  # one thread's; a bundle may be encoded beside a segment
            answer = Encoded(await asyncio.to_thread(codec.encode_parts, send.request.header, send.request.parts))
        else:
            answer = await self._driver.perform(send.request)
        self._heard(send.token, answer)

    def _heard(self, token: int, answer: Answer | Encoded) -> None:
        if self._closed:
            return
        self.appender.answer(token, answer, self._clock.monotonic())
        if self.appender.fenced:
            self.fenced.set()
            self._room.set()
            self._turn.set()
            return
        if self.appender.settled != self._told:
            self._told = self.appender.settled
            self._turn.set()
            self._on_settled(self._told)
        self.pump()
        self._room.set()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.appender.next_retry()
        if at is not None:
            wait = max(at - self._clock.monotonic(), 0.001)
            self._timer = self._loop.call_later(wait, self.pump)
