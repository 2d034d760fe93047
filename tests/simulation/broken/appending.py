"""The appender, broken on purpose: what it acknowledges, cuts into segments and bundles too early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tests.simulation.broken.patching import patched
from threefold.quorum import appender
from threefold.quorum.appender import Appender
from threefold.quorum.bundles import Bundler


def acks_at_one_store() -> Any:
    return patched(appender._Item, "is_settled", lambda _: property(lambda item: len(item.on) >= 1))


def acks_out_of_order() -> Any:
    def make(stored: Any) -> Any:
        def hasty(self: Any, store: str, lane: Any, item: Any) -> None:
            ours = item in self._unsettled
            stored(self, store, lane, item)
            if ours and item.is_settled:
                self.settled = max(self.settled, item.end)

        return hasty

    return patched(appender.Appender, "_stored", make)


def writes_segments_ahead() -> Any:
    """The next segment is begun when this one is on a single store."""

    def make(stored: Any) -> Any:
        def hasty(self: Any, store: str, lane: Any, item: Any) -> None:
            stored(self, store, lane, item)
            if self._segment is not None and self._segment[0] is item:
                self.covered = (self._segment[1].next_epoch, self._segment[1].next_slot)
                self._segment = None

        return hasty

    return patched(appender.Appender, "_stored", make)


def bundles_what_is_not_settled() -> Any:
    """What was cut is bundled at once, and a bundle is believed."""
    feed = Bundler.feed

    def at_once(spread: Any) -> Any:
        def careless(self: Appender, item: Any) -> None:
            spread(self, item)
            if item.part is not None and (bundle := feed(self._bundler, self._slot - 1, item.body)):
                self._bundles.append(bundle)

        return careless

    @contextmanager
    def both() -> Iterator[None]:
        with patched(Appender, "_spread", at_once), patch.object(Bundler, "feed", lambda *_: None):
            yield

    return both()
