"""The protocol, broken on purpose: each a small patch of the production code, which the checker must catch.

A check that cannot fail is worthless. `VARIANTS` names each broken variant, how to break it, and the worlds in which
it is looked for; the correct protocol passes the same worlds (test_variants.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.broken import appending, claiming, replacing, switching, taking_over
from tests.simulation.broken.patching import Broken


@dataclass(frozen=True)
class Variant:
    """``seeds``: within how many it must be caught; ``known``: one that caught it, which is tried before the others."""

    broken: Broken
    world: str = "any"
    seeds: int = 150
    known: int = 0


VARIANTS: dict[str, Variant] = {
    "acks at one store": Variant(appending.acks_at_one_store),
    "acks out of order": Variant(appending.acks_out_of_order),
    "reads without sealing": Variant(taking_over.reads_without_sealing),
    "treats a time-out as absent": Variant(taking_over.treats_a_timeout_as_absent, "shaky"),
    "begins a take-over in the trimmed range": Variant(taking_over.begins_in_the_trimmed_range),
    "believes an absent slot without looking at the segments again": Variant(
        taking_over.believes_an_absent_slot, "trimming"
    ),
    "looks at one segment only": Variant(taking_over.looks_at_one_segment, "trimming"),
    "does not check the primary again": Variant(taking_over.does_not_check_again, "contended"),
    "deletes seals": Variant(claiming.deletes_seals),
    "trusts a newest segment that is on one store": Variant(
        taking_over.trusts_a_segment_on_one_store, "trimming", known=35
    ),
    "writes the next segment before this one is on two stores": Variant(
        appending.writes_segments_ahead, "hasty", seeds=500, known=273
    ),
    "skips epoch numbers": Variant(claiming.skips_epoch_numbers, "contended", known=18),
    "deletes claims": Variant(claiming.deletes_claims),
    "counts an amnesiac store": Variant(claiming.counts_an_amnesiac_store, "forgetful", known=9),
    "reuses an epoch after a restart": Variant(claiming.reuses_an_epoch),
    "judges a lower epoch again": Variant(taking_over.judges_a_lower_epoch_again, "contended", known=39),
    "two timelines in one epoch": Variant(taking_over.two_timelines_in_one_epoch, "contended"),
    "does not ask before slot 0 whether it may still lead": Variant(
        switching.does_not_ask_before_slot_0, "switching", known=46
    ),
    "asks whether it may lead before the claim instead of after": Variant(
        switching.asks_before_the_claim, "switching", seeds=400, known=10
    ),
    "promotes before fencing": Variant(switching.promotes_before_fencing, "switching"),
    "promotes a switch that was abandoned": Variant(
        switching.promotes_what_was_abandoned, "switching", seeds=500, known=310
    ),
    "bundles what is not settled": Variant(appending.bundles_what_is_not_settled, known=451),
    "adds a surplus at any time": Variant(switching.adds_a_surplus_at_any_time, "switching", known=69),
    "the new store votes before it is full": Variant(replacing.votes_before_it_is_full, "replacing"),
    "fills the new store before the old three are fenced": Variant(
        replacing.fills_before_the_old_three_are_fenced, "replacing"
    ),
    "seals on two of the new three": Variant(replacing.seals_on_two_of_the_new_three, "replacing", known=151),
    "goes back by any two of the old three": Variant(replacing.goes_back_by_two_of_the_old_three, "replacing", known=9),
    "takes over with old settings": Variant(replacing.takes_over_with_old_settings, "replacing", seeds=400, known=77),
    "reads with old settings": Variant(replacing.reads_with_old_settings, "replacing"),
}
