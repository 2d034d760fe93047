"""What a test raises that saw the promise broken, which is worth more than a failed test.

A limit of time that was missed on a loaded machine is played once more (.ci/run, tests/scenarios/conftest.py).
This never is.
"""

from __future__ import annotations


class Broken(AssertionError):
    """Something that was acknowledged is lost, or there twice, or two sites acknowledged."""


def keep(promise: bool, what: str) -> None:
    """Raises Broken."""
    if not promise:
        raise Broken(what)
