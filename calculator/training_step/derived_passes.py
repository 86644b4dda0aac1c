"""The peaks of no-grad passes that are not interpreted. They are derived from the layer of the trained pass.

Such a pass runs the trained model, or a second model like it, on the batch of the trained pass. All layers are
checkpointed and equal. If the layer of the trained pass frees everything except its output, and allocates nothing for
its graph, then no node keeps one of its tensors. Its live bytes at each operation are then the same without a graph.
While a later layer runs, its input is alive, and the input of the first layer if the decoder keeps it. The embeddings,
the final norm and the head need at most the live bytes that they need in the trained pass. If the layer needs more than
all of these, the peak of the pass is in the layer. The bytes that are alive before the pass are added.

A pass without adapters has the events of the trained pass without the events of adapters. The output of a frozen module
is then used instead of the sum of this output and the update.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from operator import itemgetter, neg
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.skipped_passes import TRAINED_END, DerivedLayer
from calculator.engine.tape import Sizes, Tensor
from calculator.layers.trl.fused_head import TOKEN_CHUNK_SIZE, VOCAB_CHUNK_SIZE
from calculator.methods.low_rank.method import LowRank
from calculator.trainers import trainer_of
from calculator.training_step.recorded_layers import leaves_its_output, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from calculator.engine.autograd import Node
    from calculator.engine.skipped_passes import SkippedPasses
    from calculator.engine.tape import AddedRows
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel


class UnknownPeaksError(Exception):
    """The peaks of the skipped passes before the trained pass cannot be derived from it."""


#: The maximum number of nodes before the first layer that are searched.
_MOST_NODES = 8


def is_peak_likely_in_layers(prepared: PreparedModel) -> bool:
    """Return whether a layer is likely to have more live bytes than the head, so that peaks can be derived from it.

    This is also true if the trained pass is the only one. The estimate for a layer is three of its widest tensors and
    two hidden states. The estimate for the head is a tile of logits and four hidden states. Kernels for float32
    allocate more with a graph. A wrong result only costs time.
    """
    training, facts = prepared.training, prepared.trainer.facts
    if not facts.runs_other_passes:
        return True
    if not (facts.compares or facts.generates) or not training.gradient_checkpointing:
        return False
    if prepared.hidden_dtype == "float32":
        return False
    labeled = training.completion_tokens or training.max_completion_length or training.sequence_length
    sequences = training.micro_batch_size * prepared.sequences_per_row
    labels, tokens = sequences * labeled, sequences * training.sequence_length
    modules = prepared.model.decoder.layers[0].modules
    wide = max([+module.out_features for module in modules if module.kind in ("linear", "conv1d")], default=0)
    hidden_size = +prepared.model.output.in_features
    tile = min(labels, TOKEN_CHUNK_SIZE) * VOCAB_CHUNK_SIZE
    return tokens * (3 * wide + 2 * hidden_size) > tile + 4 * labels * hidden_size


def may_derive_peaks(context: Context, prepared: PreparedModel) -> bool:
    """Return whether the peaks of passes may be derived from the trained pass's layer.

    `context` is that of the trained pass.
    """
    training, layers = context.training, context.repetition
    if not training.gradient_checkpointing or training.autocast is not None or context.is_reentrant:
        return False
    if training.padding or training.use_liger_kernel or context.unrolls or context.forward.keeps_hidden_states:
        return False
    if prepared.layer_outputs is not None or len(layers.numbers) != 1 or layers.start:
        return False
    return prepared.grads_inputs and not trainer_of(training).uses_cache(context.model, prepared.stack)


def run_observed(
    skipped: SkippedPasses,
    run: Callable[[Context, int, Tensor], Tensor],
    kept: int | None,
    context: Context,
    position: int,
    x: Tensor,
) -> Tensor:
    """Run the layer of a trained pass, and store it in `skipped` if peaks can be derived from it.

    `kept` is the row of the tensor that the decoder keeps while layers run.
    """
    tape, state = context.tape, state_of(context)
    tape.reads_trains = tape.reads_graph = False
    out = run(context, position, x)
    if x.storage is None or x.__class__ is not Tensor:
        return out
    row, first_row = x.storage.row, skipped.first_row
    if tape.reads_graph or not leaves_its_output(state, out) or (out.dtype, out.merged) != (x.dtype, x.merged):
        return out
    ahead = tape.events[skipped.start : state.events]
    if not frees_earlier(ahead, first_row) and not _is_kept_before(x, {row, kept}, first_row):
        skipped.layer = DerivedLayer(row, kept == row, tape.reads_trains)
    return out


def _is_kept_before(x: Tensor, others: set[int | None], first_row: int) -> bool:
    """Return whether nodes before the layers keep a tensor that the trained pass allocated.

    `x` is the first layer's input, and `first_row` the first row of the pass. The rows in `others` do not count.
    """
    nodes: list[Node] = [x.edge[0]] if x.edge is not None else []
    for node in nodes:
        if len(nodes) > _MOST_NODES:
            return True
        context = node.context if isinstance(node.context, tuple | list) else (node.context,)
        for value in (*node.saved, *context):
            storage = value.storage if isinstance(value, Tensor) else None
            if storage is not None and storage.row >= first_row and storage.row not in others:
                return True
        nodes += [edge[0] for edge in node.edges if edge is not None]
    return False


def frees_earlier(events: Sequence[int], first_row: int) -> bool:
    """Return whether one of the events frees a row before the given one."""
    ordered = sorted(events)
    return bisect_left(ordered, -first_row) < bisect_left(ordered, 0)


class TrainedPass(NamedTuple):
    """The events of a trained pass whose layer runs from event `first` to `last`.

    Attributes:
        sizes: The bytes of each row of the tape.
        added: The rows of adapters (see `Tape.added`). None if they are not listed.
        more: The bytes of a layer's input, if there are several layers.
    """

    events: Sequence[int]
    sizes: Sequence[int]
    added: Sequence[AddedRows] | None
    first: int
    last: int
    more: int

    def pass_peaks(self, layer: DerivedLayer, references: Iterable[str | None]) -> dict[str | None, int | None]:
        """Return the peak of each pass without a graph, or None if the peak is not in its layers.

        Bytes that are alive before the pass do not count. `references` has the reference that each pass runs, or None
        for the trained model.
        """
        peaks: dict[str | None, int | None] = {}
        peak_by_model: dict[bool, int | None] = {}
        for compared in references:
            is_base = compared == "without adapters"
            if compared == "model" and layer.trains:
                peaks[compared] = None
                continue
            if is_base not in peak_by_model:
                peak_by_model[is_base] = self._pass_peak(layer, is_base=is_base)
            peaks[compared] = peak_by_model[is_base]
        return peaks

    def _pass_peak(self, layer: DerivedLayer, *, is_base: bool) -> int | None:
        """Return the peak of a pass of the trained model, without adapters if `is_base`."""
        bytes_of_rows = self._base_changes() if is_base else (self.sizes, self.sizes)
        if bytes_of_rows is None:
            return None
        allocated, freed = bytes_of_rows
        changes = [*allocated, *map(neg, reversed(freed))]
        alive = [*accumulate(map(changes.__getitem__, self.events), initial=0)]
        most = max(alive[self.first : self.last + 1]) + (self.more if layer.keeps_input else 0)
        return most if most >= max(alive) else None

    def _base_changes(self) -> tuple[list[int], list[int]] | None:
        """Return the bytes that each row allocates and later frees without adapters, or None if they are unknown.

        The output of a frozen module then lives as long as the sum of this output and the update.
        """
        if self.added is None:
            return None
        allocated, freed = [*self.sizes], [*self.sizes]
        for first, stop, output, base_output in self.added:
            allocated[first:stop] = freed[first:stop] = [0] * (stop - first)
            if first <= output < stop:
                if base_output is None or self.sizes[base_output] != self.sizes[output]:
                    return None
                freed[output], freed[base_output] = self.sizes[output], 0
        return allocated, freed


def are_peaks_known(context: Context, skipped: SkippedPasses) -> bool:
    """Return whether the peaks of the passes before the trained pass, which has ended, can be derived from it."""
    if is_symbolic(context):
        return skipped.layer is not None
    references = {reference for _, reference in skipped.passes}
    find_pass_peaks(context, skipped, references)
    return all(skipped.pass_peaks[reference] is not None for reference in references)


def is_symbolic(context: Context) -> bool:
    """Return whether sizes are symbolic, so that the bytes of tensors are not known yet."""
    return context.tape.sizes.__class__ is not Sizes


def find_pass_peaks(context: Context, skipped: SkippedPasses, references: Iterable[str | None]) -> None:
    """Store the peaks of passes, without the bytes that are alive before them, once the trained pass has ended.

    `references` has the reference that each pass runs, or None for the trained model.
    """
    missing = [compared for compared in references if compared not in skipped.pass_peaks]
    layer, trained = skipped.layer, _trained_on_tape(context, skipped) if missing else None
    skipped.pass_peaks |= dict.fromkeys(missing)
    if trained is not None and layer is not None:
        listed = [compared for compared in missing if compared != "without adapters" or lists_every_adapter(context)]
        skipped.pass_peaks |= trained.pass_peaks(layer, listed)


def _trained_on_tape(context: Context, skipped: SkippedPasses) -> TrainedPass | None:
    """Return the trained pass, or None if no peaks can be derived from it."""
    layer, tape, start = skipped.layer, context.tape, skipped.start
    if layer is None or tape.loops:
        return None
    marks, sizes = {label: at for at, label in tape.marks}, [*map(itemgetter(4), tape.rows)]
    return TrainedPass(
        tape.events[start : marks[TRAINED_END]],
        sizes,
        skipped.added,
        marks["layer 0 forward"] - start,
        marks["layer 1 forward"] - start,
        sizes[layer.input_row] if context.repetition.copies else 0,
    )


def lists_every_adapter(context: Context) -> bool:
    """Return whether the tape lists the rows of every adapter in a layer."""
    method = context.prepared.method
    if context.model.has_experts:
        return False
    return isinstance(method, LowRank) and not (method.target_parameters or method.trainable_token_indices)
