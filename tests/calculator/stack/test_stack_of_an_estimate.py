"""The `stack` of a request in its estimate."""

from __future__ import annotations

from typing import Any

import pytest

from calculator import catalogue
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.stack.changes import CHANGES

LLAMA = {
    "model": "meta-llama/Llama-3.2-1B",
    "method": {"name": "full"},
    "training": {"sequence_length": 512, "dtype": "float32"},
}


def answer(stack: dict[str, Any] | None = None) -> Any:
    return estimate(parse_request(LLAMA | ({} if stack is None else {"stack": stack})))


def test_the_default_releases_change_nothing() -> None:
    assert answer({"torch": "2.14", "transformers": "5.24"}).memory.phases == answer().memory.phases


def test_the_answer_names_the_stack_and_what_it_does_differently() -> None:
    assert answer().assumptions[0].startswith("The figures are for PyTorch 2.14 on CUDA, transformers 5.24, peft 0.21")
    first, second, *_ = answer({"torch": "2.13"}).assumptions
    assert first.startswith("The figures are for PyTorch 2.13 on CUDA, transformers 5.24")
    assert second.startswith(f"torch 2.13: {CHANGES['math_kernel_for_float32_groups'].sentence} (")


def test_the_answer_states_that_a_release_was_not_traced() -> None:
    sentence = "No step of llama with full was traced with transformers"
    stated = {
        version: any(line.startswith(sentence) for line in answer({"transformers": version}).assumptions)
        for version in ("4.57.6", "4.50", "5.8", "5.24")
    }
    assert stated == {"4.57.6": False, "4.50": True, "5.8": True, "5.24": False}


def test_older_pytorch_runs_float32_attention_with_grouped_heads_in_its_math_kernel() -> None:
    older, newer = (answer(stack).memory.phases[0].peak_bytes for stack in ({"torch": "2.13"}, None))
    scores = 16 * 32 * 512 * 512 * 4
    assert scores < older - newer < 3 * scores
    assert any("2.14" in line for line in answer().warnings)
    assert not any("2.14" in line for line in answer({"torch": "2.13"}).warnings)


QLORA = {
    "model": "mistralai/Mistral-7B-v0.1",
    "method": {"name": "qlora"},
    "training": {"sequence_length": 256, "gradient_checkpointing": True},
}


def peak(body: dict[str, Any], **stack: str) -> int:
    return estimate(parse_request({**body, "stack": stack})).memory.phases[0].peak_bytes


def test_bitsandbytes_before_0_43_2_keeps_the_inputs_of_4bit_layers_through_checkpoints() -> None:
    kept = peak(QLORA, bitsandbytes="0.43.1") - peak(QLORA, bitsandbytes="0.43.2")
    tokens, hidden, heads, wide = 256, 4096, 4096, 14336
    # The inputs of each layer in float32, of this step and of the last one, whose graph the loss refers to.
    of_a_layer = tokens * 4 * (hidden + heads + hidden + wide)
    assert 63 * of_a_layer <= kept <= 64 * of_a_layer
    assert peak(QLORA, bitsandbytes="0.46") == peak(QLORA, bitsandbytes="0.43.2")


def test_4bit_layers_compute_in_the_dtype_of_a_float32_input_before_bitsandbytes_0_47() -> None:
    assert peak(QLORA, bitsandbytes="0.50") == peak(QLORA, bitsandbytes="0.47") < peak(QLORA, bitsandbytes="0.46")
    unprepared = {**QLORA, "method": {"name": "qlora", "prepare_model_for_kbit_training": False}}
    assert peak(unprepared, bitsandbytes="0.47") == peak(unprepared, bitsandbytes="0.46")


def attention_inputs(model: str, transformers: str) -> set[tuple[str, tuple[int, ...]]]:
    """The keys and values that a checkpointed layer makes for FlashAttention 2."""
    body = {**QLORA, "model": model, "training": {**QLORA["training"], "attention": "flash_attention_2"}}
    rows = training_step(parse_request({**body, "stack": {"transformers": transformers}})).run.rows
    return {
        (row[0].rpartition(": ")[2], row[1]) for row in rows if row[0].endswith((", repeated", " in half precision"))
    }


