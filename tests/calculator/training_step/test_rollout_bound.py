"""The bound on the passes of `generate` is no less than what the passes need."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from calculator.allocator.reserved_rule import _is_within, _most_in_segments, in_segments
from calculator.common.errors import PlanError
from calculator.engine.counts_by_size import peak_counts
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.families import FAMILIES_WITH_FORWARD
from calculator.training_step.rollout import rolled_out
from tests.calculator.training_step.answered_step import answered_step
from validation.random_grid.trainer_requests import GENERATING, random_trainer_request

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from calculator.training_step.step import TrainingStep

#: Settings with which passes have no bound.
UNBOUNDED = ("autocast", "padding", "use_liger_kernel", "use_vllm", "completion_tokens")

MODEL = "meta-llama/Llama-3.2-1B"
LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}


def _random_request(family: str, number: int) -> Request | None:
    """Return a request with a bound, if the family's model has one, or None if it is refused."""
    rng = random.Random(f"bound {family} {number}")
    body = random_trainer_request(6151, number, GENERATING, [family])
    training = {name: value for name, value in body["training"].items() if name not in UNBOUNDED}
    length = rng.choice((16, 64, 128, 777, 4096))
    training |= {
        "micro_batch_size": rng.choice((2, 3, 16)),
        "sequence_length": length,
        "max_completion_length": rng.choice([size for size in (1, 2, 10, 50, 400) if size < length]),
        "num_generations": None,
    }
    try:
        return parse_request({**body, "training": training, "reserved": "rule"})
    except PlanError:
        return None


def _compare(step: TrainingStep) -> None:
    bound = step.generation_bound
    assert bound is not None
    for pass_peak in rolled_out(step.resident.prepared):
        reserved = in_segments(peak_counts(pass_peak.recording))
        assert not bound.is_below(pass_peak.moment.bytes)
        assert not _is_within(bound, reserved)
        if bound.total is not None:
            assert pass_peak.moment.bytes < bound.total.bytes
        assert pass_peak.moment.bytes < bound.quick.bytes
        assert pass_peak.moment.bytes < max(need.bytes for need in bound.lower)
        assert reserved < max(_most_in_segments(need.blocks) for need in bound.lower)


@pytest.mark.parametrize("family", FAMILIES_WITH_FORWARD)
def test_no_pass_needs_more_than_its_bound(family: str) -> None:
    for number in range(6):
        request = _random_request(family, number)
        step = None if request is None else answered_step(request, traces_first=number % 2 > 0)
        if step is not None and step.generation_bound is not None:
            _compare(step)


def _request(**training: Any) -> Request:
    settings = {"sequence_length": 512, "micro_batch_size": 2, "trainer": "trl-grpo", "gradient_checkpointing": True}
    return parse_request({"model": MODEL, "method": LORA, "training": {**settings, **training}, "reserved": "rule"})


def test_a_bound_of_a_trace_holds_for_each_length() -> None:
    series = SeriesCache(traces_first=True)
    for length in (512, 2048, 64, 1000):
        estimate(_request(sequence_length=length, max_completion_length=length // 2), series)
        assert series.step is not None
        _compare(series.step)
    assert len(series.traces.runs[False, False, True].traces) == 1


@pytest.mark.parametrize("changes", [{"autocast": "bfloat16"}, {"padding": True}])
def test_passes_without_a_bound_are_interpreted(changes: dict[str, Any]) -> None:
    step = answered_step(_request(**changes), traces_first=False)
    assert step is not None
    assert step.generation_bound is None
    assert step.deciding_peaks()[0].phase == "generation"


def test_an_answer_that_is_read_whole_computes_no_bound() -> None:
    series = SeriesCache()
    memory = estimate(_request(), series, whole=True).memory
    assert series.step is not None
    assert series.step.generation_bound is None
    assert memory == estimate(_request(), SeriesCache()).memory
