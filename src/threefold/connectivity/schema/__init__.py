"""The edge's tables, as numbered SQL files, applied after the CRM's."""
