"""The whole story on one machine: protected, destroyed, recovered, and judged by a ledger from the other side."""
