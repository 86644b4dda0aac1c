"""The trained pass's layer in passes of `generate`: their events equal those of passes that run it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from calculator.engine.symbolic_sizes import ShapeEnv, SymInt
from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.training_step.generation import ONE
from calculator.training_step.rollout import Rollout

if TYPE_CHECKING:
    from calculator.training_step.step import TrainingStep

FULL = {"name": "full"}
LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}


def _step(method: dict[str, Any], model: str = "meta-llama/Llama-3.1-8B", **training: Any) -> TrainingStep:
    given = {
        "trainer": "trl-grpo",
        "gradient_checkpointing": True,
        "micro_batch_size": 2,
        "sequence_length": 1500,
        "max_completion_length": 64,
    }
    body = {"model": model, "method": method, "training": {**given, **training}, "reserved": "rule"}
    return training_step(parse_request(body), SeriesCache(), whole=True)


def _trained_layer(step: TrainingStep) -> Any:
    return None if step.run.left_out is None else step.run.left_out.trained_layer


def _events(step: TrainingStep, trained_layer: Any) -> tuple[object, ...]:
    """The rows, the events and the marks of the pass of the last token, with the bytes that the rows have."""
    prepared, env = step.resident.prepared, ShapeEnv()
    batch = prepared.trainer.generation(prepared.training)
    assert batch is not None
    rollout = Rollout(prepared, batch)
    rollout.trained_layer = trained_layer
    ran = rollout.later(env.alias(rollout.last_past), env.alias(ONE))
    sizes = ran.sizes.with_values(env.values)  # type: ignore[attr-defined]  # they are symbolic
    tape = ran.interpretation.tape
    rows = [
        (name, [str(dim) if isinstance(dim, SymInt) else int(dim) for dim in shape], dtype, component, sizes[size])
        for name, shape, dtype, component, size in tape.rows
    ]
    return rows, _with_sorted_frees(tape.events), tape.marks, ran.choice


def _with_sorted_frees(events: list[int]) -> list[int]:
    """The events, with frees that follow one another in one order."""
    runs = groupby(events, lambda event: event < 0)
    return [event for frees, run in runs for event in (sorted(run) if frees else run)]


@pytest.mark.parametrize(
    "step",
    [
        _step(FULL),
        _step(LORA),
        _step(FULL, "Qwen/Qwen2.5-7B", micro_batch_size=1, gradient_accumulation_steps=2),
        _step({"name": "lora"}, "mistralai/Mistral-7B-v0.3", trainer="trl-rloo"),
    ],
    ids=["full", "LoRA", "biases", "attention alone"],
)
def test_a_pass_with_the_trained_layer_has_the_events_of_one_that_runs_it(step: TrainingStep) -> None:
    trained_layer = _trained_layer(step)
    assert trained_layer is not None
    assert _events(step, trained_layer) == _events(step, None)


@pytest.mark.parametrize(
    "step",
    [
        _step({**LORA, "name": "qlora"}),
        _step(FULL, attention="eager"),
        _step(FULL, padding=True),
        _step(FULL, "Qwen/Qwen3-14B"),
        _step(FULL, gradient_checkpointing=False),
        _step({**LORA, "use_dora": True}),
        _step(FULL, sequence_length=128),
        _step(FULL, use_vllm=True),
        _step({**LORA, "lora_dropout": 0.1}),
    ],
    ids=[
        "4 bits",
        "eager",
        "padding",
        "norms of queries",
        "no checkpoints",
        "DoRA",
        "the head size",
        "vLLM",
        "dropout",
    ],
)
def test_another_layer_is_run(step: TrainingStep) -> None:
    assert _trained_layer(step) is None
