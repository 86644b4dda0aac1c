"""Passes of `generate` in older transformers, traced on PyTorch's meta device, and the calculator's with `stack`.

traced_passes.json has the most bytes alive in each pass, traced with the modules of the release that a case names, peft
0.21.2, bitsandbytes 0.50.2 and PyTorch 2.13.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calculator.common.errors import PlanError
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.stack.releases import release
from calculator.stack.verified import TRACED_METHODS, TRACED_PASSES

TRACED = json.loads((Path(__file__).parent / "traced_passes.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = TRACED["cases"]


def body(case: dict[str, Any], **stack: str) -> dict[str, Any]:
    config = {**TRACED["config"], "model_type": case["model"], **TRACED["configs"][case["model"]]}
    return {
        "model": {"config": config},
        "method": case["method"],
        "serving": case["serving"],
        "stack": {"transformers": case["transformers"], **stack},
        "reserved": "rule",
    }


def name(case: dict[str, Any]) -> str:
    return "-".join([case["transformers"], case["model"], case["method"]["name"], *map(str, case["serving"].values())])


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_pass_is_as_traced_with_the_release(case: dict[str, Any]) -> None:
    memory = inference(parse_inference(body(case))).memory
    assert [pass_.peak_bytes for pass_ in memory.passes] == case["passes"]


def test_the_releases_named_as_traced_are_those_of_the_cases() -> None:
    traced = {(case["model"], release(case["transformers"])[:2]) for case in CASES}
    assert {(model, release) for model, releases in TRACED_PASSES.items() for release in releases} == traced
    assert {case["method"]["name"] for case in CASES} == set(TRACED_METHODS)


def assumptions(**stack: str) -> tuple[str, ...]:
    return inference(parse_inference(body(CASES[0], **stack))).assumptions


def test_the_answer_names_the_stack_and_what_its_passes_do_differently() -> None:
    first, *others = assumptions(transformers="4.48.3")
    assert first.startswith("The figures are for PyTorch 2.14 on CUDA, transformers 4.48.3")
    assert any(line.startswith("transformers 4.48.3: sdpa repeats keys and values") for line in others)
    assert not any("loss" in line or "No pass" in line for line in others)
    assert any(line.startswith("No pass of generate of") for line in assumptions(transformers="4.50"))
    assert not any(line.startswith("transformers") for line in assumptions(transformers="5.24"))


def test_bitsandbytes_keeps_no_inputs_if_nothing_is_trained() -> None:
    qlora = {**CASES[0], "method": {"name": "qlora"}}
    older, newer = (
        inference(parse_inference(body(qlora, transformers="5.24", bitsandbytes=name))).memory.passes
        for name in ("0.43.1", "0.50")
    )
    assert older == newer


@pytest.mark.parametrize(
    ("changes", "stack", "expected"),
    [
        (
            {},
            {"transformers": "4.45"},
            "the passes of generate in transformers 4.45 are not known for llama; from 4.48",
        ),
        ({"method": {"name": "prefix"}}, {"transformers": "4.57"}, "how transformers 4.57 generates with the virtual"),
        (
            {"model": "google/gemma-2-2b"},
            {"transformers": "4.57"},
            "the passes of generate in transformers 4.57 are not known for gemma2",
        ),
        (
            {"model": "mistralai/Mistral-7B-v0.1", "serving": {"context_length": 4000}},
            {"transformers": "4.55"},
            "the caches of transformers 4.55 for 4,256 tokens and a sliding window of 4,096 are not known",
        ),
    ],
)
def test_unknown_behavior_is_refused_at_the_release(
    changes: dict[str, Any], stack: dict[str, str], expected: str
) -> None:
    with pytest.raises(PlanError) as refused:
        inference(parse_inference({**body(CASES[0], **stack), **changes}))
    assert {problem.loc for problem in refused.value.problems} == {"stack.transformers"}
    assert refused.value.problems[-1].msg.startswith(expected)
