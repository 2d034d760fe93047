"""What `watch` wrote down, as the scenarios ask for it: states, verdicts, switches, and when each was seen first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.protect_process import Process


@dataclass(slots=True)
class Watching:
    """Follows the file while it grows."""

    file: Path
    process: Process | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    _at: int = 0

    def look(self) -> list[dict[str, Any]]:
        """All lines so far."""
        if self.file.exists():
            with self.file.open("rb") as file:
                file.seek(self._at)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._at += len(whole)
            self.lines += [json.loads(line) for line in whole.splitlines()]
        return self.lines

    def beacon(self, key: str) -> dict[str, Any]:
        """The newest of that key; empty where none was seen."""
        return next((line["beacons"][key] for line in reversed(self.look()) if key in line["beacons"]), {})

    def state(self, site: str) -> str:
        """Of the agent of that site."""
        return str(self.beacon(f"beacons/agent-{site}").get("state", ""))

    def in_place(self, site: str) -> bool:
        """Its copy could take over now, and its agent runs (a beacon may be one of before this run)."""
        agent = self.beacon(f"beacons/agent-{site}")
        return agent.get("role") == "standby" and bool(agent.get("copy_ready")) and agent.get("state") == "protected"

    def switches(self) -> list[dict[str, Any]]:
        """The newest list of them that two stores gave."""
        return next((line["switches"] for line in reversed(self.look()) if line["switches"] is not None), [])

    def when_ordered(self, number: int) -> float:
        """When that switch was seen first, CLOCK_MONOTONIC."""
        return next(line["at"] for line in self.look() if any(s["number"] == number for s in line["switches"] or []))

    def step(self, number: int, kind: str) -> dict[str, Any] | None:
        for switch in self.switches():
            if switch["number"] == number:
                return next((step for step in switch["steps"] if step["kind"] == kind), None)
        return None

    def first(self, key: str, name: str, since: float) -> dict[Any, float]:
        """Each value that the field had, and when it was seen first."""
        found: dict[Any, float] = {}
        for line in self.look():
            value = line["beacons"].get(key, {}).get(name)
            if line["at"] >= since and value is not None:
                found.setdefault(value if isinstance(value, str | int) else json.dumps(value), line["at"])
        return found

    def verdicts(self, site: str = "recovery", since: float = 0.0) -> dict[str, float]:
        """Each kind of verdict of the agent's, and when it was seen first."""
        return self.first(f"beacons/agent-{site}", "verdict", since)

    def tale(self) -> str:
        """What changed, a line each."""
        return "\n".join(self._changes())

    def _changes(self) -> Iterator[str]:
        before: dict[str, str] = {}
        for line in self.look():
            now = {key: _gist(says) for key, says in line["beacons"].items()}
            now["switches"] = json.dumps(
                [[switch["to"], *(step["kind"] for step in switch["steps"])] for switch in line["switches"] or []]
            )
            for key, gist in now.items():
                if before.get(key) != gist:
                    yield f"{line['at']:.1f} {key}: {gist}"
            before.update(now)


_OF_AGENT = ("state", "role", "verdict", "give_up", "action", "copy_ready", "copy_why", "active", "step")
_OF_SITE = ("host", "process", "sql", "write", "condition", "waits", "timeline")
_OF_LEADER = ("epoch", "host", "state", "reason", "timeline", "site", "durability")


def _gist(says: dict[str, Any]) -> str:
    """The words of a beacon, without what changes all the time."""
    if "role" in says:
        lacks = [each["what"] for each in says["deficiency"].get("lacks", [])]
        return json.dumps([*(says[name] for name in _OF_AGENT), lacks])
    if "sites" in says:
        sites = {site: " ".join(str(seen[name]) for name in _OF_SITE) for site, seen in says["sites"].items()}
        return json.dumps([sites, says["draas"]["seen"], *says["stores"].values()])
    return json.dumps([says.get(name) for name in _OF_LEADER])
