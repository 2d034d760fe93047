"""The CRM's tables, as numbered SQL files that migrate.py applies in order."""

from __future__ import annotations

# Those that the demo's ledger and judge know.
TABLES = ("accounts", "contacts", "products", "queries", "requests", "interactions")
