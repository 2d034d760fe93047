"""What nothing needs any more. Pure; the safety argument of prune.

Reachable is what a snapshot that stays names, and the log from its start on. What goes:

- *snapshots* that retention does not keep (vault/retention.py). One that cannot be recovered from covers for nothing:
  it does not make an older one superfluous, and stays itself as long as the window lasts. That a pack of it is lost is
  known where all three stores, asked by key, have none. Where fewer than two are known to have it, or a part of the log
  between the snapshot's start and stop, the snapshot is *endangered*: kept like any other, and nothing goes for it
  (invariant 7: a time-out is no absence).
- *earlier revisions* of a snapshot (vault/revisions.py), once a later one can be recovered from and is whole on every
  store that lists what it has, its manifest read back from each: what goes is replaced on as many stores. Until then
  all stay. For retention they are one snapshot.
- *packs* that no snapshot names that stays. Packs of a snapshot under way are named by none yet; they may be marked,
  and are spared when their snapshot is there by the time of the deleting (vault/marks.py says why that is safe). Those
  as young as the newest snapshot are not even marked: the next attempt reuses them.
- *segments* that end before all of this begins: the WAL of the oldest snapshot that stays, and the *floor* of the
  protocol. A take-over looks for the newest segment by key, walking on from the one that holds the first byte of the
  newest epoch (quorum/walk.py, quorum/segments.py): were that one gone, a stale listing would be all it had, and an
  epoch could be judged to have ended at its slot 0. So nothing goes from there on, nor of what a new timeline's fork
  may still need: it lies before the log's end by less than one WAL record, which is less than `FORK_BYTES`.

A manifest that was put after another prune had looked may lose packs to it yet. The author of a snapshot finds out, and
withdraws it (vault/marks.py), if he lives; a revision is never withdrawn. So what another's sentence names, itself or a
pack of it, makes nothing superfluous.

Entries, seals, claims, timelines and keys are not prune's: entries that segments cover are trimmed by the leader
(quorum/trim.py), the rest is never deleted (invariants 4 and 5).

A manifest that no store gives whole may need anything: then only snapshots are pruned, until it is mended or deleted by
hand. Order plays no part: neither names nor a listing's order say what is old.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from threefold.kernel.lsn import Lsn
from threefold.quorum import keys
from threefold.quorum.objects import NOWHERE
from threefold.upkeep.loss import wal_begin
from threefold.vault.manifest import Summary, snapshot_key
from threefold.vault.pack import pack_key
from threefold.vault.retention import Policy, kept, window_begin
from threefold.vault.revisions import by_original, original

FORK_BYTES: Final = 2**30  # a WAL record has at most 1020 MiB (PostgreSQL: XLogRecordMaxSize)

Sizes = Mapping[str, Mapping[str, int]]  # key → store → bytes


@dataclass(frozen=True, slots=True)
class Survey:
    """What the stores hold, and what of it can be recovered from."""

    summaries: Mapping[str, Summary]  # of all manifests that read
    packs_of: Mapping[str, frozenset[str]]  # snapshot → keys of its packs
    unreadable: Collection[str]  # snapshots whose manifest reads on no store
    unusable: Mapping[str, str]  # snapshot → why it cannot be recovered from
    listed: Mapping[str, Sizes]  # prefix → what lies there
    newest_epoch_start: Lsn
    segment_bytes: int
    behind: Collection[str] = ()  # revisions of which a store that lists what it has lacks a part
    endangered: Collection[str] = ()  # not known to be on two stores, or another prune may be deleting a part


@dataclass(slots=True)
class Verdict:
    """``keys``: what nothing needs."""

    kept: dict[str, str] = field(default_factory=dict)  # snapshot → why
    heads: list[str] = field(default_factory=list)  # of these, the revisions by which they are recovered
    keys: set[str] = field(default_factory=set)
    wal_from: Lsn = NOWHERE  # what is kept of the log
    blocked: str = ""  # why packs and segments were not looked at
    held_by_epoch: int = 0  # bytes of log that only the floor of the protocol keeps


def decide_prune(survey: Survey, policy: Policy, now: datetime, *, fork_bytes: int = FORK_BYTES) -> Verdict:
    heads, replaced = _revisions(survey)
    usable = [survey.summaries[name] for name in heads]
    if not usable:
        return Verdict(blocked="there is no snapshot to recover from")
    # An endangered one is kept like any other, and makes no other one superfluous.
    sure = [each for each in usable if each.id not in survey.endangered]
    found = Verdict(kept(sure, policy, now) | kept(usable, policy, now))
    begin = window_begin(sure or usable, policy, now)
    found.heads = sorted(found.kept)
    staying = {original(name) for name in found.kept}
    for name in survey.summaries.keys() - replaced - survey.unusable.keys():
        if original(name) in staying:
            found.kept.setdefault(name, "until a revision of it is whole on every store")
    for name, why in survey.unusable.items():
        if survey.summaries[name].stopped > begin and name not in replaced:
            found.kept[name] = f"within the window, though {why}"
    found.keys = {snapshot_key(name) for name in survey.summaries if name not in found.kept}
    if survey.unreadable:
        names = ", ".join(sorted(survey.unreadable))
        found.blocked = f"no store gives the manifest of {names} whole, so what it needs is not known"
        return found
    needed = {key for name in found.kept for key in survey.packs_of[name]}
    named = {key for packs in survey.packs_of.values() for key in packs}
    young = pack_key(max(survey.summaries).partition("-")[0])
    found.keys |= {key for key in survey.listed["packs"] if key not in needed and (key in named or key < young)}
    wanted = min(wal_begin(survey.summaries[name]) for name in found.kept)
    floor = max(survey.newest_epoch_start - fork_bytes, 0)
    found.wal_from = Lsn(min(wanted, floor))
    for key, sizes in survey.listed[keys.WAL].items():
        end = _segment_end(key, survey.segment_bytes)
        if end is None:
            continue
        if end <= found.wal_from:
            found.keys.add(key)
        elif end <= wanted:
            found.held_by_epoch += sum(sizes.values())
    return found


def _revisions(survey: Survey) -> tuple[list[str], set[str]]:
    """Of each snapshot that can be recovered from, the revision that does; and those that nobody needs beside it."""
    heads, replaced = [], set()
    for revisions in by_original(survey.summaries).values():
        usable = [name for name in revisions if name not in survey.unusable]
        whole = [name for name in usable if name not in survey.behind and name not in survey.endangered]
        if not usable:
            continue
        head = (whole or usable)[-1]
        heads.append(head)
        if whole:
            replaced |= {name for name in revisions if name < head or name in survey.unusable}
    return heads, replaced


def released(survey: Survey, due: Collection[str], locked: Collection[str]) -> set[str]:
    """Of what is due, that which may go while ``locked`` stays: not what a manifest under lock still names.

    No store ever names what it has lost, so a manifest that cannot go yet keeps its packs and its log.
    """
    staying = [name for name in survey.summaries if snapshot_key(name) in locked]
    needed = {key for name in staying for key in survey.packs_of[name]}
    begin = min((wal_begin(survey.summaries[name]) for name in staying), default=None)

    def is_needed(key: str) -> bool:
        if begin is None or not key.startswith(f"{keys.WAL}/"):
            return key in needed
        end = _segment_end(key, survey.segment_bytes)
        return end is None or end > begin

    return {key for key in due if key not in locked and not is_needed(key)}


def _segment_end(key: str, segment_bytes: int) -> int | None:
    start = keys.segment_start(key, segment_bytes)
    return start + segment_bytes if start is not None else None
