"""The garbage collector of a server process, which looks at every object between answers rather than during one.

An answer allocates some hundred thousand objects, of which few are in cycles. A look at everything that a process keeps
of its last answers takes as long as many estimates.
"""

from __future__ import annotations

import gc

#: How many more objects are allocated than freed before the collector looks at the new ones.
_NEW_OBJECTS = 20_000

#: After how many looks at new objects it looks at those that survived one, and after how many of these at everything.
_LOOKS, _NEVER = 10, 1 << 30

#: After how many such looks everything is looked at if no answer runs, and if some always do.
_LOOKS_IF_IDLE, _MOST_LOOKS = 10, 100


def collect_between_answers() -> None:
    """Let the collector look at new objects alone. It no longer looks at what there is now."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _LOOKS, _NEVER)


def collect_if_due(*, idle: bool) -> None:
    """Look at everything if it is time; call this when an answer has been sent."""
    if gc.get_count()[2] > (_LOOKS_IF_IDLE if idle else _MOST_LOOKS):
        gc.collect()
