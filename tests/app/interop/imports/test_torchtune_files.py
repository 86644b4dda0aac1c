"""torchtune's YAML becomes a request of its trainer, and a request becomes such a file."""

import json
import random

import pytest
import yaml

from app.__main__ import main
from app.interop.exports import export
from app.interop.exports import torchtune as own
from app.interop.imports import read
from calculator import catalogue
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

LORA = {
    "model": {
        "_component_": "torchtune.models.llama3_2.lora_llama3_2_1b",
        "lora_attn_modules": ["q_proj", "output_proj"],
        "apply_lora_to_mlp": True,
        "lora_rank": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
    },
    "tokenizer": {"_component_": "torchtune.models.llama3.llama3_tokenizer", "path": "x", "max_seq_len": 512},
    "checkpointer": {"_component_": "torchtune.training.FullModelHFCheckpointer", "model_type": "LLAMA3_2"},
    "dataset": {"_component_": "torchtune.datasets.alpaca_dataset", "packed": False},
    "optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "lr": "3e-4", "weight_decay": 0.01},
    "lr_scheduler": {"_component_": "x", "num_warmup_steps": 100},
    "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
    "batch_size": 3,
    "gradient_accumulation_steps": 2,
    "clip_grad_norm": 0.5,
    "compile": False,
    "dtype": "bf16",
    "enable_activation_checkpointing": True,
    "profiler": {"enabled": False},
}
FULL = {
    **LORA,
    "model": {"_component_": "torchtune.models.qwen2_5.qwen2_5_7b_instruct"},
    "optimizer": {"_component_": "bitsandbytes.optim.PagedAdamW", "lr": 2e-5},
    "optimizer_in_bwd": True,
    "clip_grad_norm": None,
    "gradient_accumulation_steps": 1,
}


def imported(given):
    return read(yaml.safe_dump(given))


def missed(found):
    return {remark.key for remark in found.not_understood}


def test_a_lora_recipe_is_a_request():
    found = imported(LORA)
    assert (found.format, missed(found), found.warnings) == ("torchtune", set(), ())
    assert found.request == {
        "model": "meta-llama/Llama-3.2-1B",
        "method": {
            "name": "lora",
            "r": 4,
            "lora_alpha": 8,
            "lora_dropout": 0.1,
            "use_dora": False,
            "target_modules": ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
        "training": {
            "trainer": "torchtune",
            "micro_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "dtype": "bfloat16",
            "gradient_checkpointing": True,
            "max_grad_norm": 0.5,
            "optimizer_in_bwd": False,
            "optimizer": "adamw_torch_fused",
            "sequence_length": 512,
            "adapter_dtype": "model",
        },
    }
    assert {"checkpointer", "dataset", "lr_scheduler", "optimizer.lr", "profiler", "tokenizer"} <= {
        *found.without_effect
    }


def test_a_full_recipe_is_a_request():
    found = imported(FULL)
    assert (found.request["model"], found.request["method"]) == ("Qwen/Qwen2.5-7B", {"name": "full"})
    training = found.request["training"]
    assert (training["optimizer"], training["optimizer_in_bwd"]) == ("paged_adamw_32bit", True)
    assert training["max_grad_norm"] is None
    assert "adapter_dtype" not in training


@pytest.mark.parametrize(
    "model",
    [
        {"_component_": "torchtune.models.llama3_2.qlora_llama3_2_1b"},
        {"_component_": "torchtune.models.qwen2_5.lora_qwen2_5_7b_base", "quantize_base": True},
    ],
)
def test_a_qlora_recipe_is_a_request_and_back(model):
    found = imported({**LORA, "model": {**LORA["model"], **model}})
    assert (missed(found), found.request["method"]["name"]) == (set(), "qlora")
    body = {**found.request, "reserved": "rule"}
    exported = export(parse_request(body), "torchtune")
    assert exported.not_expressed == ()
    assert {**yaml.safe_load(exported.content)["model"], **model} == yaml.safe_load(exported.content)["model"]
    assert parse_request({**read(exported.content).request, "reserved": "rule"}) == parse_request(body)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"compile": True}, "compile: true"),
        ({"enable_activation_offloading": True}, "enable_activation_offloading"),
        ({"dataset": {"packed": True}}, "dataset.packed"),
        ({"custom_sharded_layers": ["output"], "fsdp_cpu_offload": True}, "custom_sharded_layers: output, fsdp_cpu"),
        ({"tensor_parallel_dim": 2}, "tensor_parallel_dim"),
        ({"loss": {"_component_": "torchtune.rlhf.loss.DPOLoss", "beta": 0.1}}, "loss: torchtune.rlhf"),
        ({"teacher_model": {"_component_": "x"}}, "teacher_model"),
    ],
)
def test_settings_that_recipes_for_one_device_do_not_run_are_a_warning(change, warning):
    found = imported({**LORA, **change})
    assert len(found.warnings) == 1
    assert warning in found.warnings[0]
    assert missed(found) == set()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"tokenizer": {"max_seq_len": None}}, "tokenizer.max_seq_len"),
        ({"loss": {"_component_": "torchtune.modules.loss.LinearCrossEntropyLoss"}}, "loss._component_"),
        ({"loss": {"_component_": own.LOSS, "num_output_chunks": 4}}, "loss.num_output_chunks"),
        ({"optimizer": {"_component_": "mine.Optimizer"}}, "optimizer._component_"),
        ({"model": {**LORA["model"], "lora_attn_modules": ["q_proj", "w"]}}, "model.lora_attn_modules"),
        ({"model": {**LORA["model"], "max_seq_len": 4}}, "model.max_seq_len"),
        ({"my_key": {"a": 1}}, "my_key.a"),
        ({"dtype": "bf8"}, "dtype"),
    ],
)
def test_settings_that_are_not_reproduced_are_listed(change, key):
    assert missed(imported({**LORA, **change})) == {key}


