"""What the scenarios took, a line each, printed when all have been played (conftest.py)."""

from __future__ import annotations

from collections.abc import Mapping

_lines: list[str] = []


def note_figures(name: str, verdicts: Mapping[str, float], figures: Mapping[str, float]) -> None:
    """Seconds since the fault began: of each kind of verdict, and of what came of it (steps of a switch: since its
    order)."""
    said = ", ".join(f"{kind} {at:.1f}" for kind, at in verdicts.items())
    _lines.append(f"{name}: {', '.join(f'{what} {value:.1f} s' for what, value in figures.items())}; verdicts: {said}")


def lines() -> list[str]:
    return list(_lines)
