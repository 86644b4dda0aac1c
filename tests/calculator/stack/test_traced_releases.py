"""Steps of older transformers, traced on PyTorch's meta device, and the calculator's with `stack.transformers`.

traced.json has the most bytes alive in each phase, traced with the modules of the release that a case names, peft
0.21.2, bitsandbytes 0.50.2 and PyTorch 2.13.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calculator.common.dtype import rounded
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import model_of, training_step
from calculator.estimation.request import parse_request
from calculator.stack.changes import CHANGES, older_behavior
from calculator.stack.models import TRACED as TRACED_RELEASES
from calculator.stack.releases import release
from calculator.stack.verified import FIRST_VIRTUAL_TOKENS, TRACED_METHODS, VIRTUAL_TOKENS

TRACED = json.loads((Path(__file__).parent / "traced.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = TRACED["cases"]


def name(case: dict[str, Any]) -> str:
    training = ",".join(str(value) for key, value in case["training"].items() if key != "sequence_length")
    return f"{case['transformers']}-{case['model']}-{case['method']['name']}-{case['use_cache']}-{training}"


def model_type(case: dict[str, Any]) -> str:
    return str(TRACED["configs"][case["model"]]["model_type"])


def request_of(case: dict[str, Any], **stack: str) -> Any:
    config = {**TRACED["configs"][case["model"]], "use_cache": case["use_cache"]}
    versions = {"transformers": case["transformers"], **stack}
    body = {"model": {"config": config}, "method": case["method"], "training": case["training"], "stack": versions}
    return parse_request(body)


def copies_of_flash_outputs(request: Any) -> int:
    """Bytes that flash adds on CUDA if queries are contiguous by heads, and so its output; traces do not show them.

    The output is copied by positions, and both stay alive if the output projection is trained.
    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_fwd (out = at::empty_like(q_padded)).
    """
    training, config = request.training, model_of(request.model).config
    older = older_behavior(request.stack, request.model.config["model_type"])
    uncached = not config["use_cache"] or "no_cache_in_training" in older
    masked = training.padding or ("masks_without_cache" in older and uncached) or "masks_of_windowed_layers" in older
    half = training.dtype != "float32" or training.autocast is not None
    runs_flash = training.attention == "sdpa" and half and not masked
    if "contiguous_queries" not in older or not runs_flash or training.gradient_checkpointing:
        return 0
    tokens = training.micro_batch_size * training.sequence_length
    trained = request.method.name == "full"
    return int(trained) * config["num_hidden_layers"] * rounded(tokens * config["hidden_size"] * 2)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_phase_is_as_traced_with_the_release(case: dict[str, Any]) -> None:
    request = request_of(case)
    check(request, model_of(request.model))
    forward, backward, update = (peak.bytes for peak in training_step(request).peaks())
    copies = copies_of_flash_outputs(request)
    assert [forward - copies, backward - copies, update] == case["phases"]


def test_the_cases_cover_every_change_of_transformers() -> None:
    covered = {
        found for case in CASES for found in older_behavior(request_of(case).stack, model_type(case)) if case["phases"]
    }
    named = {found for found, change in CHANGES.items() if change.package == "transformers"}
    assert named - covered == {"tables_of_all_positions"}


def test_the_releases_named_as_traced_are_those_of_the_cases() -> None:
    traced = {(model_type(case), release(case["transformers"])[:2]) for case in CASES}
    assert {(model, release) for model, releases in TRACED_RELEASES.items() for release in releases} == traced
    assert {case["method"]["name"] for case in CASES} == {*TRACED_METHODS, *VIRTUAL_TOKENS}
    virtual = {release(case["transformers"])[:2] for case in CASES if case["method"]["name"] in VIRTUAL_TOKENS}
    assert virtual == {FIRST_VIRTUAL_TOKENS}
