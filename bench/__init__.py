"""Measurements against stock PostgreSQL tools, side by side on one machine: `make bench`."""
