"""The vault: base backups as encrypted, deduplicated chunks in packs on the stores (docs/reference/format-vault.md)."""
