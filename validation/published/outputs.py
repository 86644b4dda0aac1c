"""A micro-batch whose outputs the caller keeps: logits and cached keys and values live on until the next forward ends.

A script that holds `outputs = model(**batch)` frees them when the next step's outputs take their name; the reference
step keeps the loss alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.training_step.unrolled import Events

if TYPE_CHECKING:
    from calculator.architecture.model import Model

#: How rows of a cache end (calculator.layers.context).
CACHED = ", cached"


def held(events: Events, model: Model) -> Events:
    """The same events with the outputs among what is left at the end."""
    names = f"{model.head}: output"
    kept = {row for row, born in enumerate(events.rows) if born[0] == names or born[0].endswith(CACHED)}
    born = {event for event in (*events.forward, *events.backward) if event >= 0}

    def without_frees(told: list[int]) -> list[int]:
        return [event for event in told if event >= 0 or ~event not in kept]

    return Events(
        rows=events.rows,
        forward=without_frees(list(events.forward)),
        backward=without_frees(list(events.backward)),
        gradients=events.gradients,
        left=[*events.left, *sorted((kept & born) - set(events.left))],
    )
