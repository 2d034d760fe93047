"""Forgetting a person, for good and through every recovery."""
