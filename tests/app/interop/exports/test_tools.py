"""The tools' YAML is valid, has only documented keys, and lists what it cannot express."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from app.interop.exports import export
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

DOCUMENTED = json.loads((Path(__file__).parent / "documented_keys.json").read_text())
AXOLOTL = set(DOCUMENTED["axolotl"]["keys"])
LLAMA_FACTORY = set(DOCUMENTED["llama-factory"]["keys"]) | {f.name for f in dataclasses.fields(TrainingArguments)}

LLAMA = "meta-llama/Llama-3.1-8B"
EVERYTHING = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj", "v_proj"],
    "use_rslora": True,
    "use_dora": True,
    "modules_to_save": ["lm_head"],
}


def exported(tool, method, model=LLAMA, **training):
    return export(parse_request({"model": model, "method": method, "training": training}), tool)


def keys(tool, method, model=LLAMA, **training):
    return yaml.safe_load(exported(tool, method, model, **training).content)


def differing(tool, method, model=LLAMA, **training):
    return [remark.loc for remark in exported(tool, method, model, **training).not_expressed]


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("padding", [False, True])
def test_every_key_is_one_that_the_tool_documents(method, dtype, padding):
    request = {"name": method} if method == "full" else {"name": method, **EVERYTHING}
    if method == "qlora":
        request |= {"quant_type": "fp4", "double_quant": False}
    training = {"dtype": dtype, "padding": padding, "gradient_checkpointing": padding, "sequence_length": 1000}
    axolotl = keys("axolotl", request, **training)
    assert set(axolotl) <= AXOLOTL
    assert set(axolotl["datasets"][0]) <= set(DOCUMENTED["axolotl datasets"]["keys"])
    assert set(keys("llama-factory", request, **training)) <= LLAMA_FACTORY


def test_axolotl_gets_the_plan():
    method = {"name": "qlora", **EVERYTHING, "quant_type": "fp4", "double_quant": False}
    found = keys(
        "axolotl",
        method,
        micro_batch_size=2,
        sequence_length=1000,
        gradient_accumulation_steps=4,
        gradient_checkpointing=True,
        attention="flash_attention_2",
        optimizer="paged_adamw_8bit",
        max_grad_norm=None,
        adapter_dtype="model",
    )
    wanted = {
        "base_model": LLAMA,
        "adapter": "qlora",
        "load_in_4bit": True,
        "bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False},
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_target_modules": ["q_proj", "v_proj"],
        "lora_modules_to_save": ["lm_head"],
        "peft_use_dora": True,
        "peft_use_rslora": True,
        "peft_autocast_adapter_dtype": False,
        "bf16": True,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "attn_implementation": "flash_attention_2",
        "optimizer": "paged_adamw_8bit",
        "max_grad_norm": 0,
        "sequence_len": 1000,
        "sample_packing": False,
    }
    assert {key: found[key] for key in wanted} == wanted


def test_llama_factory_gets_the_plan():
    method = {"name": "qlora", **EVERYTHING, "quant_type": "fp4", "double_quant": False}
    found = keys(
        "llama-factory",
        method,
        micro_batch_size=2,
        sequence_length=1000,
        gradient_accumulation_steps=4,
        gradient_checkpointing=True,
        attention="eager",
        optimizer="adafactor",
        padding=True,
    )
    wanted = {
        "model_name_or_path": LLAMA,
        "quantization_bit": 4,
        "quantization_type": "fp4",
        "double_quantization": False,
        "flash_attn": "disabled",
        "disable_gradient_checkpointing": False,
        "use_reentrant_gc": False,
        "finetuning_type": "lora",
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_target": "q_proj,v_proj",
        "additional_target": "lm_head",
        "use_dora": True,
        "use_rslora": True,
        "cutoff_len": 1000,
        "packing": False,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "pure_bf16": True,
        "optim": "adafactor",
        "max_grad_norm": 1.0,
    }
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
@pytest.mark.parametrize("method", ["adapter", "prefix", "prompt"])
def test_a_method_that_a_tool_lacks_is_refused_with_what_to_do(tool, method):
    with pytest.raises(PlanError, match="use the format peft") as refused:
        exported(tool, {"name": method})
    assert refused.value.problems[0].loc == "method.name"


CHECKPOINTED = {"gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("tool", "method", "training", "locs"),
    [
        ("axolotl", {"name": "lora"}, {}, ["training.autocast"]),
        ("axolotl", {"name": "lora"}, {"dtype": "float16"}, []),
        ("axolotl", {"name": "lora"}, {"dtype": "float32"}, []),
        ("axolotl", {"name": "full"}, {"dtype": "float16"}, ["training.dtype"]),
        ("axolotl", {"name": "full"}, {"dtype": "float16", "attention": "flash_attention_2"}, []),
        ("axolotl", {"name": "qlora"}, {"dtype": "float16"}, ["method.prepare_model_for_kbit_training"]),
        ("axolotl", {"name": "qlora", "prepare_model_for_kbit_training": False}, {"dtype": "float16"}, []),
        ("axolotl", {"name": "lora", "bias": "all", "lora_alpha": 0.5}, {"dtype": "float16"}, ["method.lora_alpha"]),
        ("llama-factory", {"name": "lora"}, {}, []),
        ("llama-factory", {"name": "lora", "lora_alpha": 0}, {}, ["method.lora_alpha"]),
        ("llama-factory", {"name": "lora"}, {"dtype": "float32"}, ["training.dtype"]),
        ("llama-factory", {"name": "lora"}, {"dtype": "float16"}, ["training.autocast"]),
        ("llama-factory", {"name": "lora"}, {"adapter_dtype": "model"}, ["training.adapter_dtype"]),
        ("llama-factory", {"name": "full"}, {}, []),
        ("llama-factory", {"name": "full"}, {"dtype": "float32"}, []),
        ("llama-factory", {"name": "full"}, {"dtype": "float16"}, ["training.dtype"]),
        ("llama-factory", {"name": "qlora"}, {}, ["method.prepare_model_for_kbit_training"]),
        (
            "llama-factory",
            {"name": "qlora", "prepare_model_for_kbit_training": False, "blocksize": 128},
            {},
            ["method.blocksize"],
        ),
    ],
    ids=str,
)
def test_settings_that_a_tool_handles_differently_are_listed(tool, method, training, locs):
    found = differing(tool, method, **training, **CHECKPOINTED)
    assert found == locs + (["method.bias"] if "bias" in method else [])


def test_a_cache_that_the_trainer_switches_off_is_listed():
    assert differing("llama-factory", {"name": "lora"}, LLAMA) == ["model.config.use_cache"]


def test_transposed_weights_are_named_for_tools_that_look_for_linear_classes():
    method = {"name": "lora", "target_modules": "all-linear"}
    assert keys("axolotl", method, "gpt2")["lora_target_modules"] == ["c_attn", "c_proj", "c_fc"]
    assert keys("llama-factory", method, "gpt2")["lora_target"] == "c_attn,c_proj,c_fc"
    assert keys("axolotl", method)["lora_target_linear"] is True


def test_a_family_without_sdpa_gets_the_attention_that_runs():
    assert keys("axolotl", {"name": "lora"}, "google/gemma-2-9b")["attn_implementation"] == "eager"


@pytest.mark.parametrize("prepared", [True, False])
def test_norms_that_axolotl_does_not_know_by_name_are_listed_in_both_cases(prepared):
    method = {"name": "qlora", "prepare_model_for_kbit_training": prepared}
    found = differing("axolotl", method, "gpt2", dtype="float16", **CHECKPOINTED)
    assert found == ["method.prepare_model_for_kbit_training"]


def test_llama_factory_leaves_a_vision_tower_to_the_targets():
    found = keys("llama-factory", {"name": "lora", "target_modules": "all-linear"}, "google/gemma-3-4b-pt")
    assert (found["freeze_vision_tower"], found["freeze_multi_modal_projector"]) == (False, False)
    assert "freeze_vision_tower" not in keys("llama-factory", {"name": "lora"})


def test_the_dtype_of_a_router_is_listed():
    method = {"name": "lora", "target_modules": ["q_proj"]}
    found = differing("axolotl", method, "mistralai/Mixtral-8x7B-v0.1", **CHECKPOINTED)
    assert found == ["training.autocast", "training.dtype"]


def test_a_config_is_read_from_a_folder():
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = {"model_type": "llama", "vocab_size": 100, **sizes}
    found = exported("axolotl", {"name": "lora"}, {"config": config}, **CHECKPOINTED)
    assert yaml.safe_load(found.content)["base_model"] == "./model"
    assert found.not_expressed[0].loc == "model.config"


@pytest.mark.parametrize(
    ("trainer", "why"),
    [
        ("trl-sft", "computes the loss from all logits"),
        ("trl-kto", "the figures are for another run"),
        ("unsloth", "without Unsloth's patches"),
    ],
)
def test_a_file_of_axolotl_names_the_trainer_that_it_does_not_run(trainer, why):
    autocast = {"autocast": "bfloat16"} if trainer == "unsloth" else {}
    length = {"sequence_length": 32, "micro_batch_size": 2}
    made = exported("axolotl", {"name": "lora"}, "meta-llama/Llama-3.2-1B", trainer=trainer, **length, **autocast)
    assert [why in remark.why for remark in made.not_expressed if remark.loc == "training.trainer"] == [True]
