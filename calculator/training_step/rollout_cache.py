"""The cache entries of all layers that a pass of `generate` finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.training_step.generation import cached_before

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.layer_kind import MixerType
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Allocation, Tensor
    from calculator.layers.context import Context

    #: The tensors that a layer has in the cache.
    Entries = list[tuple[Tensor, ...]]


def entries_before(context: Context, entries: Sequence[Entries], *, first: bool) -> list[list[Tensor | None]]:
    """Allocate the cache entries of every layer, and return those of the interpreted layers.

    The entries of the other layers stay alive. They are like those of the layers that represent them.
    """
    tape, interpreted = context.tape, {*context.repetition.numbers}
    cached: list[list[Tensor | None]] = []
    known: dict[tuple[MixerType, int], list[Allocation]] = {}
    for number, (layer, own) in enumerate(zip(context.layers, entries, strict=True)):
        key, row = (layer.kind.attention, id(own)), len(tape.rows)
        if number in interpreted:
            cached += cached_before(context, layer, own, first=first)
            known[key] = tape.rows[row:]
        else:
            tape.rows += known[key]
            tape.events += range(row, len(tape.rows))
    return cached


def entries_of_all(layers: Repetition, interpreted_entries: Sequence[Entries]) -> list[Entries]:
    """Return the entries of each layer of the model, from those of the interpreted layers."""
    start, end = layers.start, layers.end
    repeated = [*interpreted_entries[start:end]] * layers.copies
    return [*interpreted_entries[:end], *repeated, *interpreted_entries[end:]]
