"""The figures as a table that can go into docs/explanation/performance.md as it is."""

from __future__ import annotations

from typing import Any

from bench import backrest_table, crm_table, faults, spread


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Ours against what stands beside it; above 1 is better, memory aside."""
    answer: dict[str, float] = {}
    for clients, variants in found.get("commit", {}).items():
        answer[f"commit_tps_{clients}_clients"] = variants["ours"]["tps"] / variants["receivers"]["tps"]
        answer[f"commit_p99_{clients}_clients"] = variants["receivers"]["p99_ms"] / variants["ours"]["p99_ms"]
    for clients, variants in found.get("distance", {}).items():
        answer[f"commit_tps_far_{clients}_clients"] = variants["ours"]["tps"] / variants["receivers"]["tps"]
        answer[f"commit_p99_far_{clients}_clients"] = variants["receivers"]["p99_ms"] / variants["ours"]["p99_ms"]
    for fault, run in found.get("faults", {}).items():
        if fault != "healthy":
            answer[f"one_store_{fault}_tps"] = run["of_healthy"]
    if "bulk" in found:
        answer["drain_mb_per_s"] = found["bulk"]["ours"]["mb_per_s"] / found["bulk"]["receiver"]["mb_per_s"]
        answer["peak_memory_mb"] = found["bulk"]["ours"]["peak_rss_mb"]
    if "backup" in found:
        backup = found["backup"]
        answer["snapshot_mb_per_s"] = backup["snapshot"]["mb_per_s"] / backup["pg_basebackup"]["mb_per_s"]
    if "spread" in found:
        answer["reads_of_three_stores_bandwidth"] = found["spread"]["three stores"]["of_three"]
        answer["hedged_requests_at_most"] = max(run["more_requests"] for run in found["spread"].values())
    if "crm" in found:
        answer |= crm_table.ratios(found["crm"])
    if "backrest" in found:
        answer |= backrest_table.ratios(found["backrest"])
    return {name: round(value, 2) for name, value in answer.items()}


def show(found: dict[str, Any]) -> None:
    machine = found["machine"]
    print(
        f"{machine['date']}; {machine['cores']} x {machine['cpu']}, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}, PostgreSQL {machine['postgresql']}; load before: {machine['load_before']}; "
        f"median of {found['rounds']} rounds of {found['seconds']:g} s"
    )
    if "commit" in found:
        _commit(found["commit"])
    if "distance" in found:
        _distance(found["distance"])
    if "faults" in found:
        _faults(found["faults"])
    if "bulk" in found:
        _bulk(found["bulk"])
    if "backup" in found:
        _backup(found["backup"])
    if "spread" in found:
        spread.show(found["spread"])
    if "crm" in found:
        crm_table.show(found["crm"])
    if "backrest" in found:
        backrest_table.show(found["backrest"])
    print("\n| ratio | |\n|---|--:|")
    for name, value in found["ratios"].items():
        print(f"| {name.replace('_', ' ')} | {value} |")


def _commit(found: dict[int, Any]) -> None:
    print(
        "\n| clients | variant | TPS | p50 ms | p99 ms | TPS against three pg_receivewal |\n|--:|---|--:|--:|--:|--:|"
    )
    names = {"none": "no standby", "receivers": "3 x pg_receivewal --synchronous, ANY 2", "ours": "threefold"}
    for clients, variants in found.items():
        base = variants["receivers"]["tps"]
        for name, run in variants.items():
            ratio = "" if name == "none" else f"{run['tps'] / base:.2f}"
            print(f"| {clients} | {names[name]} | {run['tps']:.0f} | {_latency(run)} | {ratio} |")
    print(
        "\n| clients | processor time for each commit, µs: DRaaS server | a store | PostgreSQL | three pg_receivewal |"
    )
    print("|--:|--:|--:|--:|--:|")
    for clients, variants in found.items():
        ours, stock = variants["ours"]["cpu"], variants["receivers"]["cpu"]
        stores = sum(ours.get(name, 0) for name in ("S1", "S2", "S3")) // 3
        receivers = sum(used for name, used in stock.items() if name.startswith("receiver"))
        print(f"| {clients} | {ours.get('protect', 0)} | {stores} | {ours.get('postgres', 0)} | {receivers} |")


def _distance(found: dict[int, Any]) -> None:
    print("\n| clients | 20 ms away | TPS | p50 ms | p99 ms | TPS against three pg_receivewal | relay, µs a commit |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    names = {"receivers": "3 x pg_receivewal --synchronous, ANY 2", "ours": "threefold"}
    for clients, variants in found.items():
        base = variants["receivers"]["tps"]
        for name, run in variants.items():
            ratio, relay = run["tps"] / base, run["cpu"].get("relay", 0)
            print(f"| {clients} | {names[name]} | {run['tps']:.0f} | {_latency(run)} | {ratio:.2f} | {relay} |")


def _faults(found: dict[str, Any]) -> None:
    print(f"\n| stores, {faults.CLIENTS} clients | TPS | p50 ms | p99 ms | worst ms | TPS against healthy |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, run in found.items():
        words = faults.WORDS.get(name, "all three healthy")
        ratio = run.get("of_healthy", 1)
        print(f"| {words} | {run['tps']:.0f} | {_latency(run)} | {run['most_ms']:.0f} | {ratio:.2f} |")


def _bulk(found: dict[str, Any]) -> None:
    print("\n| CREATE TABLE AS | WAL MB | seconds | MB/s | peak lag MB | peak memory MB | processor time, s |")
    print("|---|--:|--:|--:|--:|--:|---|")
    for name, words in (("receiver", "1 x pg_receivewal --synchronous"), ("ours", "threefold, two of three stores")):
        run = found[name]
        print(
            f"| {words} | {run['wal_mb']:.0f} | {run['seconds']:.1f} | {run['mb_per_s']:.0f} | "
            f"{run['peak_lag_mb']:.0f} | {run['peak_rss_mb']:.0f} | "
            f"{', '.join(f'{process} {seconds:g}' for process, seconds in run['cpu'].items())} |"
        )
    disk = found["disk"]
    print(
        f"\nratio: {found['ours']['mb_per_s'] / found['receiver']['mb_per_s']:.2f}; the disk alone, each 512 KiB "
        f"synced: one file {disk['one_file_mb_per_s']:g} MB/s, three at once {disk['three_files_mb_per_s']:g} in all"
    )


def _backup(found: dict[str, Any]) -> None:
    ours, stock, back = found["snapshot"], found["pg_basebackup"], found["recover"]
    print(f"\n| {ours['mb']:.0f} MB database | seconds | MB/s |\n|---|--:|--:|")
    print(f"| pg_basebackup to a folder | {stock['seconds']:.1f} | {stock['mb_per_s']:.0f} |")
    print(f"| threefold snapshot to three stores | {ours['seconds']:.1f} | {ours['mb_per_s']:.0f} |")
    print(
        f"| threefold recover, until writable | {back['writable_after_s']:.1f} | {back['mb_per_s']:.0f} (restoring) |"
    )
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in back["phases"].items())
    print(f"\nratio: {ours['mb_per_s'] / stock['mb_per_s']:.2f}; recovery: {phases}")


def _latency(run: dict[str, Any]) -> str:
    return f"{run['p50_ms']:.1f} | {run['p99_ms']:.1f}"
