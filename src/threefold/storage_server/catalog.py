"""Which objects there are: buckets, keys in order, and how much of the journal is still needed.

It lives in memory and is rebuilt from the journal at start; the order in which records stand in the journal is the
order in which they are applied here, live and at start alike, so that both come to the same catalog.

Keys are kept in a dict for lookups and, for listings, in a list that is put in order only when somebody lists:
writes are frequent here and listings are rare. Deleted keys leave the list lazily. Python compares strings by code
point, which is the order of their UTF-8 bytes, and so S3's order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from threefold.storage_server.entries import Entry, Place

_SLACK = 10_000


@dataclass(frozen=True, slots=True)
class Listing:
    """A page: objects and common prefixes in one order; ``more`` says that something follows ``last``."""

    objects: tuple[tuple[str, Entry], ...]
    prefixes: tuple[str, ...]
    last: str
    more: bool


class Bucket:
    """The objects of one bucket."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.objects: dict[str, Entry] = {}
        self._ordered: list[str] = []
        self._in_order = True

    def put(self, key: str, entry: Entry) -> Entry | None:
        """The entry that was replaced."""
        before = self.objects.get(key)
        self.objects[key] = entry
        if before is None:
            self._ordered.append(key)
            self._in_order = False
            if len(self._ordered) > 2 * len(self.objects) + _SLACK:
                self._ordered = list(self.objects)
        return before

    def delete(self, key: str) -> Entry | None:
        return self.objects.pop(key, None)

    def _keys_from(self, start: str) -> Iterator[str]:
        if not self._in_order:
            self._ordered.sort()  # nearly in order already: a merge of two runs
            self._in_order = True
        before = None
        for index in range(bisect_left(self._ordered, start), len(self._ordered)):
            key = self._ordered[index]
            if key != before and key in self.objects:
                yield key
            before = key

    def list(self, *, prefix: str, after: str, delimiter: str, limit: int) -> Listing:
        """Keys with ``prefix`` that sort after ``after``; what shares ``prefix…delimiter`` is one common prefix."""
        objects: list[tuple[str, Entry]] = []
        prefixes: list[str] = []
        last = after
        start = max(prefix, after)
        while True:
            for key in self._keys_from(start):
                if not key.startswith(prefix):
                    return Listing(tuple(objects), tuple(prefixes), last, more=False)
                if key <= after:
                    continue
                cut = key.find(delimiter, len(prefix)) if delimiter else -1
                group = key[: cut + len(delimiter)] if cut >= 0 else ""
                if group and after.startswith(group):
                    start = _past(group)
                    break
                if len(objects) + len(prefixes) >= limit:
                    return Listing(tuple(objects), tuple(prefixes), last, more=True)
                if group:
                    prefixes.append(group)
                    last = group
                    start = _past(group)
                    break
                objects.append((key, self.objects[key]))
                last = key
            else:
                return Listing(tuple(objects), tuple(prefixes), last, more=False)


def _past(prefix: str) -> str:
    """The first string after all that begin with ``prefix``."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


class Catalog:
    """All buckets, and the count of journal bytes that live records take."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.live_bytes = 0
        self.vanished_batch = 0  # the newest batch that holds a delete: "not there" is said only when it is durable
        self.lengthened_batch = 0  # the newest batch that makes a lock longer

    def make_bucket(self, name: str, place: Place) -> None:
        bucket = self.buckets.get(name)
        if bucket is None:
            self.buckets[name] = Bucket(place)
        else:
            self.live_bytes -= bucket.place.record_bytes
            bucket.place = place
        self.live_bytes += place.record_bytes

    def put(self, bucket: str, key: str, entry: Entry) -> Entry | None:
        """The entry that was replaced."""
        before = self.buckets[bucket].put(key, entry)
        self.live_bytes += entry.place.record_bytes
        if before is not None:
            self.live_bytes -= before.place.record_bytes
        return before

    def delete(self, bucket: str, key: str, batch: int) -> Entry | None:
        before = self.buckets[bucket].delete(key)
        self.vanished_batch = batch
        if before is not None:
            self.live_bytes -= before.place.record_bytes
        return before

    def lengthen(self, entry: Entry, mode: int, until_ms: int, batch: int) -> None:
        entry.lengthen(mode, until_ms)
        self.lengthened_batch = batch

    def entry(self, bucket: str, key: str) -> Entry | None:
        there = self.buckets.get(bucket)
        return there.objects.get(key) if there else None

    def move(self, entry: Entry, place: Place) -> None:
        """Compaction wrote the entry's record again."""
        self.live_bytes += place.record_bytes - entry.place.record_bytes
        entry.place = place
