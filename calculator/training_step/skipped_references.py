"""Passes after the trained pass that are not interpreted: those of a reference on the batch of the trained pass.

The peak of a second model like the trained one is that of the trained pass's layer (see `derived_passes`). A pass
without adapters is left out if it decides no figure.

The latter runs the base model under no_grad on the batch of the trained pass. A graph and adapters only add tensors
and references to tensors. So at each operation of the base model, of the storages of any size that the pass has
allocated itself, no more are alive than at the same operation of the trained pass without those of adapters. A later
layer has its own input alive and the first one's, so one more input is counted. All that is alive before the pass is
alive during it.

Layers are checkpointed. The pass has the inputs of all layers alive, and the trained pass has those of the layers
before at its peak. So the copies of the interpreted layer count alike in both.

The bytes of tensors must be known when the pass would run, to be compared with the peak of the trained pass. A run with
symbolic sizes interprets it, unless the peak of each pass is needed.
"""

from __future__ import annotations

from itertools import accumulate
from operator import itemgetter, neg
from typing import TYPE_CHECKING

from calculator.layers.trl.fused_head import FusedHead
from calculator.trainers import trainer_of
from calculator.training_step.derived_passes import find_own, is_symbolic, lists_every_adapter
from calculator.training_step.skipped_passes import may_be_skipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.skipped_passes import SkippedPasses
    from calculator.engine.tape import AddedRows
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers.loop import Compared


def may_follow(context: Context, prepared: PreparedModel) -> bool:
    """Return whether passes follow the trained pass that may be skipped, if their peak is known or a bound allows it.

    `context` is that of the trained pass, before it begins.
    """
    training, trainer = context.training, trainer_of(context.training)
    if not trainer.facts.compares or not training.gradient_checkpointing or training.autocast is not None:
        return False
    if trainer.runs_to_score(prepared):
        return False  # they run before it
    compared = trainer.compared(prepared)
    if compared is None or not isinstance(trainer.head(context), FusedHead):
        return False
    return may_be_skipped(context, prepared, compared)


def has_known_peak(context: Context, skipped: SkippedPasses, compared: Compared) -> bool:
    """Return whether a reference that would run now has the peak of the trained pass's layer.

    With symbolic sizes, that is found out when they are known.
    """
    if is_symbolic(context):
        return skipped.layer is not None and (compared == "model" or lists_every_adapter(context))
    find_own(context, skipped, (compared,))
    return skipped.own[compared] is not None


def decides_no_peak(context: Context, skipped: SkippedPasses) -> bool:
    """Return whether a pass that would run now has fewer bytes alive than the trained pass had at its peak."""
    tape, added = context.tape, skipped.added
    if added is None or tape.loops:
        return False
    if skipped.room is None:
        skipped.room = _room(context, skipped.start, added)
    else:
        rows = tape.rows
        changes = [rows[event][4] if event >= 0 else -rows[~event][4] for event in tape.events[skipped.compared_at :]]
        skipped.room -= sum(changes)
    skipped.compared_at = len(tape.events)
    return skipped.room > 0


def _room(context: Context, start: int, added: Sequence[AddedRows]) -> int:
    """Return by how many bytes a pass without adapters that would run now is below the peak of the trained pass.

    The trained pass has begun after `start` events. Bytes that both have alive, as those of copies, do not count.
    """
    tape, repetition = context.tape, context.repetition
    if not repetition.copies:
        return 0
    events, marks = tape.events[start:], {label: position - start for position, label in tape.marks}
    _, first, last = repetition.boundaries
    begin, end = marks[f"layer {first} forward"], marks[f"layer {last} forward"]
    sizes = [*map(itemgetter(4), tape.rows)]
    alive = _alive(events, sizes)
    for row, stop, output, _ in added:
        of_output = sizes[output]
        sizes[row:stop] = [0] * (stop - row)
        sizes[output] = of_output
    return max(alive[begin:]) - max(_alive(events, sizes)) - (alive[end] - alive[begin]) - alive[-1]


def _alive(events: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Return the bytes that are alive before each event and after the last one, without those from before the first."""
    both = [*sizes, *map(neg, reversed(sizes))]
    return [*accumulate(map(both.__getitem__, events), initial=0)]
