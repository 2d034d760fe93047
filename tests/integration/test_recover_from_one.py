"""One store alone: what it has comes back, and what that proves is said."""

from __future__ import annotations

import pytest
from tests.protect_process import site, team

from threefold.kernel.lsn import Lsn


@pytest.mark.long
async def test_one_store_alone_gives_what_it_has_and_says_what_that_proves() -> None:
    async with site() as here:
        await here.protect()
        async with team(here) as people:
            await people.progress(30)
            await here.done("snapshot")
            await people.progress(30)
            await here.whole()
            before = set(people.acked)
            here.stores["S1"].stop()
            await people.progress(50)
            people.pause()
        for process in here.processes:
            process.kill()
        here.destroy_primary()
        for name in ("S2", "S3"):
            here.stores[name].kill()
        here.stores["S1"].go_on()
        # Two are needed, and the way out is named.
        error = await here.refused("recover", "--into", here.home / "two", within=120)
        assert error["exit_code"] == 1
        assert "only S1 answers with the log, 2 of 3 must (S2: S2 cannot be reached" in error["error"]
        assert "recover from S1 alone" in error["hint"]
        # Behind, it looks whole from inside: the changes of the time that it slept are not there, as it says.
        result = await here.recover("--from", "S1")
        (said,) = [note for note in result["notes"] if "S1 alone was read" in note]
        assert f"without a gap up to {result['wal']['end']}" in said
        assert "that nothing came after is not proved" in said
        rows = {(who, number) for who, number in await here.primary.sql("SELECT who, number FROM saved")}
        assert before <= rows <= people.tried
        assert people.acked - rows  # how many they were is the machine's pace
        here.destroy_primary()
        # A store that was never behind has everything; it cannot know that, and says the same.
        here.stores["S2"].start()
        await here.stores["S2"].ready()
        later = await here.recover("--from", "S2")
        assert Lsn.parse(later["wal"]["end"]) > Lsn.parse(result["wal"]["end"])
        assert [note for note in later["notes"] if "S2 alone was read" in note]
        await people.judge()
        # Asked for two, nothing of the kind is said.
        here.destroy_primary()
        here.stores["S3"].start()
        await here.stores["S3"].ready()
        both = await here.recover()
        assert not [note for note in both["notes"] if "alone" in note]
