"""Settings of files with which a run differs from the modeled one: each gets a remark."""

import pytest

from app.interop.exports import export
from app.interop.imports import read
from calculator.estimation.request import parse_request

COMMAND = "trl {} --model_name_or_path openai-community/gpt2 --dataset_name x"


def missed(content):
    return {each.key: each.why for each in read(content).not_understood}


@pytest.mark.parametrize("trainer", ["dpo", "kto", "reward"])
def test_dropout_that_stays_on_is_listed(trainer):
    command = COMMAND.format(trainer)
    assert "is modeled as true" in missed(f"{command} --disable_dropout False")["disable_dropout"]
    assert "disable_dropout" not in missed(f"{command} --disable_dropout True")


def test_rows_that_dpotrainer_flattens_are_listed():
    assert "rows are padded" in missed(f"{COMMAND.format('dpo')} --padding_free True")["padding_free"]


@pytest.mark.parametrize("name", ["ds3_gather_for_generation", "use_bias_correction_kl"])
def test_what_grpotrainer_does_by_default_is_listed_if_it_is_off(name):
    assert missed(f"{COMMAND.format('grpo')} --{name} False")[name] == "is modeled as true"


def test_the_correction_of_vllms_sampling_matters_with_vllm_only():
    command, name = (
        f"{COMMAND.format('grpo')} --vllm_importance_sampling_correction False",
        "vllm_importance_sampling_correction",
    )
    assert missed(f"{command} --use_vllm True")[name] == "is modeled as true"
    assert name not in missed(command)


def test_an_output_head_that_a_script_unties_is_listed():
    code = (
        "from_pretrained = AutoModelForCausalLM.from_pretrained('Qwen/Qwen3-0.6B', tie_word_embeddings={})\nTrainer()"
    )
    assert "is not read" in missed(code.format(False))["tie_word_embeddings"]


FACTORY = {
    "model_name_or_path": "Qwen/Qwen3-0.6B",
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_target": "all",
    "cutoff_len": 512,
    "additional_target": "lm_head",
}


def test_copies_that_llama_factory_trains_in_float32_are_listed():
    assert "in float32" in missed({**FACTORY, "bf16": True})["additional_target"]
    assert "additional_target" not in missed({**FACTORY, "pure_bf16": True})


def test_the_export_of_such_copies_says_so():
    body = {**read({**FACTORY, "bf16": True}).request, "reserved": "rule"}
    assert "method.modules_to_save" in {each.loc for each in export(parse_request(body), "llama-factory").not_expressed}
    body["training"]["autocast"] = None
    found = export(parse_request(body), "llama-factory").not_expressed
    assert "method.modules_to_save" not in {each.loc for each in found}


@pytest.mark.parametrize("offloads", [True, False])
def test_trls_offloading_with_unsloth_is_listed(offloads):
    code = f"""
from unsloth import FastLanguageModel
model, tokenizer = FastLanguageModel.from_pretrained("unsloth/Llama-3.1-8B", max_seq_length=2048)
model = FastLanguageModel.get_peft_model(model, r=16, use_gradient_checkpointing=True)
trainer = SFTTrainer(model=model, args=SFTConfig(activation_offloading={offloads}))
"""
    assert ("activation_offloading" in missed(code)) == offloads
    assert read(code).request["training"]["activation_offloading"] is False
