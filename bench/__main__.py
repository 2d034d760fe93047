"""`python -m bench` (`make bench`): everything measured in one run, printed as ratios; ``--json`` for machines.

Absolute figures are this machine's and this hour's. The ratios compare what ran in turn with each other: variants
alternate within every round, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench import backrest, backup, bulk, commit, crm, distance, faults, spread, table
from bench.machine import machine
from bench.rig import Rig
from threefold.kernel.errors import NotThere

_PARTS = ("commit", "distance", "faults", "bulk", "backup", "spread", "crm", "backrest")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure against stock PostgreSQL tools.")
    parser.add_argument("--quick", action="store_true", help="a small version, for a look")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else there")
    parser.add_argument("--only", choices=_PARTS, action="append", help="some parts")
    parser.add_argument(
        "--clients", type=int, nargs="+", help="of commit and distance; 1 8 32, and with distance 128 as well"
    )
    parser.add_argument("--faults", choices=tuple(faults.WORDS), nargs="+", help="some faults; all of them")
    parser.add_argument("--rounds", type=int, help="how often the variants take turns")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--megabytes", type=int, help="of the database that is compared with pgBackRest; 5000")
    parser.add_argument("--dir", type=Path, help="on the disk to measure; the system's folder for temporary files")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (4 if options.quick else 15)
    megabytes = 100 if options.quick else 1000
    parts = set(options.only or _PARTS)
    found: dict[str, Any] = {"machine": machine(), "rounds": rounds, "seconds": seconds}
    with Rig(options.dir) as rig:
        found["machine"]["postgresql"] = rig.binaries.version
        if parts & {"commit", "distance", "faults"}:
            commit.prepare(rig)
            commit.measure(rig, 8, 5)
        if "commit" in parts:
            found["commit"] = {}
            for clients in options.clients or commit.CLIENTS:
                say(f"commits, {clients} clients")
                found["commit"][clients] = commit.compare(rig, clients, rounds, seconds)
        if "distance" in parts:
            found["distance"] = {}
            for clients in options.clients or distance.CLIENTS:
                say(f"stores {distance.ROUND_TRIP_S * 1000:g} ms away, {clients} clients")
                found["distance"][clients] = distance.compare(rig, clients, rounds, seconds)
        if "faults" in parts:
            say("one store in trouble")
            found["faults"] = faults.compare(rig, rounds, seconds, say, tuple(options.faults or ()))
        if parts & {"bulk", "backup"}:
            bulk.prepare(rig, megabytes)
        if "bulk" in parts:
            say(f"draining {megabytes} MB")
            found["bulk"] = bulk.compare(rig, 1 if options.quick else 3)
        if "backup" in parts:
            say("snapshot and recovery")
            rig.sql("CREATE TABLE bulk AS SELECT source.* FROM source, generate_series(1, 4)")
            bulk.free(rig)
            found["backup"] = backup.compare(rig)
        if "spread" in parts:
            say("reads spread over three stores")
            found["spread"] = spread.compare(150 if options.quick else 600)
        if "crm" in parts:
            contacts = crm.LARGE // 20 if options.quick else crm.LARGE
            found["crm"] = crm.compare(rig, contacts, rounds, min(seconds, 8))
    if "backrest" in parts:
        database = options.megabytes or (300 if options.quick else 5000)
        say(f"{database} MB against pgBackRest")
        try:
            found["backrest"] = backrest.compare(options.dir, database, min(rounds, 3))
        except NotThere as error:
            print(f"not measured: {error.message}\nhint: {error.hint}", file=sys.stderr, flush=True)
    found["ratios"] = table.ratios(found)
    if options.json:
        print(json.dumps(found))
    else:
        table.show(found)


def say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


main()
