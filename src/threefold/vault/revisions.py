"""Revisions: a snapshot's manifest written anew, which names other packs for the same chunks. Pure.

A manifest says where every chunk lies, and is never overwritten. So chunks that move (upkeep/repack.py) get another
manifest beside it: the same summary, files and chunk names, other places, under an id of its own.

    snapshots/20261130T023000Z-9f86d081                   as it was taken
    snapshots/20261130T023000Z-9f86d081.0001-60303ae2     its first revision

What is before the dot names the snapshot, for people and for good; behind it are the revision's number and eight random
digits: two repacks at once write two revisions, never two objects under one key.

Each revision is a whole manifest, right for as long as its packs are there; no reader needs another object to make
sense of it, and one that knows nothing of revisions takes it for a snapshot, which it is. Prune deletes an earlier
revision, store by store, before it deletes a pack that only that one names (upkeep/reach.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

_DOT: Final = "."
_RANDOM_DIGITS: Final = 8


def original(snapshot: str) -> str:
    """The id under which it was taken, which all its revisions share."""
    return snapshot.partition(_DOT)[0]


def revised_id(snapshot: str, random_hex: str) -> str:
    """The id of its next revision; sorts after those before. ``random_hex`` is fresh, at least 8 digits."""
    taken, _, revision = snapshot.partition(_DOT)
    number = int(revision.partition("-")[0] or 0) + 1
    return f"{taken}{_DOT}{number:04d}-{random_hex[:_RANDOM_DIGITS]}"


def by_original(snapshots: Iterable[str]) -> Mapping[str, list[str]]:
    """Original id → its revisions that are among ``snapshots``, the latest last."""
    found: dict[str, list[str]] = {}
    for snapshot in sorted(snapshots):
        found.setdefault(original(snapshot), []).append(snapshot)
    return found
