"""A micro-batch whose outputs stay alive until the next forward ends: the logits, and the cached keys and values.

A script with `outputs = model(**batch)` frees them when it assigns the next step's outputs to that name. The reference
step keeps only the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.training_step.unrolled import Events

if TYPE_CHECKING:
    from calculator.architecture.model import Model

#: The end of the names of a cache's rows (calculator.layers.context).
CACHED = ", cached"


def keep_outputs(events: Events, model: Model) -> Events:
    """The same events, with the outputs left alive at the end."""
    logits = f"{model.head}: output"
    kept = {number for number, row in enumerate(events.rows) if row[0] == logits or row[0].endswith(CACHED)}
    allocated = {event for event in (*events.forward, *events.backward) if event >= 0}

    def without_frees(events_of_pass: list[int]) -> list[int]:
        return [event for event in events_of_pass if event >= 0 or ~event not in kept]

    return Events(
        rows=events.rows,
        forward=without_frees(list(events.forward)),
        backward=without_frees(list(events.backward)),
        gradients=events.gradients,
        left=[*events.left, *sorted((kept & allocated) - set(events.left))],
    )
