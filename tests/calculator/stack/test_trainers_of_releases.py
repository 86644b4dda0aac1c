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
from calculator.stack.releases import release
from calculator.stack.trainers import TRACED_PAIRS, TRACED_TRAINER

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
    requests = [(parse_request(case["request"]), case["request"]["model"]["config"]["model_type"]) for case in CASES]
    covered = {found for parsed, model_type in requests for found in older_behavior(parsed.stack, model_type)}
    assert OF_TRAINERS - covered == set()


def test_the_releases_named_as_traced_are_those_of_the_cases() -> None:
    stacks = [(case["request"]["training"]["trainer"], parse_request(case["request"]).stack) for case in CASES]
    named = {trainer: set[tuple[Any, ...]]() for trainer, _ in stacks}
    for trainer, stack in stacks:
        named[trainer].add((release(stack.trl)[:2], release(stack.transformers)[:2]))
    assert {version for _, version in named.pop("transformers")} == {*TRACED_TRAINER}
    assert named == TRACED_PAIRS


@pytest.mark.parametrize(
    ("body", "untraced"),
    [
        ({"trl": "0.23", "transformers": "4.57"}, False),
        ({"trl": "0.24", "transformers": "4.56"}, True),
        ({"trl": "0.23", "transformers": "5.24"}, True),
        ({"trl": "1.9", "transformers": "5.24"}, False),
        ({"trainer": "transformers", "transformers": "4.46"}, True),
        ({"trainer": "trl-dpo", "trl": "0.19", "transformers": "4.52"}, False),
        ({"trainer": "trl-dpo", "trl": "0.19", "transformers": "4.53"}, True),
        ({"trainer": "transformers", "transformers": "4.57"}, False),
    ],
)
def test_an_answer_says_when_no_step_of_the_pair_of_releases_was_traced(body: dict[str, Any], untraced: bool) -> None:
    answer = estimate(parse_request(request(**body)))
    assert any(line.startswith("No step of t") for line in answer.assumptions) == untraced


@pytest.mark.parametrize(
    ("trl", "transformers", "method", "sentences"),
    [
        ("0.24", "4.57", "full", ["hidden states of every layer", "frozen copy of the model"]),
        ("0.18", "4.52", "lora", ["logits of every token", "with its adapters off"]),
        ("0.15", "4.48", "lora", ["use_cache decides about a cache", "with its adapters off"]),
    ],
)
def test_an_answer_says_what_an_older_trainer_keeps(
    trl: str, transformers: str, method: str, sentences: list[str]
) -> None:
    body = request(trainer="trl-dpo", trl=trl, transformers=transformers) | {"method": {"name": method}}
    said = " ".join(estimate(parse_request(body)).assumptions)
    assert [sentence for sentence in sentences if sentence not in said] == []


def test_an_answer_says_that_generation_makes_checkpointing_reentrant() -> None:
    said = " ".join(estimate(parse_request(request(trainer="trl-grpo"))).assumptions)
    assert "logits of the completions" in said
    assert "turns checkpointing on again as re-entrant" in said


@pytest.mark.parametrize(
    ("trl", "beta", "said"),
    [
        ("0.21", 0.1, ["log-probabilities and entropies"]),
        ("0.19", 0.1, ["scores all completions of a step at once"]),
        ("0.19", None, ["beta is 0: there is no reference"]),
        ("0.18", None, ["the reference runs in each micro-batch"]),
        ("0.17", None, ["with its adapters off"]),
    ],
)
def test_an_answer_says_how_a_release_scores_completions(trl: str, beta: float | None, said: list[str]) -> None:
    answer = estimate(parse_request(request(trainer="trl-grpo", trl=trl, beta=beta)))
    assert [sentence for sentence in said if sentence not in " ".join(answer.assumptions)] == []


@pytest.mark.parametrize(
    ("trl", "transformers", "warned"), [("0.21", "4.55", True), ("0.19", "4.52", False), ("0.22", "4.57", False)]
)
def test_an_answer_warns_of_checkpoints_that_leave_the_cache_empty(trl: str, transformers: str, warned: bool) -> None:
    body = request(trainer="trl-grpo", trl=trl, transformers=transformers, gradient_checkpointing=True)
    answer = estimate(parse_request(body))
    assert any("leave the cache empty" in warning for warning in answer.warnings) == warned


@pytest.mark.parametrize(
    ("trl", "named"), [("0.18", []), ("0.21", ["bf16"]), ("0.24", ["bf16", "gradient_checkpointing"])]
)
@pytest.mark.parametrize("trainer", ["trl-dpo", "trl-grpo", "trl-reward"])
def test_an_answer_names_the_defaults_of_its_release(trainer: str, trl: str, named: list[str]) -> None:
    answer = estimate(parse_request(request(trainer=trainer, trl=trl)))
    said = [
        name for name in ("bf16", "gradient_checkpointing") if f"{name}=True by default" in " ".join(answer.warnings)
    ]
    assert said == named


def request(**training: Any) -> dict[str, Any]:
    stack = {"trl": training.pop("trl", "0.24"), "transformers": training.pop("transformers", "4.57")}
    training = {"trainer": "trl-sft", "micro_batch_size": 2, "sequence_length": 64, **training}
    return {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "training": training, "stack": stack}


