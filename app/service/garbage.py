"""The cyclic garbage collector of a server process, whose full collections run between answers, not during one.

An answer allocates some hundred thousand objects, of which few are in cycles. A full collection
also visits the cached answers, and takes as long as many estimates.
"""

from __future__ import annotations

import gc

#: The thresholds of gc.set_threshold: allocations before a collection of generation 0, collections of generation 0
#: before one of generation 1, and a number that collections of generation 1 never reach.
_ALLOCATIONS, _COLLECTIONS, _NEVER = 20_000, 10, 1 << 30

#: The number of collections of generation 1 after which a full one is due: if no answer runs, and if some always run.
_DUE_IF_IDLE, _DUE = 10, 100


def collect_between_answers() -> None:
    """Exclude the present objects from collections, and turn off automatic full collections."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, _COLLECTIONS, _NEVER)


def collect_if_due(*, idle: bool) -> None:
    """Run a full collection if it is due. Call this when an answer has been sent."""
    if gc.get_count()[2] > (_DUE_IF_IDLE if idle else _DUE):
        gc.collect()
