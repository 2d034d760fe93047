"""Whose answers count, and how that changes: one store is replaced by another while the log goes on. Pure.

A *membership* stands in slot 0 of every epoch (history.py): the stores that its slots are counted on. Three, or, while
one is being replaced, the two that stay:

    S1 S2 S3  ──▶  S1 S2  ──▶  S1 S2 S4          (or back:  S1 S2  ──▶  S1 S2 S3)

Two of the two that stay are two of the old three and two of the new three. So whatever is decided in the middle is
decided in both, and the old three and the new three, which may have two stores each without one in common, never meet:

- A change is made by an epoch that is claimed, takes over and puts slot 0 on *both that stay*, and nowhere else.
- Whoever takes over, or reads, under one membership and finds the newest slot 0 under another one stops (MovedError).
  Under the old one any two stores show the slot 0 that left it, or sealed it before it could stand on both.
- Of going on and going back only one can begin: both need both that stay, and each seals the other.
- The store that joins counts for nothing before it holds all that the two hold of what was settled under the old
  membership, copied *after* the middle had begun: until then something may settle on one of the two and on the one that
  leaves. What settles in the middle is on both that stay, so on every two of the new three.

Generation 0 is a log in which no store was ever replaced. Its slot 0s name nobody: the three are those of the settings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from threefold.kernel.errors import Damaged, Refused
from threefold.quorum.majority import QUORUM, STORES


@dataclass(frozen=True, slots=True)
class Membership:
    """``stores``: whose answers count; none are named in generation 0. ``leaving``, ``joining``: the last change."""

    generation: int = 0
    stores: tuple[str, ...] = ()
    leaving: str = ""
    joining: str = ""

    @property
    def is_joint(self) -> bool:
        """A replacement is under way: both stores that stay are needed."""
        return len(self.stores) == QUORUM

    def completed(self) -> Membership:
        """The middle, gone on from."""
        three = tuple(sorted((*self.stores, self.joining)))
        return Membership(self.generation + 1, three, self.leaving, self.joining)

    def abandoned(self) -> Membership:
        """The middle, gone back from."""
        return Membership(self.generation + 1, tuple(sorted((*self.stores, self.leaving))), self.joining, self.leaving)


FOUNDED = Membership()


class MovedError(Exception):
    """The newest epoch counts under ``membership``, not under the one that was assumed: begin anew, under that."""

    def __init__(self, membership: Membership) -> None:
        super().__init__(f"membership {membership.generation} is in force")
        self.membership = membership


class ReplacedError(Refused):
    """Other stores are members by now than when this process opened its stores: open them anew."""

    def __init__(self, now: Membership, *, ours: bool = False) -> None:
        """``ours``: this process made the change."""
        doing = "is being replaced" if now.is_joint else "was replaced"
        super().__init__(
            f"{now.leaving} {doing} by {now.joining} while this was under way",
            hint="nothing was concluded; start it again: the settings are read anew",
        )
        self.membership = now
        self.ours = ours


@dataclass(frozen=True, slots=True)
class Named:
    """The stores that somebody's settings name: three; or four, of which ``joining`` is to replace ``leaving``."""

    stores: tuple[str, ...]
    leaving: str = ""
    joining: str = ""

    def voters(self, now: Membership) -> tuple[str, ...]:
        """Whom to ask under this membership. Raises Refused where the settings do not know one of them."""
        if not now.generation:
            return tuple(store for store in self.stores if store != self.joining)
        wanted = (*now.stores, now.joining) if now.is_joint else now.stores
        # Of a store that is gone for good the settings need not know any more.
        unknown = [store for store in wanted if store not in self.stores and not self._drops(store)]
        if not unknown:
            return tuple(store for store in self.stores if store in now.stores)
        if now.joining in unknown:
            verb = "is being replaced" if now.is_joint else "was replaced"
            raise Refused(
                f"{now.leaving} {verb} by {now.joining}, which these settings do not name",
                hint=f"nothing was touched; add the [[store]] {now.joining} to this machine's settings "
                f"(take it from the DRaaS server's), in place of {now.leaving}",
            )
        raise Refused(
            f"{', '.join(unknown)} of the log's stores ({', '.join(now.stores)}) "
            f"{'is' if len(unknown) == 1 else 'are'} not in these settings",
            hint="nothing was touched; copy the [[store]] sections from the DRaaS server's settings",
        )

    def _drops(self, store: str) -> bool:
        return bool(self.joining) and store == self.leaving and store not in self.stores

    def known(self, now: Membership) -> tuple[str, ...]:
        """Those of its voters that are named. Raises Refused where fewer than two are, and says which one lacks."""
        voters = tuple(store for store in self.stores if store in now.stores)
        return voters if len(voters) == len(now.stores) else self.voters(now)

    def following(self, now: Membership) -> Membership | None:
        """The next step towards what the settings ask for; None where nothing is to be done.

        Who left last does not come back under its name (it may have been abandoned on purpose, and old settings would
        not notice).

        Raises Refused where another replacement is under way.
        """
        if now.is_joint:
            if self.joining and (self.leaving, self.joining) != (now.leaving, now.joining):
                raise Refused(
                    f"{now.leaving} is being replaced by {now.joining}: one replacement at a time",
                    hint="let it end, or abandon it",
                )
            return now.completed() if now.joining in self.stores else None
        three = self.voters(now)
        if not self.joining or self.joining in three or self.joining == now.leaving:
            return None
        if self.leaving not in three and not (self._drops(self.leaving) and len(three) == QUORUM):
            raise Refused(
                f"{self.leaving} is not one of the log's stores ({', '.join(three)})",
                hint=f"say which of them {self.joining} replaces",
            )
        stay = tuple(sorted(store for store in three if store != self.leaving))
        return Membership(now.generation + 1, stay, self.leaving, self.joining)


def check_step(asked: Sequence[str], before: Membership, after: Membership) -> None:
    """Whether an epoch that asks these stores may go from one membership to the next. Raises ValueError.

    Not a matter of input: who gets here with another step would break the log.
    """
    if after == before:
        return
    middle = before if before.is_joint else after
    one_step = after.generation == before.generation + 1 and before.is_joint is not after.is_joint
    both = len(asked) == QUORUM and set(asked) == set(middle.stores)
    if not (one_step and both and set(middle.stores) < set(after.stores if before.is_joint else _three(before, after))):
        raise ValueError(f"asking {', '.join(asked)} cannot go from {before} to {after}")


def _three(before: Membership, after: Membership) -> tuple[str, ...]:
    three = before.stores or (*after.stores, after.leaving)  # generation 0 names nobody
    return three if len(three) == STORES and after.leaving in three and after.joining not in three else ()


def encode_membership(membership: Membership) -> dict[str, object]:
    return {name: getattr(membership, name) for name in Membership.__slots__}


def decode_membership(found: object) -> Membership:
    """Raises Damaged."""
    try:
        fields = dict(found)  # type: ignore[call-overload]
        stores = tuple(str(store) for store in fields.pop("stores"))
        made = Membership(stores=stores, **fields)
    except (TypeError, ValueError, KeyError) as error:
        raise Damaged("the membership in slot 0 is not readable", hint="another version wrote it") from error
    if made.generation < 1 or len(stores) not in {QUORUM, STORES}:
        raise Damaged(f"the membership in slot 0 is not one: {json.dumps(fields)}", hint="another version wrote it")
    return made