FLASH = {"dtype": "float16", "autocast": "bfloat16", "attention": "flash_attention_2"}
UNFROZEN = {"name": "full", "unfrozen_parameters": ["model.layers.0.mlp."]}
REENTRANT_ANYWAY = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
SLIDING = {
    "config": {
        "model_type": "mistral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "sliding_window": 32,
    }
}  # fmt: skip
HEAD = {"name": "lora", "target_modules": ["query_key_value", "lm_head"]}
OLMO = "allenai/OLMo-2-0425-1B"
CACHED = {
    **request(autocast="bfloat16"),
    "model": {"config": {"model_type": "gpt_bigcode", "n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 512}},
}


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (request(trl="0.24", transformers="4.53"), "stack.trl"),
        (request(packing=True, trl="0.22"), "training.packing"),
        (request(packing=True, trl="1.0"), "training.packing"),
        (request(padding_free=True, transformers="5.16"), "training.padding_free"),
        ({**request(packing=True), "model": "openai-community/gpt2"}, "training.packing"),
        (request(trl="0.21", attention="flash_attention_2"), "training.attention"),
        (request(trl="0.21", adapter_dtype="model", gradient_checkpointing=True), "training.adapter_dtype"),
        (request(trainer="trl-dpo", trl="1.16"), "training.trainer"),
        ({**request(gradient_checkpointing=True), "method": UNFROZEN}, "training.gradient_checkpointing"),
        ({**request(trl="0.23"), "method": {"name": "prefix"}}, "method.name"),
        (request(trl="0.17", transformers="4.48", **FLASH), "training.attention"),
        ({**request(trl="0.21"), "method": {"name": "prompt"}}, "method.name"),
        ({**request(), "model": "EleutherAI/pythia-1.4b", "method": HEAD}, "method.target_modules"),
        ({**CACHED, "stack": {"trl": "0.17", "transformers": "4.51"}}, "model.config.use_cache"),
        (request(autocast="bfloat16", trl="0.17", transformers="4.47"), "model.config.use_cache"),
        (request(trainer="trl-dpo", transformers="5.24"), "stack.trl"),
        (request(trainer="trl-dpo", trl="0.15", transformers="4.47"), "stack.trl"),
        (request(trainer="trl-dpo", loss_type="sft"), "training.loss_type"),
        (request(trainer="trl-dpo", completion_tokens=101), "training.completion_tokens"),
        ({**request(trainer="trl-dpo"), "method": {"name": "ia3"}}, "method.name"),
        ({**request(trainer="trl-dpo"), "device": {"count": 2, "sharding": "ddp"}}, "device.count"),
        (request(trainer="trl-reward", trl="0.23", transformers="5.24"), "stack.trl"),
        (
            request(trainer="trl-reward", trl="0.21", transformers="4.55", gradient_checkpointing=True),
            "training.gradient_checkpointing",
        ),
        ({**request(trainer="trl-reward"), "model": OLMO, "method": {"name": "full"}}, "stack.transformers"),
        ({**request(trainer="trl-kto", autocast="bfloat16"), "method": {"name": "qlora"}}, "training.autocast"),
        (request(trainer="trl-grpo", use_vllm=True), "training.use_vllm"),
        (request(trainer="trl-grpo", padding=True), "training.padding"),
        (request(trainer="trl-grpo", attention="flash_attention_2"), "training.attention"),
        (request(trainer="trl-grpo", loss_type="cispo"), "training.loss_type"),
        (request(trainer="trl-grpo", loss_type="dapo", trl="0.21"), "training.loss_type"),
        ({**request(trainer="trl-grpo", trl="0.22"), "method": {"name": "qlora"}}, "method.name"),
        (request(trainer="trl-grpo", trl="0.17", transformers="4.48"), "stack.transformers"),
        (request(trainer="trl-grpo", trl="0.16", transformers="4.52"), "stack.transformers"),
        (
            request(trainer="trl-grpo", trl="0.16", transformers="4.51", gradient_accumulation_steps=2),
            "training.gradient_accumulation_steps",
        ),
        (request(trainer="trl-grpo", trl="0.16", transformers="4.51", loss_type="grpo"), "training.loss_type"),
        (request(trainer="trl-rloo", trl="0.21", transformers="5.24"), "stack.trl"),
        (request(trainer="trl-rloo", padding=True), "training.padding"),
        ({**request(trainer="trl-rloo", trl="0.22"), "method": {"name": "qlora"}}, "method.name"),
        (
            {**request(trainer="trl-grpo", transformers="4.55", trl="0.21", sequence_length=40), "model": SLIDING},
            "stack.transformers",
        ),
        ({**request(trainer="trl-grpo"), "method": {"name": "ia3"}}, "method.name"),
        ({**request(trainer="trl-grpo"), "device": {"count": 2, "sharding": "ddp"}}, "device.count"),
        ({**request(trainer="trl-grpo", autocast="bfloat16"), "method": {"name": "qlora"}}, "training.autocast"),
        ({**request(trainer="trl-grpo", **REENTRANT_ANYWAY), "method": UNFROZEN}, "training.gradient_checkpointing"),
    ],
)
def test_what_is_not_known_of_an_older_release_is_refused_by_name(body: dict[str, Any], loc: str) -> None:
    with pytest.raises(PlanError) as refused:
        estimate(parse_request(body))
    assert [problem.loc for problem in refused.value.problems] == [loc]


def test_a_checkpointed_model_makes_no_cache_that_a_trainer_would_copy() -> None:
    body = request(autocast="bfloat16", trl="0.17", transformers="4.47", gradient_checkpointing=True)
    assert estimate(parse_request(body)).assumptions


def test_an_answer_lists_the_changes_of_the_trainer_only_with_one() -> None:
    sentence = CHANGES["norm_of_the_step_before"].sentence
    with_trainer = estimate(parse_request(request()))
    without = estimate(parse_request({**request(), "training": {}, "stack": {"transformers": "4.57"}}))
    assert [sentence in " ".join(answer.assumptions) for answer in (with_trainer, without)] == [True, False]
