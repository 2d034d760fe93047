"""The tests' own eye: what the stores say of the leader, the agents, the sentinels and the switches, again and again.

    python -m tests.scenarios.watch --config threefold.toml --into seen.jsonl

It runs as a process on a host whose links are never broken, because an object store's client belongs to the network
of the process that uses it. Each line: ``{"at": CLOCK_MONOTONIC, "beacons": {key: what it says}, "switches": [...]}``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from threefold.bootstrap import Parts, open_parts
from threefold.failover.journal import Journal
from threefold.kernel.errors import ThreefoldError
from threefold.kernel.keys import NONCE_BYTES, Keyring
from threefold.settings import load
from threefold.stores.store import ObjectStore, Page

_PERIOD_S = 0.3
_PATIENCE_S = 1.0


async def watch(config: Path, into: Path) -> None:
    file = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    settings = load(config)
    async with open_parts(settings) as parts:
        journal = Journal(parts.stores, parts.keyring, parts.clock, primary_site=settings.sites()[0].name, patience=1.0)
        newest = _Newest()
        print("watching", flush=True)
        while True:
            seen = {"at": time.monotonic(), "beacons": await newest.look(parts), "switches": await _switches(journal)}
            os.write(file, json.dumps(seen, default=str).encode() + b"\n")
            await asyncio.sleep(_PERIOD_S)


class _Newest:
    """Of each beacon the one that changed last, by our own clock: a store that was away comes back with old ones."""

    def __init__(self) -> None:
        self._had: dict[tuple[str, str], bytes] = {}
        self._newest: dict[str, dict[str, Any]] = {}

    async def look(self, parts: Parts) -> dict[str, Any]:
        answers = await asyncio.gather(*(_of_store(store) for store in parts.stores.values()))
        for store, bodies in zip(parts.stores, answers, strict=True):
            for key, body in bodies.items():
                if self._had.get((store, key)) != body:
                    self._had[store, key] = body
                    says = _opened(body, key, parts.keyring)
                    known = self._newest.get(key)
                    if known is None or not _older(says, known):
                        self._newest[key] = says
        return self._newest


def _older(says: dict[str, Any], known: dict[str, Any]) -> bool:
    """Of the same run; two runs are told apart by when they came."""
    if says.get("run") != known.get("run"):
        return False
    return (says.get("epoch", 0), says.get("beat", 0)) < (known.get("epoch", 0), known.get("beat", 0))


async def _of_store(store: ObjectStore) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        async with asyncio.timeout(_PATIENCE_S):
            page = await store.list("beacons")
            if isinstance(page, Page):
                for listed in page.objects:
                    body = await store.read(listed.key)
                    if isinstance(body, bytes):
                        found[listed.key] = body
    except TimeoutError:
        pass
    return found


def _opened(body: bytes, key: str, keyring: Keyring) -> dict[str, Any]:
    nonce, sealed = body[:NONCE_BYTES], body[NONCE_BYTES:]
    try:
        plain = keyring.sealer("beacon").open(sealed, nonce=nonce, header=key.encode())
    except ThreefoldError as error:
        return {"damaged": error.message}
    said: dict[str, Any] = json.loads(plain)
    return said


async def _switches(journal: Journal) -> list[dict[str, Any]] | None:
    try:
        async with asyncio.timeout(2.0):
            switches = await journal.read()
    except (ThreefoldError, TimeoutError):
        return None
    return [
        {
            "number": switch.number,
            "to": switch.target,
            "from": switch.source,
            "planned": switch.planned,
            "steps": [{"kind": step.kind.value, "seconds": step.seconds, **step.facts} for step in switch.steps],
        }
        for switch in switches.all
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the stores say, again and again")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    given = parser.parse_args()
    asyncio.run(watch(given.config, given.into))


if __name__ == "__main__":
    main()
