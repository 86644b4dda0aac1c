"""The peaks of the passes of `generate` that the trained pass determines are those of passes that are interpreted."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from calculator.allocator.reserved_rule import _room, in_segments
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

#: Settings with which the trained pass does not determine the passes.
INTERPRETED = ("autocast", "padding", "use_liger_kernel", "use_vllm", "completion_tokens", "attention")

HEADS = {"num_attention_heads": 8, "num_key_value_heads": 8}
#: Heads of a width that flash attention pads, with all tokens that are attended to.
ODD_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 100}
SMALL = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 4096,
    "num_hidden_layers": 3,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}
LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}


def _random_request(family: str, number: int) -> Request | None:
    """Return a request with checkpointing, or None if it is refused."""
    rng = random.Random(f"derived {family} {number}")
    body = random_trainer_request(7127, number, GENERATING, [family])
    training = {name: value for name, value in body["training"].items() if name not in INTERPRETED}
    length = rng.choice((128, 1024, 4096))
    training |= {
        "micro_batch_size": rng.choice((2, 3, 16)),
        "sequence_length": length,
        "max_completion_length": rng.choice((3, 50, length // 2)),
        "num_generations": None,
        "gradient_checkpointing": True,
    }
    try:
        return parse_request({"model": body["model"], "method": body["method"], "training": training})
    except PlanError:
        return None


def _compare(step: TrainingStep) -> None:
    derived = step.derived_generation
    assert derived is not None
    passes = rolled_out(step.resident.prepared)
    assert derived.peaks == tuple(pass_peak.moment.bytes for pass_peak in passes)
    reserved = max(in_segments(peak_counts(pass_peak.recording)) for pass_peak in passes)
    assert derived.sizes > _room(derived.allocated, reserved - 1)


@pytest.mark.parametrize("family", FAMILIES_WITH_FORWARD)
def test_derived_peaks_are_those_of_the_passes(family: str) -> None:
    for number in range(6):
        request = _random_request(family, number)
        step = None if request is None else answered_step(request, traces_first=number % 2 > 0, whole=True)
        if step is not None and step.derived_generation is not None:
            _compare(step)


def _request(method: dict[str, Any], config: dict[str, Any], **training: Any) -> Request:
    settings = {"sequence_length": 2048, "micro_batch_size": 8, "gradient_checkpointing": True, **training}
    settings = {"trainer": "trl-grpo", "max_completion_length": 1024, **settings}
    return parse_request({"model": {"config": {**SMALL, **config}}, "method": method, "training": settings})


@pytest.mark.parametrize("method", [LORA, {"name": "full"}], ids=["lora", "full"])
@pytest.mark.parametrize("trainer", ["trl-grpo", "trl-rloo"])
def test_the_trained_pass_determines_the_passes(method: dict[str, Any], trainer: str) -> None:
    for traces_first in (False, True):
        step = answered_step(_request(method, HEADS, trainer=trainer), traces_first=traces_first, whole=True)
        assert step is not None
        _compare(step)


def test_a_trace_determines_the_passes_of_each_size() -> None:
    series = SeriesCache(traces_first=True)
    for length, rank, completion in ((2048, 8, 1024), (3000, 8, 1000), (4096, 64, 3), (2048, 16, 2000)):
        request = _request({**LORA, "r": rank}, HEADS, sequence_length=length, max_completion_length=completion)
        estimate(request, series, whole=True)
        assert series.step is not None
        _compare(series.step)
    assert len(series.traces.runs[True, False, True].traces) == 1


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (ODD_HEADS, {}),
        (HEADS, {"max_completion_length": 2}),
        (HEADS, {"gradient_checkpointing": False}),
        (HEADS, {"autocast": "bfloat16"}),
        ({**HEADS, "vocab_size": 500_000}, {}),
    ],
    ids=["copied keys", "two passes", "no checkpoints", "autocast", "wide head"],
)
def test_other_passes_are_interpreted(config: dict[str, Any], changes: dict[str, Any]) -> None:
    step = answered_step(_request(LORA, config, **changes), traces_first=False, whole=True)
    assert step is not None
    assert step.derived_generation is None


def test_an_answer_with_derived_peaks_is_that_of_interpreted_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request(LORA, HEADS)
    memory = estimate(request, SeriesCache(), whole=True).memory
    figures = memory.phases, memory.timeline, memory.peak_reserved_bytes, [part.rows for part in memory.components]
    monkeypatch.setattr("calculator.training_step.step.DerivedRollout.from_run", lambda *_: None)
    memory = estimate(request, SeriesCache(), whole=True).memory
    assert figures == (
        memory.phases,
        memory.timeline,
        memory.peak_reserved_bytes,
        [part.rows for part in memory.components],
    )
