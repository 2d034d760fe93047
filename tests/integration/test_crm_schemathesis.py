"""Schemathesis over a part of the API, as an administrator and as a customer: every check it has, the same each time.

The part has one of each sort of operation; ``python -m tests.crm_schemathesis`` goes over all of them.
"""

from __future__ import annotations

import asyncio

import pytest
from tests import crm_schemathesis
from tests.api_world import api

PART = {
    "administrator": "listTag|createQuery|readQuery|changeQuery|deleteQuery|answerQuery|bulkTag|timelineOfQuery|search|"
    "changes|saveView|readOffice|setOffice|readSettings|setSettings|me",
    "customer": "createQuery|readQuery|answerQuery|rateQuery|createInteraction|timelineOfQuery|attachToQuery|"
    "readOffice|setOffice|me",
}


@pytest.mark.long
@pytest.mark.parametrize("person", PART)
async def test_the_api_does_what_its_document_says(person: str) -> None:
    async with api() as world:
        ids = await crm_schemathesis.records(world)
        bounds = ["--phases", "examples,coverage,fuzzing", "--max-examples", "3", "--seed", "1"]
        settled = ["--generation-deterministic", "--include-operation-id-regex", f"^({PART[person]})$"]
        done = await asyncio.to_thread(crm_schemathesis.run, world, person, ids, *bounds, *settled)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
