"""Exports and imports of LoRA over a quantized base."""

import ast

import pytest
import yaml

from app.interop.exports import export
from app.interop.imports import read
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 128,
}
DYNAMIC = "dynamic"
FLOAT8 = "Float8WeightOnlyConfig"
SCRIPT = (
    "quantization = {}\nmodel = AutoModelForCausalLM.from_pretrained('Qwen/Qwen2.5-0.5B', dtype='bfloat16',"
    " quantization_config=quantization)\nmodel = get_peft_model(model, LoraConfig(r=8))\n"
    "Trainer(model=model, args=TrainingArguments('out'))\n"
)
LOC = "method.quantization_config.quant_method"


def exported(base, format_name="peft", model="meta-llama/Llama-3.2-1B"):
    method = {"name": "lora", "target_modules": ["o_proj"], "quantization_config": {"quant_method": base}}
    training = {"dtype": "float16", "gradient_checkpointing": True}
    return export(parse_request({"model": model, "method": method, "training": training}), format_name)


@pytest.mark.parametrize(
    ("base", "call", "module"),
    [
        ("gptq", 'GPTQConfig(bits=4, backend="auto_trainable")', "transformers"),
        ("torchao", "TorchAoConfig(quant_type=Int8WeightOnlyConfig())", "torchao.quantization"),
        ("fp8", "FineGrainedFP8Config()", "transformers"),
        ("aqlm", "AqlmConfig(num_codebooks=1, nbits_per_codebook=16)", "transformers"),
    ],
)
def test_peft_s_script_loads_the_base_and_does_not_cast_it(base, call, module):
    script = exported(base).content
    ast.parse(script)
    assert f"quantization = {call}" in script
    assert f"from {module} import" in script
    assert ("prepare_model_for_kbit_training(" in script) == (base == "fp8")


def test_the_script_of_hqq_quantizes_the_loaded_model():
    method = {"name": "lora", "target_modules": ["q_proj"], "quantization_config": {"quant_method": "hqq", "bits": 2}}
    script = export(parse_request({"model": "Qwen/Qwen2.5-0.5B", "method": method}), "peft").content
    ast.parse(script)
    loaded, _, quantized = script.partition(".from_pretrained(model_id, dtype=DTYPE")
    assert "from hqq.models.hf.base import AutoHQQHFModel" in loaded
    assert "AutoHQQHFModel.quantize_model(model, quant_config=BaseQuantizeConfig(nbits=2, group_size=64" in quantized
    assert "quantization_config" not in script.partition('"""')[2].partition('"""')[2]


def test_llama_factory_quantizes_with_eetq():
    file = exported("eetq", "llama-factory")
    assert {"quantization_method": "eetq", "quantization_bit": 8}.items() <= yaml.safe_load(file.content).items()
    assert not [remark for remark in file.not_expressed if remark.loc.startswith("method")]
    assert read(file.content).request["method"]["quantization_config"] == {"quant_method": "eetq"}


def test_an_answer_about_an_aqlm_checkpoint_mentions_its_head():
    (missed,) = [remark for remark in exported("aqlm").not_expressed if remark.loc == LOC]
    assert "add lm_head" in missed.why


def test_a_script_over_a_checkpoint_needs_its_name():
    with pytest.raises(PlanError, match="name a model by its hub id"):
        exported("gptq", model={"config": CONFIG})
    assert [remark.loc for remark in exported("gptq").not_expressed] == [LOC]


@pytest.mark.parametrize(("format_name", "key"), [("axolotl", {"gptq": True}), ("llama-factory", {})])
def test_files_of_tools_name_a_base_that_they_read_and_list_one_that_they_do_not(format_name, key):
    file = exported("gptq", format_name)
    assert key.items() <= yaml.safe_load(file.content).items()
    (why,) = (remark.why for remark in exported("torchao", format_name).not_expressed if remark.loc == LOC)
    assert "half precision" in why


