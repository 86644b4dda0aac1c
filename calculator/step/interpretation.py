"""A micro-batch, run with as few of its layers as tell all of it, and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import masks, router_loss
from calculator.step.causal_lm import micro_batch
from calculator.step.level import Window
from calculator.step.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.step.context import Context


def interpreted(context_of: Callable[[], Context], *, whole: bool) -> tuple[Context, Recording]:
    """Run the micro-batch and record it; with the first layer where that is to be `whole`, or can't be told."""
    context = context_of()
    if _are_alike(context):
        if context.training.gradient_checkpointing:
            context.repetition = context.repetition.from_the_first()
        else:
            context.tells_first = not whole
    recording = _recorded(context)
    if recording.first is not None and not recording.first.is_told(recording):
        context = context_of()
        recording = _recorded(context)
    return context, recording


def _are_alike(context: Context) -> bool:
    """Whether the first layer is like all of its kind, but for an input that may need no gradient.

    A checkpointed layer keeps its input and nothing else of what came before it. Not so where one mask is dropped
    before another, where autocast keeps a copy of the first one's input, and where all layers' logits go into the loss.
    """
    if context.training.autocast is not None:
        return False
    return len(masks.types(context.layers)) == 1 and not router_loss.asked(context.model)


def _recorded(context: Context) -> Recording:
    micro_batch(context)
    repetition, tape = context.repetition, context.tape
    marks = {label: position for position, label in tape.marks}
    windows = []
    if repetition.copies:
        copies = repetition.copies - (context.first is not None)
        before, start, end = (f"layer {place}" for place in repetition.places)
        ahead, back = f"{start} forward", f"{start} backward"
        windows.append(
            Window(before=marks[f"{before} forward"], start=marks[ahead], end=marks[f"{end} forward"], copies=copies)
        )
        if back in marks:
            begin = marks[f"{end} backward"]
            windows.append(Window(before=begin, start=begin, end=marks[back], copies=copies))
    first = marks["layer 0 forward"]
    shared = next(event for event in tape.events[first:] if event >= 0)
    handed_on = tape.passed[f"layer {repetition.end} forward"] if repetition.start == 0 else None
    return Recording(tape, tuple(windows), shared, handed_on, context.first)
