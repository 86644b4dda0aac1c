"""Settings of files with which a run differs from the modeled one: each gets a remark."""

import pytest

from app.interop.exports import export
from app.interop.imports import read
from calculator.estimation.request import parse_request

COMMAND = "trl {} --model_name_or_path openai-community/gpt2 --dataset_name x"


def missed(content):
    return {remark.key: remark.why for remark in read(content).not_understood}


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


def test_llama_factory_trains_copies_in_float32_unless_it_casts_nothing():
    found = read({**FACTORY, "bf16": True})
    assert found.request["method"]["unfrozen_dtype"] == "float32"
    assert not found.not_understood
    assert "unfrozen_dtype" not in read({**FACTORY, "pure_bf16": True}).request["method"]


def test_copies_in_float32_are_listed_with_other_trainers():
    assert "in float32" in missed({**FACTORY, "stage": "dpo", "bf16": True})["additional_target"]


def test_the_export_of_copies_in_the_models_dtype_says_so():
    body = {**read({**FACTORY, "bf16": True}).request, "reserved": "rule"}

    def listed():
        return {remark.loc for remark in export(parse_request(body), "llama-factory").not_expressed}

    assert not listed() & {"method.modules_to_save", "method.unfrozen_dtype"}
    body["method"]["unfrozen_dtype"] = "model"
    assert "method.modules_to_save" in listed()
    body["training"]["autocast"] = None
    assert "method.modules_to_save" not in listed()


@pytest.mark.parametrize("trainer", [None, "transformers"])
@pytest.mark.parametrize("name", ["lora", "oft"])
def test_copies_in_float32_are_the_same_after_export_and_import_of_a_script(name, trainer):
    method = {"name": name, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "unfrozen_dtype": "float32"}
    training = {"trainer": trainer, "autocast": "bfloat16", "sequence_length": 64}
    body = {"model": "Qwen/Qwen3-0.6B", "method": method, "training": training, "reserved": "rule"}
    assert read(export(parse_request(body), "peft").content).request["method"]["unfrozen_dtype"] == "float32"


def test_copies_in_float32_of_a_script_with_another_trainer_are_listed():
    code = (
        "model = get_peft_model(AutoModelForCausalLM.from_pretrained('Qwen/Qwen3-0.6B'),"
        " LoraConfig(modules_to_save=['lm_head']))\n"
        "for p in model.parameters():\n    if p.requires_grad:\n        p.data = p.data.to(torch.float32)\n"
        "SFTTrainer(model=model, args=SFTConfig(bf16=True))\n"
    )
    assert "casts these copies" in missed(code)["modules_to_save"]


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
