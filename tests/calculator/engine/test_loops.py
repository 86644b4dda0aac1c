"""Loops of which few iterations are interpreted, compared with loops that are interpreted whole."""

import pytest

from calculator.engine.loops import INTERPRETED, Loop, expanded
from calculator.engine.tape import Tape
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.causal_lm import micro_batch
from calculator.training_step.training_context import training_context

LORA = {"name": "lora", "target_modules": "all-linear"}
SETTINGS = [
    (LORA, {"gradient_checkpointing": True, "sequence_length": 640}),
    ({"name": "full"}, {"gradient_checkpointing": True, "sequence_length": 450, "micro_batch_size": 2}),
    ({"name": "full"}, {"sequence_length": 450, "dtype": "float32"}),
    ({"name": "lora", "target_modules": ["o_proj"]}, {"sequence_length": 640, "micro_batch_size": 2}),
]


def tapes_of(method, training, *, folds):
    """The tape of a step, and that of all iterations, before the step's own objects are freed."""
    request = parse_request({"model": "Qwen/Qwen3.5-0.8B", "method": method, "training": training})
    context = training_context(resident_state(request).prepared)
    context.tape.folds_loops = folds
    micro_batch(context)
    return context.tape, expanded(context.tape)


@pytest.mark.parametrize(("method", "training"), SETTINGS)
def test_a_folded_loop_expands_to_the_events_of_all_iterations(method, training):
    folded, tape = tapes_of(method, training, folds=True)
    _, whole = tapes_of(method, training, folds=False)
    assert len(folded.rows) < len(whole.rows)
    assert tape.rows == whole.rows
    assert tape.events == whole.events
    assert tape.marks == whole.marks
    assert tape.marked_rows == whole.marked_rows


def test_the_cost_of_a_longer_loop_does_not_grow():
    short, long = (len(tapes_of(LORA, {"sequence_length": 64 * n}, folds=True)[0].rows) for n in (6, 60))
    assert short == long


def test_tensors_that_outlive_a_loop_are_those_of_every_iteration():
    def run(count, *, folds):
        tape = Tape()
        tape.folds_loops = folds
        state, kept = tape.new((1,), "float32", "state"), []
        loop = Loop(tape, count)
        for _ in range(loop.interpreted):
            state = loop.begin(state)
            kept.append(tape.new((2,), "float32", "kept"))
            state = tape.new((1,), "float32", "state")
        while kept:
            del kept[0]
        return expanded(tape)

    folded, whole = (run(INTERPRETED + 4, folds=folds) for folds in (True, False))
    assert folded.rows == whole.rows
    assert folded.events == whole.events


def test_a_short_loop_is_interpreted_completely():
    tape = Tape()
    tape.folds_loops = True
    assert Loop(tape, INTERPRETED).interpreted == INTERPRETED
    assert tape.loops == []