def test_axolotl_s_key_and_a_script_s_config_are_read():
    axolotl = read("base_model: a/b\nadapter: lora\ngptq: true\nlora_r: 8\n", model={"config": CONFIG})
    assert axolotl.request["method"]["quantization_config"] == {"quant_method": "gptq"}
    stated = read(
        "base_model: a/b\nadapter: lora\ngptq: true\n", model={"config": {**CONFIG, "quantization_config": GPTQ}}
    )
    assert "quantization_config" not in stated.request["method"]
    code = (
        "quantization = GPTQConfig(bits=8, group_size=32, backend='auto_trainable')\n"
        "model = AutoModelForCausalLM.from_pretrained('Qwen/Qwen2.5-0.5B', quantization_config=quantization)\n"
        "config = LoraConfig(r=8)\nTrainer(model=model, args=TrainingArguments('out'))\n"
    )
    assert read(code).request["method"]["quantization_config"] == {
        "quant_method": "gptq",
        "bits": 8,
        "desc_act": False,
        "group_size": 32,
    }


FP8 = "base_model: Qwen/Qwen3-8B\nadapter: lora\nlora_target_linear: true\nmodel_quantization_config: "


@pytest.mark.parametrize(
    ("file", "base"),
    [
        (
            f"{FP8}FineGrainedFP8Config\nmodel_quantization_config_kwargs:\n  weight_block_size: [64, 64]\n",
            {"quant_method": "fp8", "weight_block_size": [64, 64]},
        ),
        (f"{FP8}FineGrainedFP8Config\nmodel_quantization_config_kwargs:\n  dequantize: true\n", None),
        (f"{FP8}Mxfp4Config\nmodel_quantization_config_kwargs:\n  dequantize: true\n", None),
    ],
)
def test_axolotl_s_config_of_a_checkpoint_is_read(file, base):
    found = read(file)
    assert found.request["method"].get("quantization_config") == base
    assert not [remark for remark in found.not_understood if "quantization" in remark.key]


def test_mxfp4_that_is_kept_is_not_trained():
    (missed,) = [remark for remark in read(f"{FP8}Mxfp4Config\n").not_understood if "quantization" in remark.key]
    assert "dequantized" in missed.why


def test_a_base_in_fp8_survives_axolotl():
    base = {"quant_method": "fp8", "weight_block_size": [64, 64], "activation_scheme": "dynamic"}
    method = {"name": "lora", "quantization_config": base, "prepare_model_for_kbit_training": False}
    file = export(parse_request({"model": "Qwen/Qwen3-8B", "method": method}), "axolotl")
    assert not [remark for remark in file.not_expressed if "quantization" in remark.loc]
    assert read(file.content).request["method"]["quantization_config"] == base


@pytest.mark.parametrize(
    ("call", "base"),
    [
        ("AwqConfig(bits=4, group_size=64)", {"quant_method": "awq", "desc_act": False, "bits": 4, "group_size": 64}),
        ("TorchAoConfig(quant_type=Float8WeightOnlyConfig())", {"quant_method": "torchao", "quant_type": FLOAT8}),
        ("TorchAoConfig('int8_weight_only')", {"quant_method": "torchao", "quant_type": "Int8WeightOnlyConfig"}),
        (
            "FineGrainedFP8Config()",
            {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        ),
        ("FineGrainedFP8Config(dequantize=True)", None),
        ("Mxfp4Config(dequantize=True)", None),
        ("EetqConfig('int8')", {"quant_method": "eetq"}),
        (
            "AqlmConfig(num_codebooks=2, nbits_per_codebook=8)",
            {"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8},
        ),
        ("HqqConfig(nbits=2, group_size=16)", {"quant_method": "hqq", "bits": 2, "group_size": 16}),
    ],
)
def test_a_script_s_config_of_the_base_is_read(call, base):
    found = read(SCRIPT.format(call))
    assert found.request["method"].get("quantization_config") == base
    assert not [remark for remark in found.not_understood if remark.key != "max_length"]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("TorchAoConfig(quant_type=Int4WeightOnlyConfig(group_size=128))", "weights in 8 bits"),
        ("TorchAoConfig(Int8DynamicActivationInt8WeightConfig())", "without quantized inputs"),
        ("Mxfp4Config()", "does not train over it"),
        ("EetqConfig(modules_to_not_convert=['o_proj'])", "except the output head"),
        ("HqqConfig(nbits=4, axis=0)", "axis 1 is used"),
        ("0\nAutoHQQHFModel.quantize_model(model, quant_config=own(2))", "not evaluated"),
    ],
)
def test_a_script_s_config_that_is_not_modeled_is_named(call, why):
    assert any(why in remark.why for remark in read(SCRIPT.format(call)).not_understood)
