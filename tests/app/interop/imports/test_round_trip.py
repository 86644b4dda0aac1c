"""A request that is exported and imported is the same request."""

import dataclasses
import random

import peft
import pytest

from app.interop.exports import FORMATS
from app.interop.exports.part import targets
from app.interop.exports.planned import planned
from app.interop.imports import read
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.inputs.training_settings import CheckpointingKwargs
from calculator.methods import LoRA, QLoRA
from calculator.resident.optimizers import OPTIMIZERS

MODELS = (
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.2-1B",
    "Qwen/Qwen3-4B",
    "Qwen/Qwen2.5-7B",
    "mistralai/Mistral-7B-v0.3",
    "openai-community/gpt2",
    "google/gemma-2-9b",
    "EleutherAI/pythia-1b",
)
CONFIG = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 32000,
}
#: Settings of single modules and layers, and of the initialization.
LAYERS = (
    {"rank_pattern": {"q_proj": 32}, "alpha_pattern": {"q_proj": 64}},
    {"layers_to_transform": [0, 3], "layers_pattern": ["layers"], "target_modules": ["q_proj"]},
    {"layer_replication": [[0, 4], [2, 4]]},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_16"},
)

#: Optimizers that no configuration file can name: a script makes them.
OF_SCRIPTS = ("lorafa",)


def drawn(chance):
    """A request of a method that the tools have; the training settings as a person might set them."""
    name = chance.choice(["full", "lora", "qlora"])
    training = {
        "micro_batch_size": chance.choice([1, 2, 8]),
        "sequence_length": chance.choice([100, 512, 1000]),
        "gradient_accumulation_steps": chance.choice([1, 4]),
        "dtype": chance.choice(["bfloat16", "bfloat16", "float16", "float32"]),
        "adapter_dtype": chance.choice(["float32", "float32", "model"]),
        "gradient_checkpointing": chance.random() < 0.7,
        "attention": chance.choice(["sdpa", "eager", "flash_attention_2"]),
        "padding": chance.random() < 0.3,
        "optimizer": chance.choice([name for name in OPTIMIZERS if name not in OF_SCRIPTS]),
        "max_grad_norm": chance.choice([1.0, 0.3, None]),
        "trainer": chance.choice([None, "transformers"]),
    }
    if training["trainer"]:
        training["use_liger_kernel"] = chance.random() < 0.3
        training["gradient_checkpointing_kwargs"] = {"use_reentrant": chance.random() < 0.5}
    method = {"name": name}
    if name != "full":
        method |= {
            "r": chance.choice([4, 16, 64]),
            "lora_alpha": chance.choice([8, 32, 0.5]),
            "lora_dropout": chance.choice([0.0, 0.05]),
            "target_modules": chance.choice(["all-linear", None]),
            "use_dora": chance.random() < 0.3,
            "use_rslora": chance.random() < 0.3,
            "bias": chance.choice(["none", "none", "none", "all"]),
            "modules_to_save": chance.choice([None, None, ["lm_head"]]),
            **chance.choice([{}, {}, {}, *LAYERS]),
        }
    if name == "qlora":
        method |= {
            "quant_type": chance.choice(["nf4", "fp4"]),
            "double_quant": chance.random() < 0.7,
            "blocksize": chance.choice([64, 64, 64, 128]),
            "prepare_model_for_kbit_training": chance.random() < 0.3,
        }
    model = {"config": CONFIG} if chance.random() < 0.2 else chance.choice(MODELS)
    return {"model": model, "method": method, "training": training}


def spelled_out(plan):
    """The request with what a file spells otherwise: targets by their names, attention as it runs."""
    request, method = plan.request, plan.request.method
    if isinstance(method, LoRA | QLoRA):
        names = targets(method, plan.model)
        method = dataclasses.replace(method, target_modules="all-linear" if names is None else names)
    options = CheckpointingKwargs(use_reentrant=request.training.use_reentrant)
    training = dataclasses.replace(
        request.training,
        attention=plan.attention,
        trainer="transformers",
        gradient_checkpointing_kwargs=options if request.training.gradient_checkpointing else None,
    )
    if not isinstance(method, LoRA | QLoRA):
        training = dataclasses.replace(training, adapter_dtype="float32")
    return dataclasses.replace(request, method=method, training=training)


@pytest.mark.parametrize(("tool", "least"), [("axolotl", 20), ("llama-factory", 20)])
def test_a_request_that_a_tool_can_express_survives_the_round_trip(tool, least):
    chance, expressed = random.Random(tool), 0
    for _ in range(250):
        if expressed == least:
            break
        body = drawn(chance)
        try:
            request = parse_request(body)
            plan = planned(request, estimate(dataclasses.replace(request, reserved="rule")))
        except PlanError:
            continue
        exported = FORMATS[tool](plan)
        if any(remark.loc not in ("model.config.use_cache", "model.config") for remark in exported.not_expressed):
            continue
        model = body["model"] if isinstance(body["model"], dict) else None
        found = read(exported.content, None, model)
        assert found.format == tool
        assert parse_request(found.request) == spelled_out(plan), exported.content
        assert found.not_understood == ()
        expressed += 1
    assert expressed == least


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (
            peft.LoraConfig(
                task_type="CAUSAL_LM",
                r=16,
                lora_alpha=32,
                lora_dropout=0.05,
                target_modules=["q_proj"],
                use_rslora=True,
                use_dora=True,
                bias="lora_only",
                modules_to_save=["lm_head"],
            ),
            {
                "name": "lora",
                "r": 16,
                "lora_alpha": 32,
                "lora_dropout": 0.05,
                "target_modules": ["q_proj"],
                "use_rslora": True,
                "use_dora": True,
                "bias": "lora_only",
                "modules_to_save": ["lm_head"],
            },
        ),
        (peft.LoraConfig(target_modules="all-linear"), {"name": "lora", "target_modules": "all-linear"}),
        (peft.LoraConfig(), {"name": "lora"}),
        (
            peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=30, prefix_projection=True),
            {"name": "prefix", "num_virtual_tokens": 30, "prefix_projection": True},
        ),
        (
            peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
            {"name": "prompt", "num_virtual_tokens": 8},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_config_that_peft_saves_is_imported(config, method, tmp_path):
    config.base_model_name_or_path = "meta-llama/Llama-3.1-8B"
    config.save_pretrained(tmp_path)
    found = read((tmp_path / "adapter_config.json").read_text())
    wanted = {"model": "meta-llama/Llama-3.1-8B", "method": method}
    assert parse_request(found.request) == parse_request(wanted)
    assert (found.format, [remark.key for remark in found.not_understood]) == ("peft", ["quantization_config"])
