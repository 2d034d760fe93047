"""Keeping what is stored whole and no larger than needed: scrub, repair, status of the stores, prune."""
