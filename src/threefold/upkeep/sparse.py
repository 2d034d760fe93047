"""Which packs are worth writing anew, because most of what they hold nothing needs any more. Pure.

A pack goes when no kept snapshot names it. One chunk that is still named keeps all 16 MiB of it, and what changes
rarely keeps old packs for years. *Live* is what some kept snapshot names; a pack is *sparse* when less than ``below``
of it is live. The sparsest are chosen first, so many that no more than ``most`` bytes are copied, and none at all
unless that wins ``least``, beyond the manifests that have to be written anew: else it would be copied for little.

A chunk is known by its place, not by its name: one that lies in a pack twice is live twice. What frames a pack (its
header, index and trailer) counts neither as live nor as dead, so a pack that was just written is never sparse.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from threefold.vault.manifest import Manifest
from threefold.vault.pack import FRAME_BYTES, RECORD_BYTES, pack_key

MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Thresholds:
    """As in the settings' [retention]. ``below`` 0: nothing is written anew. Bytes are those of one store."""

    below: float = 0.5
    least: int = 64 * MIB
    most: int = 16 * 1024 * MIB


@dataclass(frozen=True, slots=True)
class Sparse:
    """One pack; ``live`` and ``dead`` bytes, its frame aside."""

    pack: str
    live: int
    dead: int


@dataclass(frozen=True, slots=True)
class RepackPlan:
    """``packs`` are written anew, the manifests of ``snapshots`` with them. Bytes are those of one store."""

    packs: tuple[Sparse, ...] = ()
    snapshots: tuple[str, ...] = ()
    copied: int = 0
    won: int = 0


def plan_repack(
    manifests: Mapping[str, Manifest],
    sizes: Mapping[str, int],
    pinned: Collection[str],
    manifest_bytes: Mapping[str, int],
    thresholds: Thresholds,
) -> RepackPlan:
    """``manifests``: of the kept snapshots, by their latest revision; ``manifest_bytes``: their objects' sizes.

    ``sizes``: of the packs whose copies are alike on all stores. ``pinned``: packs that something else needs, too, and
    that would not go.
    """
    live: dict[str, dict[int, int]] = {}  # pack → offset → bytes
    for manifest in manifests.values():
        for place in manifest.places:
            live.setdefault(place.pack, {})[place.offset] = place.stored + RECORD_BYTES
    sparse = []
    for pack, chunks in live.items():
        size = sizes.get(pack_key(pack))
        if size is None or pack in pinned:
            continue
        alive = sum(chunks.values())
        dead = size - FRAME_BYTES - alive
        if dead > 0 and alive < thresholds.below * (alive + dead):
            sparse.append(Sparse(pack, alive, dead))
    chosen: list[Sparse] = []
    copied = 0
    for each in sorted(sparse, key=lambda one: (one.live / (one.live + one.dead), one.pack)):
        if copied + each.live <= thresholds.most:
            chosen.append(each)
            copied += each.live
    names = {each.pack for each in chosen}
    snapshots = tuple(sorted(name for name, manifest in manifests.items() if not names.isdisjoint(manifest.packs())))
    won = sum(each.dead for each in chosen)
    if not chosen or won < thresholds.least + sum(manifest_bytes[name] for name in snapshots):
        return RepackPlan()
    return RepackPlan(tuple(chosen), snapshots, copied, won)
