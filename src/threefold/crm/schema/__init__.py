"""The CRM's tables, as numbered SQL files, applied in order."""

from __future__ import annotations

from importlib.resources import files

TABLES = ("accounts", "contacts", "products", "queries", "requests", "interactions")


def statements() -> list[str]:
    """Each file's text, lowest number first."""
    folder = files(__name__)
    return [
        entry.read_text()
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".sql")
    ]
