"""A micro-batch, run with as few of its layers as tell all of it, and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.lifetimes import Lifetimes
from calculator.engine.memory_curve import Window
from calculator.engine.recording import Recording
from calculator.layers import masks
from calculator.training_step.causal_lm import micro_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from calculator.engine.repetition import Repetition
    from calculator.engine.skipped_layer import SkippedLayer
    from calculator.engine.tape import Tape
    from calculator.layers.context import Context


class Run(NamedTuple):
    """A micro-batch that was run, and where on its tape is what a recording asks for.

    `lifetimes`, `windows`, `shared_rows`, `hidden_states_row` and `first` are a recording's. `kept` holds what must not
    be freed while the tape is read.
    """

    tape: Tape
    repetition: Repetition
    lifetimes: Lifetimes
    windows: tuple[Window, ...]
    shared_rows: int
    hidden_states_row: int | None
    first: SkippedLayer | None
    kept: object = None

    def recorded(self) -> Recording:
        """How many bytes are alive when."""
        return Recording(self.tape, self.lifetimes, self.windows, self.shared_rows, self.hidden_states_row, self.first)


def interpreted(
    context_of: Callable[[], Context], told: Callable[..., Run | None], *, whole: bool
) -> tuple[Run, Recording]:
    """Run the micro-batch, where that is not `told` of another's, and record it.

    With the first layer where that is to be `whole`, or can't be told of the next.
    """
    run = told(whole=whole) or ran(context_of(), whole=whole)
    recording = run.recorded()
    if recording.first is not None and not recording.first.is_told(recording):
        run = told(whole=True) or ran(context_of(), whole=True)
        recording = run.recorded()
    return run, recording


def ran(context: Context, *, whole: bool) -> Run:
    """Run the micro-batch with one layer of a kind where that tells of the first, with two otherwise."""
    if _are_alike(context):
        if context.training.gradient_checkpointing:
            context.repetition = context.repetition.from_first_period()
        else:
            context.may_skip_first_layer = not whole
    micro_batch(context)
    repetition, tape = context.repetition, context.tape
    marks = {label: position for position, label in tape.marks}
    begin = marks["layer 0 forward"]
    return Run(
        tape=tape,
        repetition=repetition,
        lifetimes=Lifetimes(tape.events, tape.rows),
        windows=tuple(_windows(repetition, marks, apart=context.skipped_layer is not None)),
        shared_rows=next(event for event in tape.events[begin:] if event >= 0),
        hidden_states_row=tape.marked_rows[f"layer {repetition.end} forward"] if repetition.start == 0 else None,
        first=context.skipped_layer,
        kept=context,
    )


def _windows(repetition: Repetition, marks: Mapping[str, int], *, apart: bool) -> Iterator[Window]:
    """Where the repeating layers run forward and backward; one more layer may be told apart from them."""
    if not repetition.copies:
        return
    copies = repetition.copies - apart
    before, start, end = (f"layer {place}" for place in repetition.boundaries)
    ahead, back = f"{start} forward", f"{start} backward"
    yield Window(before=marks[f"{before} forward"], start=marks[ahead], end=marks[f"{end} forward"], copies=copies)
    if back in marks:
        begin = marks[f"{end} backward"]
        yield Window(before=begin, start=begin, end=marks[back], copies=copies)


def _are_alike(context: Context) -> bool:
    """Whether the first layer is like all of its kind, but for an input that may need no gradient.

    A checkpointed layer keeps its input and nothing else of what came before it. Not so where one mask is dropped
    before another, where autocast keeps a copy of the first one's input, and where all layers' logits go into the loss.
    """
    if context.training.autocast is not None:
        return False
    return len(masks.attention_types(context.layers)) == 1 and not context.model.adds_router_loss
