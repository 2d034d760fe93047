"""What `bench/backrest.py` found, as ratios and as tables."""

from __future__ import annotations

from typing import Any

Figures = dict[str, float]


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Against pgBackRest above 1 is better; of the second snapshot and the stopped store, less is."""
    ours, plain, encrypted = found["ours"], found["plain"], found["encrypted"]
    answer: dict[str, float] = {}
    for name, theirs in (("plain", plain), ("encrypted", encrypted)):
        answer[f"snapshot_against_pgbackrest_{name}"] = _speed(ours, "first") / _speed(theirs, "first")
        answer[f"recovery_against_pgbackrest_{name}"] = theirs["healthy_s"] / ours["healthy_s"]
    answer["second_snapshot_bytes_percent"] = 100 * ours["second_stored_mb"] / ours["first_stored_mb"]
    answer["second_snapshot_time_percent"] = 100 * ours["second_s"] / ours["first_s"]
    answer["recovery_with_one_store_stopped"] = ours["stopped_s"] / ours["healthy_s"]
    return answer


def _speed(figures: Figures, name: str) -> float:
    return figures[f"{name}_mb"] / figures[f"{name}_s"]


def show(found: dict[str, Any]) -> None:
    ours = found["ours"]
    print(
        f"\n{ours['first_mb']:.0f} MB database, PostgreSQL {found['postgresql']}, pgBackRest {found['pgbackrest']}"
        f" (zst, 2 processes, one repository); median of {found['rounds']} rounds\n\n"
        "| | seconds | MB/s | MB stored | processor time, s: command / stores / PostgreSQL | peak MB |\n"
        "|---|--:|--:|--:|--:|--:|"
    )
    for words, figures, name in _snapshots(found):
        peak = f"{figures[f'{name}_peak_mb']:.0f}" if f"{name}_peak_mb" in figures else ""
        print(
            f"| {words} | {figures[f'{name}_s']:.1f} | {_speed(figures, name):.0f} | "
            f"{figures[f'{name}_stored_mb']:.1f} | {_cpu_words(figures, name)} | {peak} |"
        )
    if ours["first_missing"]:
        print(f"\nThe slowest store was left behind with {ours['first_missing']:.0f} packs, to be filled in later.")
    print(
        "\n| recovery, until it takes writes | seconds | of these until the files are there | processor time, s |"
        " peak MB |\n|---|--:|--:|--:|--:|"
    )
    for words, figures, name in (
        ("pgBackRest", found["plain"], "healthy"),
        ("pgBackRest, aes-256-cbc", found["encrypted"], "healthy"),
        ("threefold, three stores", ours, "healthy"),
        ("threefold, one store stopped half-way", ours, "stopped"),
    ):
        peak = f"{figures[f'{name}_peak_mb']:.0f}" if f"{name}_peak_mb" in figures else ""
        seconds, files = figures[f"{name}_s"], figures[f"{name}_files_s"]
        print(f"| {words} | {seconds:.1f} | {files:.1f} | {_cpu_words(figures, name)} | {peak} |")


def _snapshots(found: dict[str, Any]) -> list[tuple[str, Figures, str]]:
    return [
        ("pgBackRest, full", found["plain"], "first"),
        ("pgBackRest, full, aes-256-cbc", found["encrypted"], "first"),
        ("threefold, first snapshot, to each of three stores", found["ours"], "first"),
        ("threefold, second, 1 % of the rows changed that lie together", found["ours"], "second"),
        ("threefold, another, 1 % of the rows changed all over", found["scattered"], "scattered"),
        ("pgBackRest, incremental, aes-256-cbc, 1 % that lie together", found["incremental"], "second"),
    ]


def _cpu_words(figures: Figures, name: str) -> str:
    parts = (figures[f"{name}_cpu_s"], figures[f"{name}_stores_cpu_s"], figures[f"{name}_postgres_cpu_s"])
    return " / ".join(f"{seconds:.1f}" for seconds in parts)
