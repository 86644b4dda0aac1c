"""The passes of a step in which a trainer generates are those that are recorded as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from calculator.engine.counts_by_size import peak_counts
from calculator.engine.symbolic_sizes import ShapeEnv
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.rollout import rolled_out
from calculator.training_step.rollout_trace import RolloutTrace, rolled_out_in_step
from calculator.training_step.size_cache import SizeCache

if TYPE_CHECKING:
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.step_pass import StepPass


def _prepared(model: str, **training: Any) -> PreparedModel:
    settings = {"trainer": "trl-grpo", "micro_batch_size": 2, "sequence_length": 700, **training}
    request = parse_request({"model": model, "method": {"name": "lora"}, "training": settings, "reserved": "rule"})
    return resident_state(request).prepared


def _compare(passes: tuple[StepPass, ...], prepared: PreparedModel) -> None:
    whole = rolled_out(prepared)
    passes = tuple(one for own in passes for one in own.with_smaller)
    for step_pass, expected in zip(passes, whole, strict=True):
        counts = peak_counts(expected.recording)
        assert (step_pass.moment.bytes, step_pass.operation) == (expected.moment.bytes, expected.operation)
        assert peak_counts(step_pass.recording) == counts
        if step_pass.bound is not None:
            assert all(step_pass.bound()[size] >= count for size, count in counts.items())
    highest = max(range(len(whole)), key=lambda number: whole[number].moment.bytes)
    shown = passes[highest].peak
    alive = [one.recording.alive(one.moment).kinds() for one in (shown, whole[highest])]
    assert alive[0] == alive[1]


@pytest.mark.parametrize("completion", [1, 2, 3, 400])
@pytest.mark.parametrize("model", ["meta-llama/Llama-3.2-1B", "google/gemma-2-2b", "Qwen/Qwen3-0.6B"])
def test_passes_of_a_step_are_those_that_are_recorded(model: str, completion: int) -> None:
    prepared = _prepared(model, max_completion_length=completion)
    _compare(rolled_out_in_step(prepared), prepared)


def test_passes_of_a_trace_are_those_of_each_length() -> None:
    traces_by_size: SizeCache[tuple[StepPass, ...]] = SizeCache(traces_first=True)
    for length in (700, 1300, 900):
        prepared = _prepared("meta-llama/Llama-3.2-1B", sequence_length=length, max_completion_length=400)
        found = traces_by_size.result(prepared, rolled_out_in_step, RolloutTrace)
        assert found is not None
        _compare(found, prepared)
    assert len(traces_by_size.traces) == 1


def test_values_of_an_alias_fail_if_a_guard_does() -> None:
    env = ShapeEnv()
    size = env.create_symint(8)
    alias = env.alias(size + 2)
    double, is_long = (2 * alias).index, alias > 5
    assert is_long
    values = env.evaluate([7])
    assert values is not None
    assert values[double] == 2 * (7 + 2)
    other = env.with_aliases(values, {alias.index: size.index})
    assert other is not None
    assert other[double] == 2 * 7
    assert env.with_aliases(env.evaluate([4]) or [], {alias.index: size.index}) is None
