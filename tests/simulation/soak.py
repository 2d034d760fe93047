"""Runs seed after seed until stopped; says how fast, and how to reproduce the first seed that fails.

python -m tests.simulation.soak                      until stopped, from a seed nobody tried yet
python -m tests.simulation.soak --seed 2536 -v       one seed again, with all that happened
python -m tests.simulation.soak --world contended    in worlds of one bias (worlds.py)
python -m tests.simulation.soak --variant NAME       with the protocol broken on purpose: it has to fail
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tests.simulation.checker import Violation
from tests.simulation.scenario import Run
from tests.simulation.variants import VARIANTS
from tests.simulation.worlds import WORLDS
from threefold.kernel.errors import ThreefoldError

BATCH = 100


def run_seed(world: str, seed: int, *, verbose: bool = False) -> Run:
    """Raises Violation. The worlds of one bias have seeds of their own."""
    name: object = seed if world == "any" else f"{world}-{seed}"
    return Run(name, WORLDS[world], verbose=verbose).go()


def command(world: str, seed: int, variant: str = "") -> str:
    """How to reproduce."""
    bias = "" if world == "any" else f" --world {world}"
    broken = f' --variant "{variant}"' if variant else ""
    return f"python -m tests.simulation.soak{bias}{broken} --seed {seed} -v"


def protocol(variant: str) -> AbstractContextManager[Any]:
    """As it is, or broken."""
    return VARIANTS[variant].broken() if variant else nullcontext()


def judge(task: tuple[str, int] | tuple[str, int, str]) -> tuple[int, int, int, str]:
    """Seed, acknowledgements, leaders, and what went wrong; the task is a world, a seed, and a variant if any."""
    world, seed, *variant = task
    try:
        with protocol(*variant or [""]):
            run = run_seed(world, seed)
    except (ThreefoldError, ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        return seed, 0, 0, f"{type(error).__name__}: {error}"
    return seed, run.checker.acks, run.leads, ""


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seed", type=int, help="run this one alone")
    options.add_argument("-v", "--verbose", action="store_true", help="print all that happens (with --seed)")
    options.add_argument("--world", choices=sorted(WORLDS), default="any")
    options.add_argument("--variant", choices=sorted(VARIANTS), default="", metavar="NAME", help="break the protocol")
    options.add_argument("--from", dest="first", type=int, default=int(time.time()) % 1_000_000_000)
    options.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options.add_argument("--every", type=int, default=BATCH, help="say how it goes after so many seeds")
    chosen = options.parse_args()
    if chosen.seed is not None:
        try:
            with protocol(chosen.variant):
                run = run_seed(chosen.world, chosen.seed, verbose=chosen.verbose)
        except Violation:
            traceback.print_exc()
            return 1
        print(f"seed {chosen.seed}: {run.checker.acks} acknowledgements, {run.leads} leaders, no violation")
        return 0
    begun, seeds, acks, leads = time.monotonic(), 0, 0, 0
    # Ctrl-C reaches the workers, too; only this process answers it, between two seeds: an exception in the middle of
    # the executor's own work would leave it waiting for itself.
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    workers = ProcessPoolExecutor(chosen.jobs, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        while True:
            batch = range(chosen.first + seeds, chosen.first + seeds + chosen.every)
            # In order: the first that fails, whichever process was quicker.
            for seed, acked, led, wrong in workers.map(judge, [(chosen.world, s, chosen.variant) for s in batch]):
                if wrong:
                    print(f"seed {seed}: {wrong}\nreproduce: {command(chosen.world, seed, chosen.variant)}")
                    return 1
                seeds, acks, leads = seeds + 1, acks + acked, leads + led
                if stopped:
                    print(f"stopped after {seeds} seeds without a violation")
                    return 0
            rate = seeds / (time.monotonic() - begun)
            print(f"{seeds} seeds, {acks} acknowledgements, {leads} leaders, {rate:.1f} seeds/s", flush=True)
    finally:
        workers.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
