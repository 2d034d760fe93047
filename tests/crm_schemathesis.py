"""Schemathesis against the whole API, as long as one likes: ``python -m tests.crm_schemathesis --examples 200``.

The tests run the same, bounded, over the operations of a few kinds (tests/integration/test_crm_schemathesis.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from tests.api_world import Api, api

# 428: a change that does not say what it is based on (RFC 6585) is refused as a missing header should be.
SETTINGS = """
[checks]
missing_required_header.expected-statuses = [400, 401, 403, 404, 406, 415, 422, 428]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 412, 413, 414, 415, 422, 428]
"""


async def records(world: Api) -> dict[str, str]:
    """One record of every kind, to ask about; by kind, and by the fields that refer to it."""
    ids: dict[str, str] = {}

    async def make(kind: str, /, by: str = "administrator", **values: Any) -> None:
        ids[kind] = (await world.make(kind, values, by=by))["id"]

    await make("teams", name="A team")
    await make("users", full_name="Nobody", email="nobody@example.org", role="employee")
    await make("accounts", name="An account")
    ids["contacts"] = world.who("customer")["contact_id"]
    await make("affiliations", contact_id=ids["contacts"], account_id=ids["accounts"])
    await make("products", sku="S-1", name="A product", price_cents=100)
    await make("prices", product_id=ids["products"], currency="USD", price_cents=100, valid_from="2026-01-01")
    await make("queries", by="customer", subject="A query")
    await make("requests", by="customer", subject="A request", kind="repair")
    await make("interactions", by="customer", query_id=ids["queries"], body="Said")
    await make("tasks", subject="A task")
    await make("deals", name="A deal", account_id=ids["accounts"])
    await make("tags", name="A tag")
    await make("taggings", tag_id=ids["tags"], record_kind="deals", record_id=ids["deals"])
    await make("policies", name="P", record_kind="queries", priority=4, first_response_minutes=9, resolution_minutes=9)
    spare = {"full_name": "To be erased", "email": "gone@example.org"}
    ids["erasures"] = (await world.make("contacts", spare))["id"]
    hook = await world.ask("POST", "/webhooks", {"url": "https://example.com/"}, by="administrator")
    ids["webhooks"] = hook.json()["id"]
    view = await world.ask("POST", "/views", {"kind": "deals", "name": "V"}, by="administrator")
    ids["views"] = view.json()["id"]
    octets = {"Content-Type": "application/octet-stream"}
    file = await world.ask("POST", f"/queries/{ids['queries']}/attachments", raw=b"x", headers=octets)
    ids["attachments"] = file.json()["id"]
    csv = {"Content-Type": "text/csv"}
    tried = await world.ask("POST", "/imports/accounts", raw=b"name\nx\n", headers=csv, dry_run="true")
    ids["imports"] = tried.json()["id"]
    done = await world.ask(
        "POST", "/tags/batches", {"what": "set", "items": [{"id": ids["tags"]}], "changes": {"colour": "red"}}
    )
    ids["batches"] = done.json()["id"]
    fields = {
        "account_id": "accounts", "contact_id": "contacts", "product_id": "products", "assignee_id": "users",
        "team_id": "teams", "watchers": "users", "owner_id": "users", "query_id": "queries", "request_id": "requests",
        "tag_id": "tags", "escalate_to_id": "teams",
    }  # fmt: skip
    employee = world.who("employee")["id"]  # who is asked about may stop to be one
    return ids | {field: employee if kind == "users" else ids[kind] for field, kind in fields.items()}


def run(
    world: Api, person: str, ids: dict[str, str], *args: str, stateful: bool = False
) -> subprocess.CompletedProcess[str]:
    """Its own process: it keeps hooks and settings for the whole of one."""
    client = world.people[person]
    key = client.key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    setup = {"origin": world.origin, "token": client.token, "key": key.decode(), "ids": ids, "stateful": stateful}
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks",
        "CRM_SCHEMATHESIS": json.dumps(setup),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    with tempfile.TemporaryDirectory() as home:
        settings = Path(home) / "schemathesis.toml"
        settings.write_text(SETTINGS)
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(settings),
            "run", f"{world.origin}/api/v1/openapi.json", "--no-color", *args,
        ]  # fmt: skip
        return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)


async def main(examples: int, seed: int, more: list[str]) -> int:
    failed = 0
    for person in ("administrator", "customer"):
        async with api() as world:
            ids = await records(world)
            args = ["--max-examples", str(examples), "--seed", str(seed), *more]
            for phases in ("examples,coverage,fuzzing", "stateful"):
                once = ["--phases", phases, *args]
                done = await asyncio.to_thread(run, world, person, ids, *once, stateful=phases == "stateful")
                print(f"as {person}, {phases}:\n{done.stdout}{done.stderr}", flush=True)
                failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    known, beyond = parser.parse_known_args()
    sys.exit(asyncio.run(main(known.examples, known.seed, beyond)))
