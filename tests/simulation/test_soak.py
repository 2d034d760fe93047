"""`make soak`: runs on while all holds, and says which seed failed first and how to run that one again."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

from tests.simulation.soak import judge

FIRST = 0
VARIANT = "acks at one store"


def _soak(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.simulation.soak", *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_the_first_failing_seed_is_printed_and_runs_again_by_what_is_printed() -> None:
    first = next(seed for seed in range(FIRST, FIRST + 150) if judge(("any", seed, VARIANT))[-1])
    soak = _soak("--from", str(FIRST), "--jobs", "2", "--variant", VARIANT)
    said, _ = soak.communicate(timeout=300)
    assert soak.returncode == 1
    assert f"seed {first}: Violation" in said
    reproduce = said.split("reproduce: ")[1].splitlines()[0]
    assert f"--seed {first} " in reproduce
    again = _soak(*shlex.split(reproduce)[3:])
    told, _ = again.communicate(timeout=300)
    assert again.returncode == 1
    assert "Violation" in told
    # It is the variant that fails there, and not the protocol.
    assert judge(("any", first))[-1] == ""


def test_it_goes_on_until_it_is_stopped() -> None:
    soak = _soak("--from", str(FIRST), "--jobs", "1", "--every", "10")
    assert soak.stdout is not None
    for seeds in (10, 20):
        assert soak.stdout.readline().startswith(f"{seeds} seeds, ")
    os.killpg(soak.pid, signal.SIGINT)  # as Ctrl-C does: its workers hear it, too
    said, _ = soak.communicate(timeout=60)
    assert soak.returncode == 0
    assert "without a violation" in said
    assert "Traceback" not in said
