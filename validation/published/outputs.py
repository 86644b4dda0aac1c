"""A micro-batch whose outputs stay alive until the next forward ends: the logits, and the cached keys and values.

A script with `outputs = model(**batch)` frees them when it assigns the next step's outputs to that name. The reference
step keeps only the loss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.training_step.batch_trace import Program
    from calculator.training_step.unrolled import Events

#: The end of the names of a cache's rows (calculator.layers.context).
CACHED = ", cached"

#: The end of the names of a prefix's rows, which the keys and values after them replace in the cache.
PREFIX = ": prefix, cached"


#: The ends of the names of a layer's values (with an update of LoRA, the second one), and of its rotated keys. A cache
#: without copies refers to them.
VALUES = ("self_attn.v_proj: output", "self_attn.v_proj: result + update")
KEYS = "self_attn: key, rotated"


def with_outputs(program: Program, model: Model, *, refers: bool = False) -> Program:
    """Return the micro-batch of any length, with the outputs alive at its end.

    `refers`: whether the cache refers to keys and values without copying them.
    """
    kept = {row for row, name in enumerate(program.names) if is_output(name, model)}
    if refers:
        kept |= referred(program.names)
    forward, backward = ([event for event in events if event >= 0 or ~event not in kept] for events in program.passes)
    allocated = kept.intersection(forward) | kept.intersection(backward)
    left = [*program.left, *sorted(allocated - set(program.left))]
    return replace(program, passes=(forward, backward), left=left)


def referred(names: Sequence[str]) -> set[int]:
    """Return the rows of each layer's rotated keys, and of what its projection of values returned last before them."""
    rows, values = set(), -1
    for row, name in enumerate(names):
        if name.endswith(VALUES):
            values = row
        elif name.endswith(KEYS):
            rows |= {row, values}
    return rows


def is_output(name: str, model: Model) -> bool:
    """Return whether a row is of the logits, or of the cached keys and values."""
    return name == f"{model.head}: output" or (name.endswith(CACHED) and not name.endswith(PREFIX))


def keep_rows(events: Events, kept: set[int]) -> Events:
    """Return the events, with some rows alive at the end."""
    allocated = {event for event in (*events.forward, *events.backward) if event >= 0}

    def without_frees(events_of_pass: Sequence[int]) -> list[int]:
        return [event for event in events_of_pass if event >= 0 or ~event not in kept]

    return replace(
        events,
        forward=without_frees(events.forward),
        backward=without_frees(events.backward),
        left=[*events.left, *sorted((kept & allocated) - set(events.left))],
    )


def free_after_backward(events: Events, model: Model) -> Events:
    """Return the events, with the logits freed at the end of the backward pass."""
    logits = {number for number, row in enumerate(events.rows) if row[0] == f"{model.head}: output"}
    forward, backward = (
        [event for event in passed if event >= 0 or ~event not in logits]
        for passed in (events.forward, events.backward)
    )
    alive = sorted(logits.intersection(forward))
    return replace(
        events,
        forward=forward,
        backward=[*backward, *(~row for row in alive)],
        left=[row for row in events.left if row not in logits],
    )
