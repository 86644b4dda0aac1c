"""Passes whose peak is that of the trained pass's layer: answers that leave them out equal those that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from calculator.engine.autograd import Node
from calculator.engine.tape import Tape
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.training_step import derived_passes, step

if TYPE_CHECKING:
    from calculator.estimation.request import Request

FULL = {"name": "full"}
LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}


def _request(trainer: str, method: dict[str, Any], model: str = "meta-llama/Llama-3.1-8B", **training: Any) -> Request:
    given = {"trainer": trainer, "gradient_checkpointing": True, "micro_batch_size": 2, "sequence_length": 1500}
    lengths = {"max_completion_length": 512} if trainer in ("trl-grpo", "trl-rloo") else {}
    body = {"model": model, "method": method, "training": {**given, **lengths, **training}, "reserved": "rule"}
    return parse_request(body)


#: Requests, with the passes that whole answers leave out.
REQUESTS = {
    "KTO": (_request("trl-kto", FULL), ["KL: ", "KL, reference: ", "reference: "]),
    "DPO": (_request("trl-dpo", FULL), ["reference: "]),
    "RLOO": (_request("trl-rloo", FULL), ["old: ", "reference: "]),
    "GRPO": (_request("trl-grpo", FULL, beta=0.04), ["reference: "]),
    "KTO with LoRA": (_request("trl-kto", LORA), ["KL: ", "KL, reference: ", "reference: "]),
    "DPO with DoRA": (_request("trl-dpo", {**LORA, "use_dora": True}), ["reference: "]),
    "DPO with dropout": (_request("trl-dpo", {"name": "lora", "lora_dropout": 0.1}), ["reference: "]),
    "RLOO with LoRA": (_request("trl-rloo", LORA), ["old: ", "reference: "]),
    "RLOO with adapters in bfloat16": (
        _request("trl-rloo", LORA, adapter_dtype="model", max_completion_length=64),
        ["old: "],
    ),
    "attention alone": (
        _request("trl-rloo", {"name": "lora", "target_modules": ["q_proj", "v_proj"]}),
        ["old: ", "reference: "],
    ),
    "several micro-batches": (
        _request("trl-rloo", FULL, gradient_accumulation_steps=3, sequence_length=1024),
        ["old: ", "reference: "],
    ),
    "scaled embeddings": (
        _request("trl-kto", FULL, "google/gemma-7b"),
        ["KL: ", "KL, reference: ", "reference: "],
    ),
    "a decoder that keeps its first layer's input": (
        _request("trl-rloo", FULL, "ibm-granite/granite-3.0-8b-base"),
        ["old: ", "reference: "],
    ),
}


def _read(request: Request, *, whole: bool, **options: Any) -> tuple[object, ...]:
    memory = estimate(request, SeriesCache(**options), whole=whole).memory
    rows = [(part.name, part.bytes, part.rows) for part in memory.components]
    return memory.peak_reserved_bytes, memory.phases, memory.peak_operation, rows, memory.timeline


def _left_out(request: Request) -> list[str]:
    found = training_step(request, SeriesCache(), whole=True)
    of_batches = [batch.run.skipped for batch in (found.first, found.last) if batch is not None]
    return [name for left in of_batches if left is not None for name, _ in left.passes]


@pytest.mark.parametrize("name", REQUESTS)
def test_answers_equal_those_that_run_every_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request, passes = REQUESTS[name]
    assert _left_out(request) == passes
    found = [
        _read(request, whole=whole, **options) for whole in (True, False) for options in ({}, {"traces_first": True})
    ]
    monkeypatch.setattr(step, "is_peak_likely_in_layers", lambda _: False)
    expected = _read(request, whole=True)
    assert not _left_out(request)
    assert found == [expected] * 4


@pytest.mark.parametrize(
    "request_",
    [
        _request("trl-kto", FULL, gradient_checkpointing=False),
        _request("trl-kto", FULL, autocast="bfloat16"),
        _request("trl-kto", FULL, padding=True),
        _request("trl-kto", FULL, "google/gemma-2-9b"),
        _request("trl-kto", FULL, "HuggingFaceTB/SmolLM2-135M"),
        _request("trl-kto", {**LORA, "target_modules": ["q_proj"]}, "mistralai/Mixtral-8x7B-v0.1"),
    ],
    ids=["no checkpoints", "autocast", "padding", "two kinds of layers", "a head with more than a layer", "experts"],
)
def test_whole_answers_run_every_pass_if_a_layer_does_not_have_its_peak(request_: Request) -> None:
    assert not _left_out(request_)


def test_a_pass_whose_head_has_more_than_a_layer_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request("trl-kto", FULL, "HuggingFaceTB/SmolLM2-135M")
    expected = _read(request, whole=True)
    monkeypatch.setattr(step, "is_peak_likely_in_layers", lambda _: True)
    assert not _left_out(request)
    assert _read(request, whole=True) == expected


def test_a_layer_with_dropout_does_not_have_the_peak_of_a_model_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request("trl-kto", FULL)
    observed = derived_passes.run_observed

    def as_if_it_read_the_mode(skipped: Any, run: Any, kept: int | None, *given: Any) -> Any:
        out = observed(skipped, run, kept, *given)
        skipped.layer = skipped.layer._replace(trains=True)
        return out

    monkeypatch.setattr("calculator.training_step.causal_lm.run_observed", as_if_it_read_the_mode)
    assert _left_out(request) == ["KL: "]


def test_no_peak_is_derived_where_nodes_before_the_layers_keep_a_tensor() -> None:
    tape = Tape()
    x = tape.new((1,), "bfloat16", "embeddings")
    node = Node(tape, lambda *_: (), ())
    node.save(x)
    out = tape.new((1,), "bfloat16", "input", node)
    assert derived_passes._is_kept_before(out, {1, None}, first_row=0)
    assert not derived_passes._is_kept_before(out, {1, 0}, first_row=0)
    assert not derived_passes._is_kept_before(out, {1, None}, first_row=1)
