"""The storage of an adapter's base is read from its config.json, and listed as missing otherwise."""

import json

import peft
import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaConfig

from app.__main__ import main
from app.interop.exports import export
from app.interop.imports import read
from calculator.estimation.request import parse_request

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}
LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 8}
FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def found(adapter, stored=None):
    config = CONFIG if stored is None else {**CONFIG, "quantization_config": stored}
    return read(json.dumps(adapter), model={"config": config})


def missed(imported):
    return {remark.key: remark.why for remark in imported.not_understood}


def test_an_adapter_of_an_unknown_base_is_estimated_in_16_bits_with_a_remark():
    imported = found(LORA)
    assert (imported.request["method"]["name"], "training" in imported.request) == ("lora", False)
    why = "the file does not state how the base model is stored: 16-bit weights are used"
    assert missed(imported) == {"quantization_config": f"{why}; for 4 bits choose qlora"}
    assert missed(found(PREFIX)) == {"quantization_config": why}
    assert missed(read(json.dumps({**LORA, "target_modules": ["c_attn"]}), model="gpt2")) == missed(imported)


def test_a_saved_qlora_adapter_is_imported_if_its_base_states_4_bits(tmp_path, capsys):
    """A base that was quantized as it was loaded has a config.json that says nothing; one saved in 4 bits says how."""
    peft.LoraConfig(r=4, target_modules=["q_proj"]).save_pretrained(tmp_path)
    stored = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    config = LlamaConfig(**CONFIG, quantization_config=stored.to_dict())
    (tmp_path / "config.json").write_text(config.to_json_string())
    assert main(["import", str(tmp_path / "adapter_config.json"), "--config", str(tmp_path / "config.json")]) == 0
    output = capsys.readouterr()
    request = parse_request(json.loads(output.out))
    assert (request.method.name, request.method.quant_type, request.method.double_quant) == ("qlora", "nf4", True)
    assert (request.method.r, request.training.dtype, output.err) == (4, "bfloat16", "")


def test_keys_that_a_4_bit_base_omits_get_the_defaults_of_bitsandbytes():
    request = found(LORA, FOUR_BITS).request
    assert (request["method"]["name"], request["method"]["quant_type"]) == ("qlora", "fp4")
    assert (request["method"]["double_quant"], request["training"]) == (False, {"dtype": "float32"})


def test_a_base_in_8_bits_is_loras_setting():
    imported = found(LORA, {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 6.0})
    assert (imported.request["method"]["name"], imported.request["method"]["load_in_8bit"]) == ("lora", True)
    assert missed(imported) == {}


@pytest.mark.parametrize(
    ("stored", "key", "why"),
    [
        ({"quant_method": "aqlm"}, "", "only 4 and 8 bits by bitsandbytes"),
        ({"load_in_4bit": "yes"}, "", "only 4 and 8 bits by bitsandbytes"),
        ("nf4", "", "only 4 and 8 bits by bitsandbytes"),
        ({"load_in_8bit": True, "llm_int8_skip_modules": ["q_proj"]}, ".llm_int8_skip_modules", "in 8 bits"),
        ({**FOUR_BITS, "bnb_4bit_quant_type": "int4"}, ".bnb_4bit_quant_type", "fp4 is used"),
        ({**FOUR_BITS, "bnb_4bit_use_double_quant": 1}, ".bnb_4bit_use_double_quant", "is not true or false"),
        ({**FOUR_BITS, "bnb_4bit_compute_dtype": "float64"}, ".bnb_4bit_compute_dtype", "float32 is used"),
        ({**FOUR_BITS, "llm_int8_skip_modules": ["q_proj"]}, ".llm_int8_skip_modules", "except the output head"),
        ({**FOUR_BITS, "no_such_key": 7}, ".no_such_key", "is not read"),
    ],
    ids=str,
)
def test_storage_settings_that_a_request_cannot_express_are_listed(stored, key, why):
    keys = missed(found(LORA, stored))
    assert list(keys) == [f"quantization_config{key}"]
    assert why in keys[f"quantization_config{key}"]


def test_a_prefix_on_a_4_bit_base_is_estimated_on_16_bits_with_a_remark():
    imported = found(PREFIX, FOUR_BITS)
    assert imported.request["method"]["name"] == "prefix"
    assert "under LoRA only: 16-bit weights are used" in missed(imported)["quantization_config"]


def test_the_head_alone_is_what_bitsandbytes_leaves_out_by_itself():
    assert missed(found(LORA, {**FOUR_BITS, "llm_int8_skip_modules": ["lm_head"]})) == {}


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
def test_a_base_in_8_bits_survives_the_files_of_tools(tool):
    method = {"name": "lora", "load_in_8bit": True, "target_modules": ["q_proj"]}
    body = {"model": {"config": CONFIG}, "method": method, "training": {"sequence_length": 64}}
    again = read(export(parse_request(body), tool).content, None, {"config": CONFIG})
    assert (again.request["method"]["name"], again.request["method"]["load_in_8bit"]) == ("lora", True)


SCRIPT = """
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
config = BitsAndBytesConfig(load_in_8bit=True)
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.2-1B", quantization_config=config)
model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(target_modules=["q_proj"]))
trainer = Trainer(model=model, args=TrainingArguments("out"))
"""
COMMAND = "trl sft --model_name_or_path meta-llama/Llama-3.2-1B --use_peft --load_in_8bit --lora_target_modules q_proj"


@pytest.mark.parametrize(("content", "prepared"), [(SCRIPT, True), (COMMAND, False)], ids=["script", "command"])
def test_scripts_and_commands_load_in_8_bits(content, prepared):
    method = read(content).request["method"]
    assert (method["name"], method["load_in_8bit"], method["prepare_model_for_kbit_training"]) == (
        "lora",
        True,
        prepared,
    )
