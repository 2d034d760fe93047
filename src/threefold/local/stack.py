"""Everything of one folder, running: storage servers, PostgreSQL, agent, DRaaS server, CRM: separate processes.

Started in the order in which they need each other, stopped in the reverse one. The storage servers and the DRaaS
server are the commands that anybody would run (``threefold storage serve``, ``threefold protect``), with the same
settings; PostgreSQL is its own. Their process ids lie in ``run/``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from threefold.bootstrap import agent_lock
from threefold.kernel.clock import Clock
from threefold.kernel.errors import BadInput, Damaged, Fenced, NotThere, Refused, Unavailable
from threefold.local.home import Home
from threefold.local.lost_primary import Found, look, wants_recovery
from threefold.local.primary import Primary
from threefold.local.processes import Child, Hear, alive, answers, refuse_taken, start, until
from threefold.postgres.binaries import find_binaries, major_of
from threefold.postgres.server import Server
from threefold.protect.child import is_locked
from threefold.recover.destination import refuse_running
from threefold.settings import Store
from threefold.storage_server.serve import create_bucket

PROTECT = "protect"
STANDBY = "standby"
CRM = "crm"
PRIMARY = "primary"
_CRM_PATIENCE_S = 90  # its tables are made first
# What a verb of ours ended with is what we end with: who reads the exit code need not know which process it was.
_KINDS = {kind.__name__: kind for kind in (BadInput, Refused, Fenced, Unavailable, Damaged, NotThere)}


class Stack:
    """The processes of one home."""

    def __init__(
        self, home: Home, clock: Clock, hear: Hear, *, pretty_logs: bool = False, logs_to_files: bool = False
    ) -> None:
        """``logs_to_files``: what the processes say goes to ``log/``, so that they can outlive us."""
        self._environment = {"THREEFOLD_LOG": "pretty" if pretty_logs else "json"}
        self.home = home
        self.primary = Primary(home, clock)
        self.children: dict[str, Child] = {}
        self._clock = clock
        self._hear = hear
        self._noted: set[str] = set()  # whose process id lies in run/
        self._logs_to_files = logs_to_files

    async def start_stores(self, *, but: str | None = None) -> None:
        """Raises Refused where another `threefold up` runs, or something lies where the primary goes (`look`)."""
        self._refuse_a_second()
        look(self.home.primary)
        await asyncio.gather(*(self.start_store(store) for store in self.home.settings.store if store.name != but))

    async def begin_store(self, name: str) -> bool:
        """Start a store that lost its disk, empty; False: it had not. The DRaaS server fills it and counts it in.

        After a recovery, which asks the others only then: what is empty has nothing to say.
        """
        (store,) = (each for each in self.home.settings.store if each.name == name)
        refuse_taken(self.home.address(store), name)  # before its folder is made
        bucket = urlsplit(store.url).netloc
        new = await asyncio.to_thread(create_bucket, self.home.storage(name), bucket)
        await self.start_store(store)
        return new

    async def start_store(self, store: Store) -> None:
        address = self.home.address(store)
        refuse_taken(address, store.name)
        arguments = ["storage", "serve", "--data", str(self.home.storage(store.name)), "--listen", address]
        keys = {
            "THREEFOLD_STORAGE_ACCESS_KEY_ID": self.home.settings.secret(store.access_key_id or ""),
            "THREEFOLD_STORAGE_SECRET_ACCESS_KEY": self.home.settings.secret(store.secret_access_key or ""),
        }
        child = await self._start(store.name, arguments, keys)
        await until(answers(address), child, f"it served {address}")

    async def recover_primary(self, told_to: bool, note: Callable[[str], None]) -> None:
        """Where its folder is gone, or half restored: get it back, if we are told to, before it is started.

        Raises Refused or Unavailable where it may not be started, and may not be recovered either.
        """
        found = look(self.home.primary)
        if found is Found.DATABASE:
            if told_to:
                note(f"{self.home.primary} is there: nothing to get back")
            return
        status = await self.run("status")
        site = self.home.settings.sites()[0].name
        if wants_recovery(found, self.home.primary, status, site=site, told_to=told_to):
            await self._recover_primary(note)

    async def _recover_primary(self, note: Callable[[str], None]) -> None:
        """Up to the promotion, which `recover --start` waits for as long as the replay goes on.

        It also takes back the settings that only a recovery needs. Its server is stopped again: the one that goes on
        is started as always, with our settings and log file. Nothing is committed on it before it is protected, or
        only by whoever connects at once; it waits for no standby then (overrides.SEVERED), so it stops at once too.
        """
        refuse_taken(f"127.0.0.1:{self.home.primary_port}", "PostgreSQL")
        refuse_running(self.home.primary)  # what runs there afterwards is ours to stop
        note("getting the primary back from the stores")
        try:
            await self.run(
                "recover", "--into", str(self.home.primary), "--start", "--port", str(self.home.primary_port), note=note
            )
        finally:
            await self.primary.stop_recovered()

    async def start_primary(self) -> bool:
        """True where it was made just now."""
        new = await self.primary.start()
        if self.primary.pid is not None:
            self._note(PRIMARY, self.primary.pid)
        return new

    async def start_protect(self) -> None:
        """Returns when it streams, and commits wait for it from then on."""
        child = await self._start(PROTECT, [PROTECT, "--config", str(self.home.config)])
        streaming = asyncio.create_task(self.primary.wait_until_streaming())
        ended = asyncio.create_task(child.ended())
        try:
            await asyncio.wait({streaming, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not streaming.done():
                error, hint = child.complaint
                raise Unavailable(f"the DRaaS server ended at once: {error}", hint=hint)
            await streaming
        finally:
            streaming.cancel()
            ended.cancel()
        await self.primary.make_synchronous()

    async def start_standby(self) -> None:
        """The recovery site's agent, where the settings want its copy warm. Returns when it holds its lock.

        Started before the DRaaS server, which leaves it alone then, and starts another when this one ends.
        """
        folder = self._standby_folder
        if folder is None:
            return
        child = await self._start(STANDBY, [STANDBY, "--config", str(self.home.config)])
        await until(lambda: is_locked(agent_lock(folder)), child, "it kept its folder")

    @property
    def _standby_folder(self) -> Path | None:
        recovery = self.home.settings.recovery
        if recovery.standby != "warm" or recovery.data_dir is None:
            return None
        return self.home.settings.path(recovery.data_dir)

    async def _stop_standby(self) -> None:
        """Its PostgreSQL runs on without its agent; here it ends with the rest."""
        await self.children[STANDBY].stop()
        folder = self._standby_folder
        major = major_of(folder) if folder is not None else None
        if folder is None or major is None:
            return
        configured = self.home.settings.recovery.binaries
        _, _, port = self.home.settings.recovery.listen.rpartition(":")
        server = Server(
            find_binaries(major, self.home.settings.path(configured) if configured else None),
            folder,
            int(port),
            clock=self._clock,
        )
        if server.pid is not None:
            try:
                await server.stop("fast", timeout=20)
            except Unavailable:
                server.kill()

    async def start_crm(self, environment: Mapping[str, str] | None = None) -> None:
        """Returns when it serves. Only where the settings have a [crm] section: another CRM needs none of ours.

        ``environment``: settings in place of the file's, such as the address of a recovered database.
        """
        crm = self.home.settings.crm
        if crm is None:
            return
        refuse_taken(crm.listen, "the CRM")
        child = await self._start(CRM, [CRM, "serve", "--config", str(self.home.config)], environment)
        await until(answers(crm.listen), child, f"it served {crm.listen}", within=_CRM_PATIENCE_S)

    async def run(
        self,
        verb: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> dict[str, Any]:
        """One verb of ours on this home, as a process; its answer. Raises what it ended with; Unavailable for nothing.

        ``note`` is called with each step and note of it. Its process id lies in ``run/`` meanwhile, so that nobody
        starts a second one while it outlives us.
        """
        said: list[dict[str, Any]] = []

        def hear(_: str, line: str) -> None:
            step = _object(line)
            said.append(step)
            if step.get("type") == "note" or (step.get("type") == "progress" and not step.get("done")):
                note(f"  {step.get('text', '')}")

        command = [*verb.split(), *arguments, "--json", "--config", str(self.home.config)]
        child = await start(verb, ["threefold", *command], hear, environment=environment)
        name = verb.replace(" ", "-")
        try:
            self._note(name, child.pid)
            await child.ended()
        except asyncio.CancelledError:
            await child.stop(number=signal.SIGINT)  # as Ctrl-C would: it cleans up
            raise
        finally:
            self.home.pid_file(name).unlink(missing_ok=True)
        for answer in said[::-1]:
            if answer.get("type") == "error":
                kind = _KINDS.get(str(answer.get("kind")), Unavailable)
                raise kind(f"{verb}: {answer.get('error')}", hint=str(answer.get("hint", "")))
            if answer.get("type") == "result":
                return answer
        raise Unavailable(f"{verb} gave no answer: {child.last_line}")

    async def somebody_died(self) -> str:
        """Returns when a process that should run does not: who, and what it said last."""
        watched = {
            asyncio.create_task(child.ended()): name
            for name, child in self.children.items()
            if name != STANDBY  # the DRaaS server starts another
        }
        try:
            while True:
                done, _ = await asyncio.wait(watched, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    name = watched[task]
                    return f"{name} ended with code {task.result()}: {self.children[name].last_line}"
                if self.primary.pid is None:
                    return f"PostgreSQL ended: {self.primary.server.log_tail()}"
        finally:
            for task in watched:
                task.cancel()

    @property
    def started(self) -> list[str]:
        """What `stop` would stop."""
        return [*(["PostgreSQL"] if self.primary.pid is not None else []), *self.children]

    async def stop(self) -> None:
        """The CRM first; PostgreSQL while its last changes still find the DRaaS server; that one; the stores last.

        Only what was started here: another `threefold up` of the same folder is left alone.
        """
        if CRM in self.children:
            await self.children[CRM].stop()
        await self.primary.stop()
        if PROTECT in self.children:
            await self.children[PROTECT].stop()
        if STANDBY in self.children:
            await self._stop_standby()
        await asyncio.gather(*(child.stop() for child in self.children.values()))
        for name in self._noted:
            self.home.pid_file(name).unlink(missing_ok=True)

    async def _start(self, name: str, arguments: list[str], environment: Mapping[str, str] | None = None) -> Child:
        child = await start(
            name,
            ["threefold", *arguments],
            self._hear,
            environment={**self._environment, **(environment or {})},
            log_file=self.home.log_file(name) if self._logs_to_files else None,
        )
        self.children[name] = child
        self._note(name, child.pid)
        return child

    def _note(self, name: str, pid: int) -> None:
        self._noted.add(name)
        self.home.note_process(name, pid)

    def _refuse_a_second(self) -> None:
        for file in sorted(self.home.pid_file("x").parent.glob("*.pid")):
            pid = alive(file)
            if pid is not None and _is_ours(pid, self.home.folder):
                raise Refused(
                    f"{file.stem} of {self.home.folder} runs already, as process {pid}",
                    hint=f"stop the other `threefold up`; if it is gone, kill {pid}",
                )


def _object(line: str) -> dict[str, Any]:
    """A line of a verb's; empty where it is none, such as a warning of Python's."""
    with suppress(ValueError):
        found = json.loads(line)
        return dict(found) if isinstance(found, dict) else {}
    return {}


def _is_ours(pid: int, folder: Path) -> bool:
    """Numbers are used again: it is ours only if its command line names the folder."""
    with suppress(OSError):
        return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes()
    return True
