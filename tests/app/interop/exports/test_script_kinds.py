"""The script of a trainer runs the step of its own class, or says why there is none."""

import re

import pytest

from app.interop.exports import export, script_kinds
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from calculator.trainers import TRAINERS
from tests.app.interop.exports.scripts import (
    LOW_RANK,
    body,
    check_with_ruff,
    ran,
    script,
    trained_as_planned,
)
from tests.tiny_models import LLAMA

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


TRAINED_BY = [
    ("transformers", {"name": "full"}, {"padding": True, "micro_batch_size": 2, "gradient_accumulation_steps": 2}),
    (
        "trl-sft",
        {"name": "lora", **LOW_RANK},
        {
            "autocast": "bfloat16",
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": True},
        },
    ),
]


@pytest.mark.parametrize(("trainer", "method", "training"), TRAINED_BY, ids=[row[0] for row in TRAINED_BY])
def test_the_script_of_a_trainer_runs_its_own_step(trainer, method, training, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained_as_planned(ran(body(method, trainer=trainer, **training), tmp_path, monkeypatch, capsys))
    assert f"{'SFTTrainer' if trainer == 'trl-sft' else 'Trainer'}(\n" in (tmp_path / "train.py").read_text()


def test_the_script_of_a_trainer_is_as_formatters_and_linters_leave_it(tmp_path):
    written = []
    for trainer, method, training in TRAINED_BY:
        for model in ({"config": LLAMA}, "meta-llama/Llama-3.1-8B"):
            request = {**body(method, trainer=trainer, **training), "model": model}
            written.append(script(request))
    packed = {"trainer": "trl-sft", "packing": True, "attention": "flash_attention_2", "use_liger_kernel": True}
    drawn = {"trainer": "transformers", "sequence_lengths": [[16, 3], [32, 1]], "torch_empty_cache_steps": 2}
    offloaded = {"trainer": "trl-sft", "gradient_checkpointing": True, "activation_offloading": True}
    written += [script(body({"name": "qlora", **LOW_RANK}, **training)) for training in (packed, drawn, offloaded)]
    assert 'activation_offloading=DEVICE.type == "cuda",' in written[-1]
    compared = {"trainer": "trl-dpo", "precompute_ref_log_probs": True}
    for method in ({"name": "full"}, {"name": "qlora", **LOW_RANK}):
        written.append(script({**body(method, **compared), "model": "meta-llama/Llama-3.1-8B"}))
    for trainer, method, training in ADDING[2:]:
        for kind in (method, {"name": "qlora", **LOW_RANK}) if trainer != "trl-orpo" else (method,):
            request = body(kind, trainer=trainer, **training)
            written.append(script({**request, "model": "meta-llama/Llama-3.1-8B"}))
    for number, text in enumerate(written):
        (tmp_path / f"script_{number}.py").write_text(text)
    check_with_ruff(tmp_path)


#: Trainers that tokenize texts and add adapters themselves, each with a method and settings of its own.
ADDING = [
    ("trl-dpo", {"name": "full"}, {"gradient_accumulation_steps": 2}),
    ("trl-dpo", {"name": "lora", **LOW_RANK}, {"gradient_accumulation_steps": 2}),
    ("trl-kto", {"name": "full"}, {"micro_batch_size": 2}),
    ("trl-orpo", {"name": "lora", **LOW_RANK}, {"micro_batch_size": 2}),
    ("trl-reward", {"name": "lora", **LOW_RANK}, {}),
    ("trl-grpo", {"name": "lora", **LOW_RANK}, {"micro_batch_size": 2, "max_completion_length": 8, "beta": 0.04}),
]


@pytest.mark.parametrize(
    ("trainer", "method", "training"), ADDING, ids=[f"{row[0]}-{row[1]['name']}" for row in ADDING]
)
def test_the_script_of_a_trainer_of_texts_trains_a_model_from_a_folder(
    trainer, method, training, small_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    request = {**body(method, trainer=trainer, **training), "model": "meta-llama/Llama-3.1-8B"}
    printed = ran(request, tmp_path, monkeypatch, capsys, "--model", str(small_model))
    assert re.findall(r"step (\d): loss -?\d+\.\d+", printed) == ["1", "2"]
    compares = trainer in ("trl-dpo", "trl-kto") and method["name"] == "full"
    assert ("ref_model=load(" in script(request)) is compares


def test_padding_is_listed_if_a_trainer_cannot_pad_to_a_length():
    request = {**body({"name": "full"}, trainer="trl-grpo", micro_batch_size=2, padding=True), "model": "gpt2"}
    exported = export(parse_request(request), "peft")
    assert "training.padding" in [remark.loc for remark in exported.not_expressed]
    assert "pad_to_multiple_of" not in exported.content


def test_a_script_of_dpo_needs_a_tokenizer_and_a_method_whose_adapters_it_knows():
    for change, loc in (({}, "model.config"), ({"model": "gpt2", "method": {"name": "ia3"}}, "method.name")):
        with pytest.raises(PlanError) as refused:
            script({**body({"name": "lora"}, trainer="trl-dpo"), **change})
        assert refused.value.problems[0].loc == loc


@pytest.mark.parametrize("trainer", [trainer for trainer in TRAINERS if trainer not in ("unsloth", "torchtune")])
def test_a_trainer_has_a_script_or_is_refused_by_name(trainer):
    request = body({"name": "lora", **LOW_RANK}, trainer=trainer, micro_batch_size=2)
    request["model"] = "meta-llama/Llama-3.2-1B"
    if trainer in script_kinds.TRAINER_SCRIPTS:
        assert "def main" in script(request)
        return
    with pytest.raises(PlanError) as refused:
        script(request)
    assert refused.value.problems[0].loc == "training.trainer"


def test_a_script_lists_the_labeled_tokens_that_its_text_does_not_have():
    exported = export(parse_request(body({"name": "lora"}, trainer="trl-sft", completion_tokens=5)), "peft")
    assert [remark.loc for remark in exported.not_expressed] == ["training.completion_tokens"]