def test_flash_attention_of_mistral_before_4_48_runs_on_repeated_keys() -> None:
    older, newer = (attention_inputs("mistralai/Mistral-7B-v0.1", name) for name in ("4.47.1", "4.48.1"))
    assert {("key, repeated", (1, 8, 4, 256, 128)), ("key in half precision", (1, 32, 256, 128))} <= older
    assert ("key in half precision", (1, 8, 256, 128)) in newer
    assert not any(name.endswith("repeated") for name, _ in newer)
    llama = attention_inputs("meta-llama/Llama-3.1-8B", "4.47.1")
    assert ("key in half precision", (1, 8, 256, 128)) in llama


def test_linear_layers_of_any_method_run_in_older_releases() -> None:
    body = {**LLAMA, "method": {"name": "miss"}, "training": {"sequence_length": 256}}
    found = estimate(parse_request({**body, "stack": {"transformers": "4.57.1"}}))
    assert any("No step of llama with miss was traced" in line for line in found.assumptions)
    assert problems({**body, "stack": {"peft": "0.18.1"}})["stack.peft"].startswith(
        "MiSS is modeled only with peft 0.21"
    )


def problems(body: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(PlanError) as refused:
        estimate(parse_request(body))
    return {problem.loc: problem.msg for problem in refused.value.problems}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"model": "mistralai/Mixtral-8x7B-v0.1"},
            "what transformers 4.48 does for mixtral is not known (before 5, an expert is a module of its own",
        ),
        ({"model": "Qwen/Qwen3-4B"}, "what transformers 4.48 does for qwen3 is not known; from 4.51 on"),
        (
            {"method": {"name": "prefix"}},
            "how transformers 4.48 runs the virtual tokens of prefix is not known",
        ),
        ({"training": {"sequence_length": 4096}}, "the masks of transformers 4.48 for 4,096 tokens and a sliding win"),
    ],
)
def test_unknown_behavior_of_older_releases_is_refused(changes: dict[str, Any], expected: str) -> None:
    body = {**QLORA, "training": {"sequence_length": 256}, **changes, "stack": {"transformers": "4.48"}}
    assert problems(body)["stack.transformers"].startswith(expected)


def test_a_model_names_the_first_release_that_is_known() -> None:
    body = {**LLAMA, "stack": {"transformers": "4.39"}}
    expected = "what transformers 4.39 does for llama is not known; from 4.45 on it is: use 5.24"
    assert problems(body) == {"stack.transformers": expected}


def test_peft_before_0_12_keeps_adapters_in_the_models_dtype() -> None:
    body = {**LLAMA, "method": {"name": "lora"}, "training": {"sequence_length": 256}, "stack": {"peft": "0.11.1"}}
    assert "model's dtype" in problems(body)["training.adapter_dtype"]
    training = {"sequence_length": 256, "adapter_dtype": "model"}
    assert estimate(parse_request({**body, "training": training})).memory.peak_allocated_bytes > 0


#: Of the package vramcalc 0.1.2, benchmarks/results.jsonl: an RTX A6000, torch 2.14.1, transformers 4.57.6. The script
#: refers to the model's output in the backward pass, whose logits the reference step does not keep.
MEASURED = [
    ("meta-llama/Llama-3.2-1B", "full", False, 17_514_948_096),
    ("meta-llama/Llama-3.2-1B", "full", True, 13_758_686_720),
    ("meta-llama/Llama-3.2-1B", "lora", False, 10_128_365_056),
    ("meta-llama/Llama-3.2-3B", "lora", False, 18_980_605_440),
    ("meta-llama/Llama-3.1-8B", "lora", True, 20_549_780_992),
]


@pytest.mark.parametrize(("name", "method", "checkpointing", "measured"), MEASURED)
def test_measured_steps_without_a_cache_have_masks_and_repeated_keys(
    name: str, method: str, checkpointing: bool, measured: int
) -> None:
    targets = {"r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    body = {
        "model": {"config": {**catalogue.model(name).config, "use_cache": False}},
        "method": {"name": method, **(targets if method == "lora" else {})},
        "training": {
            "gradient_checkpointing": checkpointing,
            "gradient_accumulation_steps": 2,
            "max_grad_norm": None,
        },
        "device": {"gpu": "rtx-a6000"},
        "reserved": "rule",
        "stack": {"transformers": "4.57.6", "torch": "2.14.1"},
    }
    memory = estimate(parse_request(body)).memory
    forward, backward, update = (phase.peak_bytes for phase in memory.phases)
    logits = 2048 * 128_256 * 2
    total = max(forward, backward + logits, update) + memory.library_workspace_bytes
    assert abs(total / measured - 1) < 4e-4
