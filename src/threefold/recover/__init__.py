"""Recovery: from what lies on the stores to a PostgreSQL that serves (docs/reference/format-vault.md)."""