def test_a_builder_of_another_model_needs_a_model():
    other = {**LORA, "model": {**LORA["model"], "_component_": "torchtune.models.flux.lora_flux_1"}}
    with pytest.raises(PlanError, match="lora_flux_1"):
        imported(other)
    assert read(other, model="meta-llama/Llama-3.2-1B").request["method"]["r"] == 4


def test_every_builders_model_is_in_the_catalogue():
    assert [catalogue.model(builder.id).id for builder in own.BUILDERS] == [builder.id for builder in own.BUILDERS]


@pytest.mark.parametrize("seed", range(12))
def test_a_request_of_its_trainer_survives_the_round_trip(seed):
    chance = random.Random(seed)
    full = chance.random() < 0.4
    mlp = ["gate_proj", "up_proj", "down_proj"]
    targets = [*chance.sample(["k_proj", "o_proj", "q_proj", "v_proj"], 2), *chance.choice([[], mlp])]
    in_backward = full and chance.random() < 0.5
    body = {
        "model": chance.choice(own.BUILDERS).id,
        "method": {"name": "full"} if full else {"name": "lora", "r": 16, "lora_alpha": 4, "target_modules": targets},
        "training": {
            "trainer": "torchtune",
            "micro_batch_size": chance.choice([1, 3]),
            "sequence_length": chance.choice([100, 2048]),
            "gradient_accumulation_steps": 1 if in_backward else chance.choice([1, 4]),
            "gradient_checkpointing": chance.random() < 0.5,
            "max_grad_norm": None if in_backward else chance.choice([None, 1.0]),
            "optimizer": chance.choice(sorted({*own.OPTIMIZERS} - (set() if full else {"adagrad"}))),
            "optimizer_in_bwd": in_backward,
            **({} if full else {"adapter_dtype": "model"}),
        },
        "reserved": "rule",
    }
    exported = export(parse_request(body), "torchtune")
    assert exported.not_expressed == ()
    found = read(exported.content)
    assert (found.format, missed(found), found.warnings) == ("torchtune", set(), ())
    back, wanted = parse_request({**found.request, "reserved": "rule"}), parse_request(body)
    assert (back.model, back.training) == (wanted.model, wanted.training)
    if full:
        assert back.method == wanted.method
    else:
        assert {*back.method.target_modules} == {*targets}
        assert (back.method.r, back.method.lora_alpha) == (16, 4)


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"training": {"trainer": "transformers"}}, "training.trainer"),
        ({"training": {}}, "training.trainer"),
        ({"model": "huggyllama/llama-7b"}, "model"),
    ],
)
def test_a_request_that_its_recipes_do_not_run_is_refused(change, loc):
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "full"}, "training": {"trainer": "torchtune"}}
    with pytest.raises(PlanError) as refused:
        export(parse_request({**body, "reserved": "rule", **change}), "torchtune")
    assert refused.value.problems[0].loc == loc


def test_an_optimizer_without_a_class_is_listed():
    training = {"trainer": "torchtune", "optimizer": "adafactor"}
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "full"}, "training": training, "reserved": "rule"}
    exported = export(parse_request(body), "torchtune")
    assert [remark.loc for remark in exported.not_expressed] == ["training.optimizer"]
    assert "tune run full_finetune_single_device --config torchtune.yaml" in exported.content


def test_the_command_line_reads_and_checks_a_recipe(tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(LORA))
    assert main(["import", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["trainer"] == "torchtune"
    assert main(["check", str(file), "--gpu", "RTX 4090"]) == 0
    assert "recipe.yaml" in capsys.readouterr().out
