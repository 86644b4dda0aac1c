"""No-grad passes run one layer of each period, and have the events of all layers."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from calculator.engine import layer_loop
from calculator.engine import operations as ops
from calculator.engine.recorded_passes import RecordedPasses
from calculator.engine.repetition import Repetition
from calculator.engine.tape import Tape
from calculator.estimation.estimate import estimate, resident_state, training_step
from calculator.estimation.request import parse_method, parse_request
from calculator.estimation.series import SeriesCache
from calculator.layers import sharding_hooks
from calculator.trainers import trainer_of
from calculator.training_step import model_passes, recorded_layers, rollout, skipped_passes
from calculator.training_step import unrolled as unrolled_module
from calculator.training_step.first_period import FirstPeriod
from calculator.training_step.recorded_layers import RecordedLayers
from calculator.training_step.run import interpreted
from calculator.training_step.training_context import training_context
from calculator.training_step.unrolled import Events, unrolled

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from calculator.engine.tape import Tensor
    from calculator.estimation.request import Request
    from calculator.layers.context import Context

#: Layers that are alike, and layers of which every other one has a window that its cached tokens fill.
MODELS = ("meta-llama/Llama-3.2-1B", "google/gemma-2-2b")

#: Models with other residuals, with tables of positions, with experts, and whose layers keep more than their output.
MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
FAMILIES = (*MODELS, "gpt2", "EleutherAI/pythia-70m", MIXTRAL, "bigscience/bloom-560m")

#: Each of them with gradient checkpointing, and one without it.
CHECKPOINTS = (*((model, True) for model in FAMILIES), (MODELS[1], False))


def _request(model: str, trainer: str, **training: Any) -> Request:
    settings = {"trainer": trainer, "micro_batch_size": 2, "autocast": "bfloat16", **training}
    method = {"name": "lora", "target_modules": ["q_proj", "v_proj"]} if model == MIXTRAL else {"name": "lora"}
    return parse_request({"model": model, "method": method, "training": settings, "reserved": "rule"})


def _tapes(request: Request) -> list[Tape]:
    """The tapes of a step, and of the passes in which its trainer generates."""
    prepared = resident_state(request).prepared
    batch = trainer_of(prepared.training).generation(prepared.training)
    passes = rollout.Rollout(prepared, batch).passes() if batch is not None else ()
    return [interpreted(training_context(prepared), whole=True).tape, *(pass_.interpretation.tape for pass_ in passes)]


def _every_layer(kinds: Sequence[Hashable]) -> Repetition:
    count = len(kinds)
    return Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)


@pytest.mark.parametrize("model", MODELS)
def test_generation_with_one_layer_of_a_period_allocates_what_every_layer_does(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = _request(model, "trl-grpo", sequence_length=5000, max_completion_length=400)
    prepared = resident_state(request).prepared
    short = rollout.rolled_out(prepared)
    monkeypatch.setattr(sharding_hooks, "repetition", _every_layer)
    for step_pass, whole in zip(short, rollout.rolled_out(prepared), strict=True):
        assert len(step_pass.recording.changes) < len(whole.recording.changes)
        assert step_pass.recording.alive(step_pass.moment).kinds() == whole.recording.alive(whole.moment).kinds()
        assert (step_pass.moment.bytes, step_pass.operation) == (whole.moment.bytes, whole.operation)


def _in_order(events: Sequence[int]) -> list[int]:
    """The events, with storages that are freed together in the order of their rows."""
    return [event for _, group in groupby(events, key=(0).__gt__) for event in sorted(group)]


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_layers_that_are_recorded_again_have_the_events_of_layers_that_run(
    model: str, autocast: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interpret_first_periods(monkeypatch)
    request = _request(model, "trl-rloo", sequence_length=5000, max_completion_length=400, autocast=autocast)
    recorded = _tapes(request)
    monkeypatch.setattr(RecordedLayers, "from_context", lambda *_: None)
    for tape, expected in zip(recorded, _tapes(request), strict=True):
        assert (tape.rows, tape.events, tape.marks) == (expected.rows, expected.events, expected.marks)


@pytest.mark.parametrize("trainer", ["trl-dpo", "trl-kto", "trl-rloo"])
@pytest.mark.parametrize(("model", "checkpoints"), CHECKPOINTS)
def test_layers_of_a_second_model_have_the_events_of_those_of_the_first(
    model: str, trainer: str, checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: dict[str, Any] = {"max_completion_length": 300, "beta": 0.1} if trainer == "trl-rloo" else {}
    request = _request(
        model, trainer, sequence_length=640, autocast=None, gradient_checkpointing=checkpoints, **lengths
    )
    request = replace(request, method=parse_method({"name": "full"}))
    shared = _tapes(request)
    monkeypatch.setattr(recorded_layers, "layers_of", lambda _: {})
    for tape, expected in zip(shared, _tapes(request), strict=True):
        assert (tape.rows, tape.marks) == (expected.rows, expected.marks)
        assert _in_order(tape.events) == _in_order(expected.events)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("trainer", ["trl-kto", "trl-rloo"])
@pytest.mark.parametrize(("model", "checkpoints"), CHECKPOINTS)
def test_skipping_a_decoder_before_the_trained_pass_changes_no_figure(
    model: str, trainer: str, method: str, checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: dict[str, Any] = {} if trainer == "trl-kto" else {"max_completion_length": 300}
    request = _request(
        model, trainer, autocast=None, sequence_length=640, gradient_checkpointing=checkpoints, **lengths
    )
    request = replace(request, method=parse_method({"name": "full"})) if method == "full" else request
    requests = [replace(request, reserved=reserved) for reserved in ("rule", "replay")]
    short = [estimate(request, SeriesCache()).memory for request in requests]
    by_rule, by_replay = (training_step(request, SeriesCache()).skips_passes for request in requests)
    assert by_rule == by_replay
    monkeypatch.setattr(model_passes, "may_be_skipped", lambda *_: False)
    assert short == [estimate(request, SeriesCache()).memory for request in requests]
    step = training_step(request, SeriesCache(), whole=False)
    assert not step.skips_passes


def test_a_bound_that_reaches_the_peak_has_the_decoder_interpreted() -> None:
    request = _request(MODELS[0], "trl-kto", autocast=None, sequence_length=640)
    step = training_step(request, SeriesCache(), whole=False)
    assert step.skips_passes
    assert skipped_passes.is_determined(step.recording)
    step.run.copies.skipped = [[(0, 1 << 40)]]
    assert not skipped_passes.is_determined(step.recording)
    assert not step.with_every_layer.skips_passes


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("model", FAMILIES)
def test_skipping_a_pass_that_sets_no_figure_changes_nothing(
    model: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = _request(model, "trl-kto", autocast=None, sequence_length=640)
    request = replace(request, method=parse_method({"name": "full"})) if method == "full" else request
    rows = len(_tapes(request)[0].rows)
    shortened = estimate(request, SeriesCache()).memory
    monkeypatch.setattr(RecordedPasses, "_more_alive", lambda *_: None)
    assert rows < len(_tapes(request)[0].rows)
    whole = estimate(request, SeriesCache()).memory
    assert (shortened.phases, shortened.peak_operation, [*shortened.timeline]) == (
        whole.phases,
        whole.peak_operation,
        [*whole.timeline],
    )
    assert shortened.peak_reserved_bytes == whole.peak_reserved_bytes
    assert [[*component.rows] for component in shortened.components] == [
        [*component.rows] for component in whole.components
    ]


def test_a_layer_that_drops_elements_is_not_that_of_a_model_in_eval_mode() -> None:
    tape, recorded = Tape(), Tape()
    context = training_context(resident_state(_request(MODELS[0], "trl-sft", sequence_length=64)).prepared)
    for on in (tape, recorded):
        on.grad_enabled = False
        context.tape = on
        layers = RecordedLayers(_dropped if on is tape else _copied, {})
        x = on.new((2, 64, 8), "bfloat16", "input")
        layers.run(context, 0, x)
        on.trains = False
        layers.run(context, 0, x)
    assert [row[0] for row in tape.rows] == ["input", "dropped", "dropped, mask"]
    assert [row[0] for row in recorded.rows] == ["input", "copied", "copied"]


def _dropped(_: Context, __: int, x: Tensor) -> Tensor:
    return ops.dropout(x, 0.1, "dropped")


def _copied(_: Context, __: int, x: Tensor) -> Tensor:
    return ops.clone(x, "copied")


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("trainer", ["trl-kto", "trl-grpo", "trl-rloo"])
@pytest.mark.parametrize("model", FAMILIES)
def test_passes_without_their_first_period_have_the_figures_of_passes_with_it(
    model: str, trainer: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: dict[str, Any] = {} if trainer == "trl-kto" else {"max_completion_length": 300, "beta": 0.1}
    settings = {"autocast": None, "gradient_checkpointing": method == "lora", "sequence_length": 640, **lengths}
    request = _request(model, trainer, **settings)
    request = replace(request, method=parse_method({"name": "full"})) if method == "full" else request
    shortened = estimate(request, SeriesCache()).memory
    _interpret_first_periods(monkeypatch)
    whole = estimate(request, SeriesCache()).memory
    assert (shortened.phases, shortened.peak_operation) == (whole.phases, whole.peak_operation)
    assert (shortened.peak_reserved_bytes, [*shortened.timeline]) == (whole.peak_reserved_bytes, [*whole.timeline])
    assert [[*component.rows] for component in shortened.components] == [
        [*component.rows] for component in whole.components
    ]


def test_a_pass_whose_periods_differ_is_interpreted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request(MODELS[0], "trl-rloo", sequence_length=640, max_completion_length=300, autocast="bfloat16")
    monkeypatch.setattr(FirstPeriod, "compare", _differs)
    again = _tapes(request)
    _interpret_first_periods(monkeypatch)
    for tape, expected in zip(again, _tapes(request), strict=True):
        assert (tape.rows, tape.events, tape.marks) == (expected.rows, expected.events, expected.marks)


def _differs(_: FirstPeriod, context: Context, __: Tensor) -> None:
    context.first_period_differs = True


def _interpret_first_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (model_passes, rollout):
        monkeypatch.setattr(module, "leave_out", lambda _: None)


def test_generation_of_a_further_length_equals_that_of_a_single_request() -> None:
    series = SeriesCache()
    for length in (640, 900, 1300):
        request = _request(MODELS[1], "trl-rloo", sequence_length=length, max_completion_length=400)
        shared, alone = estimate(request, series).memory, estimate(request, SeriesCache()).memory
        assert shared.phases == alone.phases
        assert shared.timeline == alone.timeline
    assert len(series.traces.generation.traces) == 1


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_replay_of_passes_without_a_graph_has_the_events_of_every_layer(
    model: str, autocast: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = resident_state(_request(model, "trl-kto", sequence_length=128, autocast=autocast)).prepared
    repeating = unrolled(prepared)
    monkeypatch.setattr(layer_loop, "Loop", _never_folded(layer_loop.Loop))
    monkeypatch.setattr(unrolled_module, "with_every_layer", lambda _, passes: None if passes else [])
    every = unrolled(prepared)
    assert len(repeating.forward) >= len(every.forward)
    assert _listed(repeating.events()) == _listed(every.events())


def _never_folded(loop: type) -> Any:
    def make(tape: Any, count: int) -> Any:
        tape.folds_loops, before = False, tape.folds_loops
        made = loop(tape, count)
        tape.folds_loops = before
        return made

    return make


def _listed(of: Events) -> list[Any]:
    """The allocations in order, each with its kind, and the frees, each with the number of its allocation."""
    listed: list[Any] = []
    allocated: dict[int, int] = {}
    for events in (of.forward, of.backward):
        for event in events:
            if event >= 0:
                allocated[event] = len(listed)
            listed.append(of.rows[event] if event >= 0 else allocated[~event])
        listed.append(len(listed))
    return [*listed, *([of.rows[row] for row in rows] for rows in (of.gradients, of.left))]


@pytest.mark.parametrize("trainer", ["trl-kto", "trl-rloo", "trl-dpo"])
def test_a_layer_whose_input_requires_a_gradient_is_recorded_again(
    trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under checkpointing, that is the first layer's input. A replay needs two periods of layers."""
    request = _request(MODELS[0], trainer, autocast=None, gradient_checkpointing=True, max_completion_length=16)
    tapes, passes, again = list[Tape](), list[str](), recorded_layers.record_again

    def noted(context: Context, known: recorded_layers.RecordedLayer) -> Tensor:
        passes.append(context.marks)
        return again(context, known)

    monkeypatch.setattr(recorded_layers, "record_again", noted)
    monkeypatch.setattr(model_passes, "may_be_skipped", lambda *_: False)
    for _ in range(2):
        prepared = resident_state(request).prepared
        prepared.recorded_passes.are_replayed = True
        tapes.append(interpreted(training_context(prepared), whole=False).tape)
        monkeypatch.setattr(recorded_layers, "_may_be_recorded", lambda _: False)
    found, whole = tapes
    assert len(passes) == len({*passes}) > 0
    assert (found.rows, found.events) == (whole.rows, whole.events)
