"""The CRM's figures, as a table."""

from __future__ import annotations

from typing import Any

from bench.crm_asks import WORDS


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Over HTTP against the loop, and the large database against the small one; above 1 is better."""
    answer: dict[str, float] = {}
    for name, run in found["operations"].items():
        answer[f"crm_{name}_http_against_loop"] = run["rps"] / run["loop_rps"]
        answer[f"crm_{name}_large_against_small"] = run["rps"] / run["small_rps"]
    if "import" in found:
        answer["crm_import_against_copy"] = found["import"]["copy"] / found["import"]["ours"]
        answer["crm_import_against_copy_with_indexes"] = found["import"]["into"] / found["import"]["ours"]
    answer["crm_peak_memory_mb"] = found["memory"]["with_imports_mb"]
    return answer


def show(found: dict[str, Any]) -> None:
    print(
        f"\n| {found['contacts']:,} contacts, 50 requests in flight | answers/s | p50 ms | p99 ms | statements | kB |",
        end="",
    )
    print(" same SQL in a loop, /s | HTTP against loop | at 10,000 contacts, /s | slower by |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, run in found["operations"].items():
        print(
            f"| {WORDS[name]} | {run['rps']:.0f} | {run['p50_ms']:.0f} | {run['p99_ms']:.0f} | {run['statements']} |"
            f" {run['bytes'] / 1000:.1f} | {run['loop_rps']:.0f} | {run['rps'] / run['loop_rps']:.2f} |"
            f" {run['small_rps']:.0f} | {run['small_rps'] / run['rps']:.2f} |"
        )
    if "import" in found:
        ours, copy, into = (found["import"][name] for name in ("ours", "copy", "into"))
        print(f"\n| {found['import']['rows']:,} contacts | seconds |\n|---|--:|")
        print(f"| COPY of the same rows into a table without an index | {copy:.2f} |")
        print(f"| COPY of them into the table of contacts: its indexes, its data log | {into:.2f} |")
        print(f"| CSV import over HTTP, until it is answered | {ours:.2f} |")
        print(f"\nratio: {copy / ours:.3f}")
    memory = found["memory"]
    print(
        f"\npeak memory of the server process: {memory['serving_mb']:.0f} MB serving"
        f", {memory['with_imports_mb']:.0f} MB with the imports"
    )
