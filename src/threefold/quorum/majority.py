"""Two of three. Enumerated, because formulas are easy to get wrong.

Any two of three stores share at least one store with any other two: what is on two stores is seen by whoever asks
two, and two seals leave no room for two copies. Every safety argument of the log ends here.
"""

from __future__ import annotations

from typing import Final

STORES: Final = 3
QUORUM: Final = 2

# How many slots a writer may have under way that are not settled yet. Both sides rely on it: the writer never
# exceeds it, and a reader that finds an entry further above a declared end knows that something is badly wrong.
WINDOW: Final = 8


def is_quorum(stores: int) -> bool:
    """Whether that many stores decide."""
    return {0: False, 1: False, 2: True, 3: True}[stores]
