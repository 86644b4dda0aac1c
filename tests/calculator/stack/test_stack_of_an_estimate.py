"""The `stack` of a request in its estimate."""

from __future__ import annotations

from typing import Any

from calculator.estimate.estimate import estimate
from calculator.estimate.request import parse_request
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


def test_older_pytorch_runs_float32_attention_with_grouped_heads_in_its_math_kernel() -> None:
    older, newer = (answer(stack).memory.phases[0].peak_bytes for stack in ({"torch": "2.13"}, None))
    scores = 16 * 32 * 512 * 512 * 4
    assert scores < older - newer < 3 * scores
    assert any("2.14" in line for line in answer().warnings)
    assert not any("2.14" in line for line in answer({"torch": "2.13"}).warnings)
