"""`threefold demo --failover`: customers ask while the site burns; reads as the story.

Nobody touches anything between the blow and the end of act 3: what is seen there the agent of the recovery site does
by itself. The CRM's edge stands apart from both sites, as it would behind a public address.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from threefold.bootstrap import Parts, journal_of, open_parts
from threefold.demo.customers import FILED, TAKEN, Customers
from threefold.demo.narrator import Narrator, Picture
from threefold.demo.questions import QuestionsVerdict, judge_questions
from threefold.demo.visitor import Visitor
from threefold.failover.agent_beacon import AgentStatus, read_agent
from threefold.failover.journal import Journal
from threefold.failover.steps import Kind, Switch
from threefold.kernel.clock import Clock
from threefold.kernel.errors import Unavailable
from threefold.local.create import BUCKET, any_ports, create_home
from threefold.local.home import Home
from threefold.local.processes import Child, start
from threefold.local.stack import PRIMARY, Stack
from threefold.postgres.server import Server
from threefold.protect.beacon import read_leader
from threefold.storage_server.serve import create_bucket

CUSTOMERS: Final = 6
_HEALTHY_S: Final = 6.0
_READY_PATIENCE_S: Final = 180.0  # for machines that have much else to do; on a quiet one it takes seconds
_SWITCH_PATIENCE_S: Final = 180.0
_LOOK_S: Final = 0.1
_PICTURE_S: Final = 0.5
_SAID: Final = {
    Kind.ORDERED: "decided: {target} takes over",
    Kind.STOPPED: "the server at {source} has stopped in good order",
    Kind.FENCED: "fenced: the log's end is fixed, {source} can confirm nothing any more",
    Kind.PROMOTING: "the copy at {target} holds every byte of the log, and may serve",
    Kind.SERVING: "{target} serves",
    Kind.PROTECTED: "protected again: new epoch, new timeline, a snapshot of its own",
}


@dataclass(slots=True)
class Turn:
    """One switch, as the customers had it. Seconds since it began: the blow, or the order."""

    steps: dict[str, float] = field(default_factory=dict)
    first_filed: float | None = None  # of a question that was asked after the beginning
    all_filed: float | None = None  # nothing is waiting in the stores any more
    longest_wait: float = 0.0  # from a question to the promise
    filed: int = 0
    taken: int = 0
    unanswered: int = 0  # questions without a promise at the end: must be none
    looks: int = 0
    blind: int = 0  # looks at one's own cases that showed nothing


@dataclass(slots=True)
class Outcome:
    """What it came to."""

    failover: Turn = field(default_factory=Turn)
    failback: Turn = field(default_factory=Turn)
    verdict: QuestionsVerdict | None = None
    sentence: str = ""  # the detector's
    rebuilt_seconds: float = 0.0

    @property
    def exact(self) -> bool:
        """Every promise was kept, and nobody was left without one."""
        turns = (self.failover, self.failback)
        kept = self.verdict is not None and self.verdict.exact
        return kept and all(turn.unanswered == 0 and turn.blind == 0 for turn in turns)


@dataclass(slots=True)
class Scene:
    """What the acts share."""

    home: Home
    stack: Stack
    parts: Parts
    journal: Journal
    narrator: Narrator
    clock: Clock
    customers: Customers
    gone: set[str] = field(default_factory=set)
    ashes: list[asyncio.Task[None]] = field(default_factory=list)  # what burnt, being deleted
    more: list[Child] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def sites(self) -> tuple[str, str]:
        one, other = self.home.settings.sites()
        return one.name, other.name

    async def agent(self, site: str) -> AgentStatus | None:
        return await read_agent(self.parts.stores, site, self.parts.keyring)

    async def begin(self, name: str, *arguments: str) -> None:
        """One more process of ours, on this home."""
        command = ["threefold", *arguments, "--config", str(self.home.config)]
        self.more.append(await start(name, command, lambda _, __: None, log_file=self.home.log_file(name)))


async def play_failover(folder: Path, narrator: Narrator, clock: Clock, *, keep: bool) -> tuple[Scene, Outcome]:
    """All acts in ``folder``, which is made. Raises what a process or an act ran into."""
    narrator.doing("making keys, passwords and three disks")
    await asyncio.to_thread(create_home, folder, ports=any_ports(), standby="warm", policy="automatic")
    async with _scene(folder, narrator, clock, keep=keep) as scene:
        await _two_sites(scene)
        await _customers_ask(scene)
        blow = await _the_site_burns(scene)
        await _nobody_notices(scene, blow)
        await _the_old_site_comes_back(scene)
        await _failback(scene)
        await _verdict(scene)
        return scene, scene.outcome


@asynccontextmanager
async def _scene(folder: Path, narrator: Narrator, clock: Clock, *, keep: bool) -> AsyncIterator[Scene]:
    home = Home.at(folder)
    crm = home.settings.crm
    if crm is None:
        raise Unavailable("this folder has no CRM")
    stack = Stack(home, clock, lambda _, __: None, logs_to_files=True)
    async with open_parts(home.settings) as parts:
        customers = Customers(crm.public_url, clock)
        scene = Scene(home, stack, parts, journal_of(parts, by="demo"), narrator, clock, customers)
        drawing = asyncio.create_task(_draw(scene))
        over = False
        try:
            yield scene
            over = True
        finally:
            drawing.cancel()
            customers.cancel()
            await asyncio.gather(drawing, *scene.ashes, return_exceptions=True)
            if not (keep and over):
                await asyncio.gather(*(child.stop() for child in scene.more))
                await stack.stop()
                for data in (home.primary, home.folder / "recovered"):
                    Server(stack.primary.server.binaries, data, 0).kill()


async def _two_sites(scene: Scene) -> None:
    narrator, stack = scene.narrator, scene.stack
    one, other = scene.sites
    narrator.act(
        1,
        "Two sites",
        f"A PostgreSQL serves at {one}; the DRaaS server at {other} puts every change on two of three storage servers, "
        f"and keeps a warm copy. A sentinel watches from a third place.",
    )
    narrator.doing("starting three storage servers, PostgreSQL and the DRaaS server")
    await stack.start_stores()
    await stack.start_primary()
    await stack.start_standby()
    await stack.start_protect()
    await scene.begin("sentinel", "sentinel", "--name", "third-place", "--site", "elsewhere")
    narrator.doing("making a CRM with a sample company, and a snapshot of it")
    people = await stack.run("crm sample")
    await stack.start_crm()
    await stack.run("snapshot")
    narrator.doing(f"the copy at {other} is restored from the stores, and follows")
    await _until_ready(scene, other)
    narrator.say(f"protected: {one} serves, a copy follows at {other}, three storage servers vote")
    await _enrol(scene, people["links"]["administrator"])


async def _until_ready(scene: Scene, site: str) -> None:
    until = scene.clock.monotonic() + _READY_PATIENCE_S
    while True:
        agent = await scene.agent(site)
        if agent is not None and agent.copy_ready and agent.role == "standby":
            return
        if scene.clock.monotonic() > until:
            why = agent.copy_why if agent else "no agent reports from there"
            raise Unavailable(f"the copy at {site} is not ready after {_READY_PATIENCE_S:.0f} s: {why}")
        await scene.clock.sleep(_LOOK_S)


async def _enrol(scene: Scene, link: str) -> None:
    """An administrator invites customers, each opens the link on a telephone and asks from then on."""
    crm = scene.home.settings.crm
    desk = Visitor(crm.public_url if crm else "", scene.clock)
    await asyncio.to_thread(desk.enrol, link, "the desk")
    found: list[dict[str, Any]] = []
    page = await asyncio.to_thread(desk.ask, "GET", "/api/v1/contacts?limit=60")
    for contact in page.json()["items"]:
        with suppress(Unavailable):  # one who is invited already, or has no address
            asked = {"contact_id": contact["id"]}
            made = await asyncio.to_thread(desk.ask, "POST", "/connect/invitations", asked)
            found.append({"name": contact["full_name"], "link": made.json()["url"]})
        if len(found) == CUSTOMERS:
            break
    for customer in found:
        await scene.customers.come(customer["name"], customer["link"])


async def _customers_ask(scene: Scene) -> None:
    narrator, told = scene.narrator, scene.customers.told
    await scene.clock.sleep(_HEALTHY_S)
    waits = sorted(each.told_at - each.asked for each in told.questions if each.told)
    if not waits:
        raise Unavailable("no customer's question was filed")
    narrator.say(
        f"{CUSTOMERS} customers ask one question after the other: {told.count(FILED)} are filed, "
        f"each within {waits[-1] * 1000:.0f} ms, half within {waits[len(waits) // 2] * 1000:.0f} ms"
    )


async def _the_site_burns(scene: Scene) -> float:
    one, _ = scene.sites
    scene.narrator.act(
        2,
        "The site burns",
        f"At the same moment the PostgreSQL at {one} is killed (kill -9), its data folder removed, and the storage "
        "server S2 killed and its disk wiped. Nobody touches anything from here on.",
    )
    blow = scene.clock.monotonic()  # from the signals on, not from when the last process is known to be gone
    for burnt in await asyncio.to_thread(_blow, scene):
        scene.ashes.append(asyncio.create_task(asyncio.to_thread(shutil.rmtree, burnt)))
    scene.narrator.say(f"{one} and S2 are gone")
    return blow


def _blow(scene: Scene) -> list[Path]:
    """What is left to be deleted: out of the way at once, because a gigabyte takes seconds to go."""
    scene.gone |= {PRIMARY, "S2"}
    scene.stack.children["S2"].send(signal.SIGKILL)
    scene.stack.primary.server.kill()
    burnt = []
    for folder in (scene.home.primary, scene.home.storage("S2")):
        burnt.append(folder.with_name(f"{folder.name}.burnt"))
        folder.rename(burnt[-1])
    return burnt


async def _nobody_notices(scene: Scene, blow: float) -> None:
    one, other = scene.sites
    scene.narrator.act(
        3,
        "The customers go on asking",
        "The edge shows what the copy has, with its age; a new question is taken when it stands on two of three "
        "storage servers (202), and filed as soon as a database takes writes again, once.",
    )
    scene.outcome.sentence = await _seen(scene, other, blow)
    switch = await _follow(scene, blow, scene.outcome.failover)
    turn = scene.outcome.failover
    await _after(scene, blow, turn)
    scene.narrator.say(
        f"{turn.taken} questions were taken while no database was there, {turn.filed} filed; "
        f"{turn.looks} looks at own cases, {turn.blind} of them in vain; no customer waited longer than "
        f"{turn.longest_wait:.1f} s for an answer",
        switch=switch.number,
    )
    lacks = await _lacks(scene, other)
    if lacks:
        scene.narrator.say(f"{one} is lost, and the state is deficient until that is mended: {'; '.join(lacks)}")


async def _lacks(scene: Scene, site: str) -> list[str]:
    """What the agent says is missing, told after this moment."""
    before = await scene.agent(site)
    until = scene.clock.monotonic() + _READY_PATIENCE_S
    while scene.clock.monotonic() < until:
        agent = await scene.agent(site)
        if agent is not None and before is not None and agent.beat > before.beat + 1:
            return [str(each["text"]) for each in agent.deficiency.get("lacks", [])]
        await scene.clock.sleep(_LOOK_S)
    return []


async def _seen(scene: Scene, site: str, blow: float) -> str:
    """What the agent says is the matter, as soon as it does."""
    until = scene.clock.monotonic() + _SWITCH_PATIENCE_S
    while scene.clock.monotonic() < until:
        agent = await scene.agent(site)
        if agent is not None and agent.verdict not in {"", "healthy", "unknown", "store-failure"}:
            scene.narrator.say(f"+{scene.clock.monotonic() - blow:4.1f} s  seen: {agent.sentence}")
            return agent.sentence
        if (await scene.journal.read()).newest is not None:
            return agent.sentence if agent else ""
        await scene.clock.sleep(_LOOK_S)
    raise Unavailable(f"the agent of {site} has not noticed within {_SWITCH_PATIENCE_S:.0f} s")


async def _follow(scene: Scene, began: float, turn: Turn, number: int = 1) -> Switch:
    """Tell the steps of a switch as they are decided, to its end."""
    until = scene.clock.monotonic() + _SWITCH_PATIENCE_S
    while True:
        with suppress(Unavailable):
            switches = await scene.journal.read()
            switch = next((each for each in switches.all if each.number == number), None)
            for step in switch.steps if switch else ():
                if step.kind.value not in turn.steps:
                    turn.steps[step.kind.value] = at = scene.clock.monotonic() - began
                    scene.narrator.say(f"+{at:4.1f} s  {_said(switch, step.kind)}")
            if switch is not None and switch.concluded:
                return switch
        if scene.clock.monotonic() > until:
            raise Unavailable(f"switch {number} has not ended within {_SWITCH_PATIENCE_S:.0f} s")
        await scene.clock.sleep(_LOOK_S)


def _said(switch: Switch | None, kind: Kind) -> str:
    names = {"source": switch.source, "target": switch.target} if switch else {}
    return _SAID.get(kind, kind.value).format_map(names)


async def _after(scene: Scene, began: float, turn: Turn) -> None:
    """Until every question of the meantime has its promise, and what was taken is filed."""
    told, clock = scene.customers.told, scene.clock
    until = clock.monotonic() + _SWITCH_PATIENCE_S
    asked_by = clock.monotonic()
    while any(each.told == 0 and each.asked < asked_by for each in told.questions) or await _waiting(scene):
        if clock.monotonic() > until:
            break
        await clock.sleep(_LOOK_S)
    turn.all_filed = clock.monotonic() - began
    since = told.since(began)
    first = told.first(FILED, began)
    turn.first_filed = first - began if first is not None else None
    turn.filed, turn.taken = since.count(FILED), since.count(TAKEN)
    turn.longest_wait = since.longest_wait()
    turn.unanswered = sum(each.told == 0 and each.asked < asked_by for each in told.questions)
    for blind in (each for each in since.looks if not each.shown):
        scene.narrator.say(f"+{blind.at - began:4.1f} s  a look at own cases showed nothing: {blind.why}")
    turn.looks, turn.blind = len(since.looks), sum(not each.shown for each in since.looks)


async def _waiting(scene: Scene) -> int:
    """How many questions were taken and are not filed yet."""
    taken = {each.subject for each in scene.customers.told.questions if each.told == TAKEN}
    return await asyncio.to_thread(_unfiled, scene, taken)


def _unfiled(scene: Scene, taken: set[str]) -> int:
    with suppress(psycopg.OperationalError), psycopg.connect(_crm(scene), connect_timeout=5) as connection:
        rows = connection.execute("SELECT subject FROM crm.queries WHERE subject LIKE 'Question %'").fetchall()
        return len(taken - {row[0] for row in rows})
    return len(taken)


def _crm(scene: Scene) -> str:
    """Whichever of the two takes writes."""
    ports = f"{scene.home.primary_port},{scene.home.settings.recovery.listen.rpartition(':')[2]}"
    own = psycopg.conninfo.make_conninfo(scene.home.crm_conninfo(), host="127.0.0.1,127.0.0.1", port=ports)
    return psycopg.conninfo.make_conninfo(own, target_session_attrs="read-write")


async def _the_old_site_comes_back(scene: Scene) -> None:
    one, other = scene.sites
    narrator = scene.narrator
    narrator.act(
        4,
        "What burnt is built anew",
        f"S2 gets an empty disk and is filled in; {one} is rebuilt from the stores, and follows {other}.",
    )
    began = scene.clock.monotonic()
    store = next(each for each in scene.home.settings.store if each.name == "S2")
    await asyncio.to_thread(create_bucket, scene.home.storage("S2"), BUCKET)
    await scene.stack.start_store(store)
    scene.gone.discard("S2")
    narrator.doing(f"rebuilding {one} from the stores")
    await scene.begin("standby-old-site", "standby", "--site", one, "--rebuild")
    await _until_ready(scene, one)
    scene.outcome.rebuilt_seconds = scene.clock.monotonic() - began
    narrator.say(f"{one} is a copy again after {scene.outcome.rebuilt_seconds:.0f} s")
    narrator.doing("S2 is filled in from the other two")
    await _until_three_vote(scene)
    narrator.say("three storage servers vote, a copy follows: redundant again")


async def _until_three_vote(scene: Scene) -> None:
    until = scene.clock.monotonic() + _READY_PATIENCE_S
    while True:
        leader = await read_leader(scene.parts.stores, scene.parts.keyring)
        if leader is not None and all(line.state == "voting" for line in leader.stores):
            return
        if scene.clock.monotonic() > until:
            raise Unavailable("S2 is not filled in yet: see `threefold status`")
        await scene.clock.sleep(_LOOK_S)


async def _failback(scene: Scene) -> None:
    one, other = scene.sites
    scene.narrator.act(
        5,
        "Back home",
        f"A planned switch: the server at {other} stops in good order, {one} has everything, and serves. Customers go "
        "on asking meanwhile.",
    )
    began = scene.clock.monotonic()
    turn = scene.outcome.failback
    scene.narrator.doing("threefold failback")
    both = [
        asyncio.ensure_future(scene.stack.run("failback")),
        asyncio.ensure_future(_follow(scene, began, turn, number=2)),
    ]
    try:
        await asyncio.gather(*both)
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
    await _after(scene, began, turn)
    scene.gone.discard(PRIMARY)
    scene.narrator.say(
        f"{one} serves again; {turn.taken} questions were taken in between, {turn.filed} filed, and no customer waited "
        f"longer than {turn.longest_wait:.1f} s"
    )


async def _verdict(scene: Scene) -> None:
    scene.narrator.act(
        6,
        "What was promised, and what is there",
        "Every question that a customer was told is filed or taken must be in the database once, in the order in which "
        "its author asked.",
    )
    await scene.customers.go()
    while await _waiting(scene):
        await scene.clock.sleep(_LOOK_S)
    told = scene.customers.told
    verdict = await asyncio.to_thread(judge_questions, _crm(scene), told.questions)
    scene.outcome.verdict = verdict
    scene.narrator.say(verdict.sentence, promised=verdict.promised, lost=len(verdict.lost))


async def _draw(scene: Scene) -> None:
    told = scene.customers.told
    while True:
        promised = [each for each in told.questions if each.told]
        now = scene.clock.monotonic()
        rates = [sum(now - age - 1 <= each.told_at < now - age for each in promised) for age in range(20, -1, -1)]
        waits = sorted(each.told_at - each.asked for each in promised if now - each.told_at < 5)
        scene.narrator.picture(
            Picture(
                acked=len(promised),
                per_second=tuple(rates),
                p50_ms=waits[len(waits) // 2] * 1000 if waits else 0.0,
                p99_ms=waits[-1] * 1000 if waits else 0.0,
                processes=_processes(scene),
            )
        )
        await scene.clock.sleep(_PICTURE_S)


def _processes(scene: Scene) -> dict[str, str]:
    states = {PRIMARY: "running" if scene.home.primary.exists() else "gone"}
    for name, child in scene.stack.children.items():
        states[name] = "gone" if name in scene.gone else "running" if child.running else "dead"
    return states
