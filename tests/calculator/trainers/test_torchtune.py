"""torchtune's recipes: traced steps to the byte, and what is refused by name."""

import json

import pytest

from app.interop.exports import export
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.run.refusals import check_request
from calculator.run.request import parse_run
from calculator.trainers.torchtune.loss import lengths
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "torchtune.jsonl").read_text().splitlines()]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 300,
    "vocab_size": 500,
    "max_position_embeddings": 1024,
}
QLORA = {"name": "qlora", "prepare_model_for_kbit_training": False}


def request(method=None, config=None, **training):
    method = {"name": "lora", "target_modules": ["q_proj"], **(method or {})}
    body = {"trainer": "torchtune", "adapter_dtype": "model", **training}
    return parse_request(
        {
            "model": {"config": {**CONFIG, **(config or {})}},
            "method": {"name": "full"} if method["name"] == "full" else method,
            "training": body,
            "reserved": "rule",
        }
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_a_step_of_torchtunes_recipes_is_right_to_the_byte(case):
    answer = estimate(parse_request({**case["request"], "reserved": "rule"}))
    expected = case["expected"]
    assert {phase.name: phase.peak_bytes for phase in answer.memory.phases} == expected["phases"]
    assert (answer.parameters.base, answer.parameters.added) == tuple(
        expected["parameters"][n] for n in ("base", "added")
    )


@pytest.mark.parametrize(
    ("length", "chunks"), [(16, [2] * 8), (9, [2, 2, 2, 2, 1]), (300, [38] * 7 + [34]), (2, [1, 1])]
)
def test_a_sequence_is_divided_as_torch_chunk_divides_it(length, chunks):
    assert [*lengths(length)] == chunks


@pytest.mark.parametrize(
    ("loc", "message", "given"),
    [
        ("training.trainer", "modeled for llama, mistral, qwen2", {"config": {"model_type": "qwen3"}}),
        (
            "model.config.rope_scaling",
            "default positions",
            {"config": {"model_type": "qwen2", "rope_scaling": {"rope_type": "linear", "factor": 2.0}}},
        ),
        ("model.config.head_dim", "heads are", {"config": {"head_dim": 32}}),
        ("model.config.attention_bias", "attention_bias false only", {"config": {"attention_bias": True}}),
        ("method.name", "modeled for full, lora and qlora", {"method": {"name": "ia3"}}),
        ("method.quant_type", "use nf4", {"method": {**QLORA, "quant_type": "fp4"}}),
        ("method.double_quant", "use true", {"method": {**QLORA, "double_quant": False}}),
        ("method.blocksize", "use 64", {"method": {**QLORA, "blocksize": 128}}),
        ("method.prepare_model_for_kbit_training", "use false", {"method": {"name": "qlora"}}),
        ("method.name", "a multiple of 16,384", {"method": QLORA}),
        ("method.use_dora", "not modeled", {"method": {"use_dora": True}}),
        ("method.target_modules", "apply_lora_to_mlp", {"method": {"target_modules": ["up_proj"]}}),
        ("method.target_modules", "output head", {"method": {"target_modules": ["q_proj", "lm_head"]}}),
        ("training.optimizer", "states of frozen ones", {"optimizer": "adagrad"}),
        ("model.config.tie_word_embeddings", "Llama 3.2 and Qwen 2", {"config": {"tie_word_embeddings": True}}),
        ("training.adapter_dtype", "the model's dtype", {"adapter_dtype": "float32"}),
        ("training.dtype", "bfloat16", {"dtype": "float16"}),
        ("training.autocast", "without autocast", {"autocast": "bfloat16"}),
        ("training.packing", "packed", {"packing": True}),
        ("training.padding_free", "padding-free", {"padding_free": True}),
        ("training.attention", "use sdpa", {"attention": "eager"}),
        ("training.optimizer_in_bwd", "or full", {"optimizer_in_bwd": True}),
        (
            "training.max_grad_norm",
            "clips no gradients",
            {"method": {"name": "full"}, "optimizer_in_bwd": True, "gradient_accumulation_steps": 2},
        ),
        (
            "training.gradient_accumulation_steps",
            "needs 1",
            {"method": {"name": "full"}, "optimizer_in_bwd": True, "gradient_accumulation_steps": 2},
        ),
        ("training.optimizer_in_bwd", "or torchtune", {"trainer": "transformers", "optimizer_in_bwd": True}),
        ("training.activation_offloading", "leave it out", {"activation_offloading": True}),
    ],
)
def test_settings_that_are_not_modeled_are_refused_by_name(loc, message, given):
    with pytest.raises(PlanError) as refused:
        estimate(request(**given))
    assert any(problem.loc == loc and message in problem.msg for problem in refused.value.problems)


def test_a_step_in_the_backward_pass_keeps_no_gradient():
    body = {"method": {"name": "full"}, "max_grad_norm": None, "optimizer": "adamw_torch_fused"}
    later, at_once = (estimate(request(**body, optimizer_in_bwd=on)) for on in (False, True))
    forward, _, step = (
        a.peak_bytes - b.peak_bytes for a, b in zip(later.memory.phases, at_once.memory.phases, strict=True)
    )
    assert forward == 0
    logged = 2 * 512
    assert step >= 2 * later.parameters.trainable - logged


def test_the_phases_of_a_run_are_refused_by_name():
    for trainer, loc in (("torchtune", "training.trainer"), ("unsloth", "run.eval_strategy")):
        body = {"trainer": trainer, "adapter_dtype": "model", "autocast": "bfloat16"}
        given = parse_run(
            {"model": "gpt2", "method": {"name": "lora"}, "training": body, "run": {"eval_strategy": "steps"}}
        )
        with pytest.raises(PlanError) as refused:
            check_request(given)
        assert loc in [problem.loc for problem in refused.value.problems]


def test_a_script_is_refused_by_the_trainers_name():
    with pytest.raises(PlanError) as refused:
        export(request(), "peft")
    assert refused.value.problems[0].loc == "training.trainer"
