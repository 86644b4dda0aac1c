"""Passes of a reference after the trained pass, on the same batch, that are not interpreted.

The peak of a second model like the trained one is derived from the layer of the trained pass (see `derived_passes`). A
pass without adapters is skipped if it cannot have a peak of the step.

A pass without adapters runs the base model under no_grad on the batch of the trained pass. A graph and adapters only
add tensors and references to tensors. So at each operation of the base model, the pass has at most as many live
storages of any size as the trained pass without its adapters. This holds for storages that the pass itself allocates.
While a later layer runs, its input and the first layer's input are alive, so one more input is counted. Everything that
is alive before the pass stays alive during it.

Layers are checkpointed. In the pass without adapters, the inputs of all layers are alive. At the peak of the trained
pass, the inputs of the earlier layers are alive. So the copies of the interpreted layer count equally in both.

The bytes of tensors must be known when the pass would run, because they are compared with the peak of the trained pass.
A run with symbolic sizes interprets the pass, unless the peak of each pass is needed.
"""

from __future__ import annotations

from itertools import accumulate
from operator import itemgetter, neg
from typing import TYPE_CHECKING

from calculator.layers.trl.fused_head import FusedHead
from calculator.trainers import trainer_of
from calculator.training_step.derived_passes import find_pass_peaks, is_symbolic, lists_every_adapter
from calculator.training_step.skipped_passes import may_be_skipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.skipped_passes import SkippedPasses
    from calculator.engine.tape import AddedRows
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers.loop import Compared


def may_derive_reference(context: Context, prepared: PreparedModel) -> bool:
    """Return whether passes after the trained pass may be skipped, if their peaks are derived or bounded.

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
    find_pass_peaks(context, skipped, (compared,))
    return skipped.pass_peaks[compared] is not None


def cannot_be_peak(context: Context, skipped: SkippedPasses) -> bool:
    """Return whether the live bytes of a pass that would run now stay below the peak of the trained pass."""
    tape, added = context.tape, skipped.added
    if added is None or tape.loops:
        return False
    if skipped.room is None:
        skipped.room = _headroom(context, skipped.start, added)
    else:
        rows = tape.rows
        changes = [rows[event][4] if event >= 0 else -rows[~event][4] for event in tape.events[skipped.compared_at :]]
        skipped.room -= sum(changes)
    skipped.compared_at = len(tape.events)
    return skipped.room > 0


def _headroom(context: Context, start: int, added: Sequence[AddedRows]) -> int:
    """Return by how many bytes a pass without adapters that would run now is below the peak of the trained pass.

    The trained pass began after `start` events. Bytes that are alive in both, such as those of copies, do not count.
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
        output_bytes = sizes[output]
        sizes[row:stop] = [0] * (stop - row)
        sizes[output] = output_bytes
    return max(alive[begin:]) - max(_alive(events, sizes)) - (alive[end] - alive[begin]) - alive[-1]


def _alive(events: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Return the bytes that are alive before each event and after the last one, without those from before the first."""
    signed_sizes = [*sizes, *map(neg, reversed(sizes))]
    return [*accumulate(map(signed_sizes.__getitem__, events), initial=0)]
