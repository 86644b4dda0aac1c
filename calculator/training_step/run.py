"""The interpretation of a micro-batch, with as few layers as determine all of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.copies import Copies
from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.kinds import storages_of
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.loops import expanded
from calculator.engine.memory_curve import Window
from calculator.engine.offloading import CARRIED, OUTLIVES
from calculator.engine.recording import Recording
from calculator.engine.skipped_passes import SkippedPasses
from calculator.trainers import trainer_of
from calculator.training_step import first_layer_bound, pass_peaks
from calculator.training_step.causal_lm import micro_batch
from calculator.training_step.checkpointed_layers import LayersDifferError
from calculator.training_step.derived_passes import UnknownPeaksError
from calculator.training_step.first_period import output_of, outputs_of
from calculator.training_step.peak import MicroBatchRun
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from calculator.engine.kinds import Kinds, Outputs, Storages
    from calculator.engine.layer_in_place import FirstBackward
    from calculator.engine.repetition import Repetition
    from calculator.engine.skipped_layer import SkippedLayer
    from calculator.engine.skipped_passes import SkippedRecord, TrainedDecoder
    from calculator.engine.tape import AddedRows, Allocation, Tape
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.pass_peaks import PassPeaks


class Interpretation(NamedTuple):
    """A micro-batch whose repeated layers are interpreted once: the arguments of its `Copies`."""

    tape: Tape
    repetition: Repetition
    lifetimes: Lifetimes
    windows: tuple[Window, ...]
    shared_rows: int
    hidden_states_row: int | None
    first: SkippedLayer | None
    no_grad: tuple[Window, ...] = ()
    bounds_first: bool = False
    #: The outputs of first periods that are not interpreted, in no-grad passes.
    outputs: Outputs = ()
    #: The position of each mark on the tape.
    marks: dict[str, int] | None = None
    #: The rows that adapters allocate in the trained pass, if passes without them may be skipped (see `Tape.added`).
    added: Sequence[AddedRows] | None = None
    #: The passes that are not interpreted.
    skipped: SkippedRecord | None = None
    #: The decoder of the trained pass, if passes of `generate` may be derived from it.
    decoder: TrainedDecoder | None = None
    #: The backward pass of a first layer that another layer is interpreted in place of, if it is known.
    first_backward: FirstBackward | None = None

    def with_kinds(self, kinds: Kinds) -> Copies:
        """Count the storages that the copies of layers add, for rows of the given kinds."""
        return Copies(
            self.tape,
            self.lifetimes,
            kinds,
            self.windows,
            self.shared_rows,
            self.hidden_states_row,
            self.first,
            self.no_grad,
            bounds_first=self.bounds_first,
            marks=self.marks,
        )

    def run(self) -> Run:
        """Return the run with the rows on the tape."""
        storages = storages_of(self.tape, self.first, self.outputs)
        copies = self.with_kinds(storages.kinds)
        return self.run_of(copies, storages)

    def run_of(self, copies: Copies, storages: Storages) -> Run:
        """Return the run with other sizes."""
        others = self.added, self.skipped, self.decoder, self.first_backward
        return Run(self.tape, self.repetition, copies, storages, *others)


class Run(NamedTuple):
    """A micro-batch with the storages of all its layers."""

    tape: Tape
    repetition: Repetition
    copies: Copies
    storages: Storages
    added: Sequence[AddedRows] | None = None
    skipped: SkippedRecord | None = None
    decoder: TrainedDecoder | None = None
    first_backward: FirstBackward | None = None

    @property
    def rows(self) -> Sequence[Allocation]:
        """The allocations in order."""
        return self.storages.rows

    def left_after_forward(self) -> dict[int, int]:
        """Return the storages that the step leaves until the forward pass of the next one ends, by kind.

        Those that the hooks of offloaded tensors leave are rows of the next step of their own.
        """
        left = self.copies.left_after(self.copies.marks["forward"])
        outliving = [row for label, row in self.tape.marked_rows.items() if label.startswith(OUTLIVES)]
        return dict(Counter(left) - Counter(self.copies.count_kinds(outliving))) if outliving else left

    def left_until_backward(self) -> dict[int, int]:
        """Return the storages that the hooks of offloaded tensors leave until the next backward pass begins."""
        return self.copies.count_kinds(
            [row for label, row in self.tape.marked_rows.items() if label.startswith(CARRIED)]
        )

    def recorded(self) -> Recording:
        """Return the recording, in which the copies of layers are counted."""
        return Recording(self.copies, self.storages)


def recorded_run(
    context_of: Callable[[], Context], cached: Callable[..., Run | None], *, whole: bool, every_pass: bool
) -> MicroBatchRun:
    """Interpret a micro-batch, or take its run from a cache, and record it.

    If `whole` is true, the recording has the figures of every layer. The first layer is interpreted if the next layer
    does not determine it. Every pass is interpreted if `every_pass` is true, or if the trained pass does not determine
    the others.
    """

    def run(*, whole: bool, every_pass: bool) -> Run:
        given = {"whole": whole, "every_pass": every_pass}
        return cached(**given) or interpreted(context_of(), **given, another=context_of).run()

    recorded = run(whole=whole, every_pass=every_pass)
    recording = recorded.recorded()
    passes = _peaks_if_determined(recorded, recording, whole=whole)
    if passes is None:
        recorded = run(whole=True, every_pass=True)
        recording = recorded.recorded()
    return MicroBatchRun(recorded, recording, passes or ())


def offloaded_bytes(prepared: PreparedModel) -> int:
    """Return the bytes of pinned host memory for the saved tensors that a micro-batch offloads."""
    context = training_context(prepared)
    micro_batch(context)
    context.drop_graph()
    return context.offloaded.most_pinned if context.offloaded is not None else 0


def _peaks_if_determined(run: Run, recording: Recording, *, whole: bool) -> PassPeaks | None:
    """Return the peaks of skipped passes and may be higher than those of the recording.

    Return None if a recording without all layers and passes, or with a first layer with more bytes alive, does not give
    every peak.
    """
    passes = () if run.skipped is None else pass_peaks.peaks(run, recording, run.skipped, each_is_needed=whole)
    if recording.first is not None:
        return passes if recording.first.is_determined(recording) else None
    if recording.copies.bounds_first:
        if not first_layer_bound.is_before_peak(recording):
            return None
        if whole and (run.first_backward is None or run.first_backward.peak(recording) is None):
            return None
    return passes


@without_frame_snapshots
def interpreted(
    context: Context, *, whole: bool, every_pass: bool | None = None, another: Callable[[], Context] | None = None
) -> Interpretation:
    """Interpret the micro-batch with one layer of each kind if that may determine the first layer, else with two.

    `every_pass`: whether all passes are interpreted, and the first layer if its backward pass differs. By default, they
    are if `whole` is true. If `another` returns a new context, checkpointed layers are recorded again where they are
    like others.
    """
    context.records_layers_again = another is not None
    every_pass = whole if every_pass is None else every_pass
    try:
        return _interpreted(context, whole=whole, every_pass=every_pass)
    except (LayersDifferError, UnknownPeaksError) as error:
        if another is None:
            raise
        every_pass = every_pass or isinstance(error, UnknownPeaksError)
    return _interpreted(another(), whole=whole, every_pass=every_pass)


def _interpreted(context: Context, *, whole: bool, every_pass: bool) -> Interpretation:
    prepared: PreparedModel = context.prepared  # type: ignore[assignment]  # a step's model is prepared
    # A replay depends on the order of tensors that are freed together.
    is_replayed = prepared.recorded_passes.are_replayed
    context.tape.repeats_checkpoints = repeats = not (is_replayed or context.hooks.runs_in_checkpoints)
    if _has_equal_layers(context):
        if not context.training.gradient_checkpointing:
            context.may_skip_first_layer = not (whole or context.hooks.couples_layers or context.training.has_images)
        elif context.prepared.grads_inputs and context.training.autocast is None:
            context.repetition = context.repetition.from_first_period()
        else:
            # What a layer does under autocast depends on its input, and whether the first one is like the others on
            # whether a gradient flows to it; both are known when it has run.
            context.may_repeat_first_period = not (context.is_reentrant or context.training.has_images)
            context.bounds_first_layer = context.may_repeat_first_period and not (
                context.hooks.couples_layers
                or context.prepared.grads_inputs
                or (whole and (every_pass or not repeats or context.training.autocast is not None))
            )
            context.shows_first_layer = whole
    context.tape.folds_loops = not context.may_skip_first_layer
    if trainer_of(context.training).facts.runs_other_passes and not every_pass:
        context.skipped = SkippedPasses(needs_peaks=whole)
    micro_batch(context)
    # While the step is interpreted, freed objects of the step add events to its own tape only.
    repetition, tape = context.repetition, expanded(context.tape)
    context.drop_graph()
    marks = {label: position for position, label in tape.marks}
    lifetimes = Lifetimes(tape.events, len(tape.rows))
    return Interpretation(
        tape=tape,
        repetition=repetition,
        lifetimes=lifetimes,
        windows=tuple(_windows(repetition, marks, skips_first=context.skipped_layer is not None)),
        shared_rows=lifetimes.next_row(marks["layer 0 forward"]),
        hidden_states_row=tape.marked_rows[f"layer {repetition.end} forward"] if repetition.start == 0 else None,
        first=context.skipped_layer,
        no_grad=_no_grad_windows(context, marks),
        bounds_first=context.bounds_first_layer,
        outputs=outputs_of(tape, context.passes),
        marks=marks,
        added=context.skipped.added if context.skipped is not None else None,
        skipped=context.skipped.record if context.skipped is not None else None,
        decoder=_decoder(context),
        first_backward=_first_backward(context, lifetimes, marks),
    )


def _first_backward(context: Context, lifetimes: Lifetimes, marks: Mapping[str, int]) -> FirstBackward | None:
    own = context.layer_in_place
    return None if own is None else own.backward(context.tape, lifetimes, marks[own.label])


def _decoder(context: Context) -> TrainedDecoder | None:
    """Return the decoder of the trained pass, whose positions on the tape do not change when loops are expanded."""
    decoder = context.skipped.decoder if context.skipped is not None else None
    if decoder is None or any(loop.forward[0] < decoder.end for loop in context.tape.loops):
        return None
    return decoder


def no_grad_run(context: Context) -> Run:
    """Return the run of a tape that has no-grad passes alone."""
    tape = expanded(context.tape)
    marks = {label: position for position, label in tape.marks}
    return Interpretation(
        tape=tape,
        repetition=context.repetition,
        lifetimes=Lifetimes(tape.events, len(tape.rows)),
        windows=(),
        shared_rows=0,
        hidden_states_row=None,
        first=None,
        no_grad=_no_grad_windows(context, marks),
        outputs=outputs_of(tape, context.passes),
        marks=marks,
    ).run()


def _windows(repetition: Repetition, marks: Mapping[str, int], *, skips_first: bool) -> Iterator[Window]:
    """Yield the forward and backward windows of the repeated layers.

    A skipped first layer is not one of the copies.
    """
    if not repetition.copies:
        return
    copies = repetition.copies - skips_first
    before, start, end = repetition.boundaries
    ahead, back = f"layer {start} forward", f"layer {start} backward"
    yield Window(
        before=marks[f"layer {before} forward"], start=marks[ahead], end=marks[f"layer {end} forward"], copies=copies
    )
    if back in marks:
        begin = marks[f"layer {end} backward"]
        yield Window(before=begin, start=begin, end=marks[back], copies=copies)


def _no_grad_windows(context: Context, marks: Mapping[str, int]) -> tuple[Window, ...]:
    """Return the windows of the repeated layers of each no-grad pass."""
    if not context.passes:
        return ()
    return tuple(
        _window(pass_repetition, marks, prefix) for prefix, pass_repetition in context.passes if pass_repetition.copies
    )


def _window(repetition: Repetition, marks: Mapping[str, int], prefix: str) -> Window:
    """Return the window of the repeated layers of a no-grad pass."""
    before, start, end = (marks[f"{prefix}layer {place} forward"] for place in repetition.boundaries)
    before = marks.get(output_of(prefix), before)
    return Window(before=before, start=start, end=end, copies=repetition.copies)


def _has_equal_layers(context: Context) -> bool:
    """Return whether all layers are equal, except that the first one's input may need no gradient.

    They are not equal if layers use different masks, which are freed one before the other; if autocast caches a copy of
    the first layer's input; if quantized layers keep their inputs; or if the loss uses every layer's router logits. A
    checkpointed layer saves only its input. Layers that a sharding couples are not equal either, unless the sharding
    only gathers around each module. Such gathers are counted per copy, in all passes of a step.
    """
    if context.hooks.couples_layers and (
        trainer_of(context.training).facts.runs_other_passes or not context.hooks.calls_modules
    ):
        return False
    if context.prepared.offloads_activations:
        return False
    is_cached = context.training.autocast is not None and not context.training.gradient_checkpointing
    if is_cached or context.parameters.keeps_inputs:
        return False
    return len(context.model.attention_types) == 1 and not context.model.adds_router_loss
