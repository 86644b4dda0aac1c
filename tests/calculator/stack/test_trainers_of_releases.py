"""Steps of trainers in older releases, traced on PyTorch's meta device, and the calculator's.

traced_trainers.json has the most bytes alive in each phase of the real trainers, with the releases of TRL and
transformers that a case names, peft 0.21.2 and bitsandbytes 0.50.2. With transformers 4.48 to 4.55, flash attention's
output has the layout of its queries.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.compatibility import check
from calculator.estimation.estimate import estimate, model_of, training_step
from calculator.estimation.positions import within_positions
from calculator.estimation.request import parse_request
from calculator.stack.changes import CHANGES, OF_TRAINERS, older_behavior

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "traced_trainers.json").read_text(encoding="utf-8"))


def name(case: dict[str, Any]) -> str:
    body = case["request"]
    return "-".join([*body["stack"].values(), body["model"]["config"]["model_type"], body["method"]["name"]])


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_phase_is_as_traced_with_the_releases(case: dict[str, Any]) -> None:
    request = parse_request(case["request"])
    model = model_of(request.model)
    request = within_positions(request, model)
    check(request, model)
    assert [peak.bytes for peak in training_step(request).every_peak()] == case["phases"]


def test_the_cases_cover_the_changes_of_trainers() -> None:
    covered = {found for case in CASES for found in older_behavior(parse_request(case["request"]).stack)}
    assert OF_TRAINERS - covered == {"mean_loss_of_a_micro_batch"}


def request(**training: Any) -> dict[str, Any]:
    stack = {"trl": training.pop("trl", "0.24"), "transformers": training.pop("transformers", "4.57")}
    training = {"trainer": "trl-sft", "micro_batch_size": 2, "sequence_length": 64, **training}
    return {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "training": training, "stack": stack}


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (request(trl="0.24", transformers="4.53"), "stack.trl"),
        (request(packing=True), "training.packing"),
        (request(padding_free=True), "training.padding_free"),
        (request(trl="0.21", attention="flash_attention_2"), "training.attention"),
        (request(trl="0.21", adapter_dtype="model", gradient_checkpointing=True), "training.adapter_dtype"),
        (request(trainer="trl-dpo", trl="1.16"), "training.trainer"),
    ],
)
def test_what_is_not_known_of_an_older_release_is_refused_by_name(body: dict[str, Any], loc: str) -> None:
    with pytest.raises(PlanError) as refused:
        estimate(parse_request(body))
    assert [problem.loc for problem in refused.value.problems] == [loc]


def test_an_answer_lists_the_changes_of_the_trainer_only_with_one() -> None:
    sentence = CHANGES["norm_of_the_step_before"].sentence
    with_trainer = estimate(parse_request(request()))
    without = estimate(parse_request({**request(), "training": {}, "stack": {"transformers": "4.57"}}))
    assert [sentence in " ".join(answer.assumptions) for answer in (with_trainer, without)] == [True, False]
