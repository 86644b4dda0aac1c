"""Cut Cross-Entropy in a step of transformers' Trainer: traced steps to the byte, and what is refused by name."""

import json

import pytest

from app.interop.exports import export
from app.interop.imports import read
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.planning.trainer_ideas import trainer_ideas
from calculator.run.refusals import check_request
from calculator.run.request import parse_run
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "cut_cross_entropy.jsonl").read_text().splitlines()]
LORA = {"name": "lora", "r": 8, "target_modules": ["q_proj"]}
PLUGIN = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"


def body(method=LORA, model="meta-llama/Llama-3.2-1B", device=None, stack=None, **training):
    training = {"trainer": "transformers", "sequence_length": 512, "cut_cross_entropy": True, **training}
    return {"model": model, "method": method, "training": training, "device": device or {}, "reserved": "rule"} | (
        {"stack": stack} if stack else {}
    )


def request(*args, **settings):
    return parse_request(body(*args, **settings))


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_a_step_with_cut_cross_entropy_is_right_to_the_byte(case):
    answer = estimate(parse_request({**case["request"], "reserved": "rule"}))
    assert {phase.name: phase.peak_bytes for phase in answer.memory.phases} == case["expected"]["phases"]


def test_no_row_has_logits_and_only_a_trained_head_has_a_gradient():
    for method, gradients in ((LORA, 0), ({"name": "full"}, 1)):
        rows = training_step(request(method, "meta-llama/Llama-3.1-8B")).run.rows
        assert not [row for row in rows if row[1][1:] and row[1][-1] == 128_256]
        of_head = [row for row in rows if row[1] == (128_256, 4096) and "lm_head" in row[0]]
        assert len(of_head) == gradients


@pytest.mark.parametrize(
    ("trainer", "trl"), [("trl-sft", "1.16"), ("trl-sft", "1.9"), ("trl-dpo", "1.16")], ids=lambda given: given
)
def test_losses_of_trl_ignore_it(trainer, trl):
    on, off = (
        estimate(request(trainer=trainer, stack={"trl": trl}, cut_cross_entropy=given)) for given in (True, False)
    )
    assert on.memory.phases == off.memory.phases
    assert [text for text in on.assumptions if "changes nothing" in text]


def test_the_loss_has_numbers_for_labeled_tokens_only():
    rows = training_step(request(completion_tokens=100)).run.rows
    assert [row[1] for row in rows if "log-sum-exp" in row[0]] == [(100,)]


@pytest.mark.parametrize(
    ("loc", "message", "given"),
    [
        ("training.cut_cross_entropy", "computes the entropy", {"trainer": "trl-sft", "stack": {"trl": "1.0"}}),
        (
            "training.cut_cross_entropy",
            "axolotl runs",
            {"trainer": "trl-sft", "loss_type": "nll", "stack": {"trl": "1.9"}},
        ),
        (
            "training.cut_cross_entropy",
            "for which no patch is modeled",
            {"trainer": "trl-sft", "stack": {"trl": "0.13", "transformers": "4.48"}},
        ),
        ("training.cut_cross_entropy", "axolotl runs", {"trainer": "unsloth"}),
        ("training.cut_cross_entropy", "in float32", {"dtype": "float32", "autocast": "bfloat16"}),
        ("training.cut_cross_entropy", "here has float32", {"dtype": "float16", "autocast": "bfloat16"}),
        ("training.cut_cross_entropy", "set training.trainer", {"trainer": None}),
        ("training.cut_cross_entropy", "no patch of gpt2", {"model": "openai-community/gpt2"}),
        ("training.cut_cross_entropy", "Liger", {"use_liger_kernel": True}),
        ("training.cut_cross_entropy", "sharding ddp", {"device": {"count": 2, "sharding": "ddp"}}),
        ("method.target_modules", "gets no gradient", {"method": {**LORA, "target_modules": ["lm_head"]}}),
    ],
)
def test_settings_that_are_not_modeled_are_refused_by_name(loc, message, given):
    with pytest.raises(PlanError) as refused:
        estimate(request(**given))
    assert any(problem.loc == loc and message in problem.msg for problem in refused.value.problems)


def test_evaluation_is_refused_by_name():
    given = {name: value for name, value in body().items() if name != "reserved"}
    with pytest.raises(PlanError) as refused:
        check_request(parse_run({**given, "run": {"eval_strategy": "steps"}}))
    assert "training.cut_cross_entropy" in [problem.loc for problem in refused.value.problems]


def test_cut_cross_entropy_is_suggested_if_the_trainer_computes_all_logits():
    def names(**training):
        return [name for name, _ in trainer_ideas(request(**training))]

    assert "cut_cross_entropy" in names(cut_cross_entropy=False)
    assert "cut_cross_entropy" not in names()
    assert "cut_cross_entropy" not in names(cut_cross_entropy=False, use_liger_kernel=True)


@pytest.mark.parametrize(
    ("lines", "is_on", "warnings"),
    [
        (f"plugins: [{PLUGIN}]", True, 0),
        (f"plugins: [{PLUGIN}]\ncut_cross_entropy: true", True, 0),
        (f"plugins: [{PLUGIN}]\ncut_cross_entropy: false", False, 0),
        (f"plugins: [{PLUGIN}]\ncut_cross_entropy_accum_c_fp32: true", False, 1),
        ("cut_cross_entropy: true", False, 1),
    ],
)
def test_axolotls_plugin_is_imported(lines, is_on, warnings):
    found = read(f"base_model: NousResearch/Llama-3.2-1B\nadapter: lora\nbf16: true\n{lines}\n")
    assert found.request["training"].get("cut_cross_entropy", False) == is_on
    assert len(found.warnings) == warnings


def test_exports_name_it_or_say_that_it_is_missing():
    axolotl, factory, script = (
        export(request(autocast="bfloat16"), name) for name in ("axolotl", "llama-factory", "peft")
    )
    assert PLUGIN in axolotl.content
    assert read(axolotl.content).request["training"]["cut_cross_entropy"]
    for left_out in (factory, script):
        assert "training.cut_cross_entropy" in [remark.loc for remark in left_out.not_expressed]
