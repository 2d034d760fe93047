"""A company to look at, seeded."""
