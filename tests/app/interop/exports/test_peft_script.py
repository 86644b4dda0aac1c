"""The exported script runs: it builds the model of the figures and trains it, with any method."""

import re
import runpy
import subprocess
import sys

import pytest
import torch

from app.interop.exports import bottleneck as exported_bottleneck
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from calculator.resident.optimizers import OPTIMIZERS
from tests.app.interop.exports.scripts import (
    LOW_RANK,
    body,
    check_with_ruff,
    optimizing,
    ran,
    script,
    trained_as_planned,
)
from tests.tiny_models import GPT2, LLAMA
from validation.reference import bottleneck
from validation.reference.build import build_model
from validation.reference.module_paths import unwrapped
from validation.tracing.shims import emulate_cuda

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


#: Reads images too; its tower has as many layers as its text model.
GEMMA3 = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 300,
    },
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
        "vision_use_head": False,
    },
    "mm_tokens_per_image": 4,
}

ALL_ROUTERS = {
    "full": {},
    "lora": LOW_RANK,
    "qlora": LOW_RANK,
    "adapter": {"bottleneck_size": 8},
    "prefix": {"num_virtual_tokens": 5},
    "prompt": {"num_virtual_tokens": 5},
    "ia3": {"target_modules": "all-linear", "feedforward_modules": ["down_proj"]},
    "ln_tuning": {"target_modules": ["norm"]},
}


@pytest.mark.parametrize("method", [*ALL_ROUTERS, "vera"])
def test_the_script_of_a_method_trains(method, tmp_path, monkeypatch, capsys):
    trained_as_planned(ran(body({"name": method, **ALL_ROUTERS.get(method, {})}), tmp_path, monkeypatch, capsys))


SETTINGS = [
    ({"name": "full"}, {"gradient_checkpointing": True}),
    ({"name": "lora", **LOW_RANK, "use_dora": True, "bias": "all"}, {"gradient_checkpointing": True}),
    ({"name": "lora", **LOW_RANK, "modules_to_save": ["lm_head"]}, {"adapter_dtype": "model", "padding": True}),
    ({"name": "lora", "target_modules": ["q_proj", "embed_tokens"]}, {"dtype": "float16"}),
    ({"name": "qlora", "quant_type": "fp4", "double_quant": False, "blocksize": 128}, {}),
    ({"name": "qlora", "prepare_model_for_kbit_training": False}, {"adapter_dtype": "model"}),
    ({"name": "lora", "load_in_8bit": True}, {}),
    ({"name": "adapter", "placement": "pfeiffer", "bottleneck_size": 8}, {"adapter_dtype": "model"}),
    ({"name": "adapter"}, {"dtype": "float32"}),
    ({"name": "prefix", "num_virtual_tokens": 5, "prefix_projection": True}, {}),
    ({"name": "prompt", "num_virtual_tokens": 5}, {}),
    ({"name": "ia3"}, {}),
    ({"name": "ia3", "target_modules": "all-linear"}, {"adapter_dtype": "model", "gradient_checkpointing": True}),
    ({"name": "ia3", "modules_to_save": ["lm_head"], "init_ia3_weights": False}, {"dtype": "float16"}),
    ({"name": "ln_tuning"}, {}),
    ({"name": "ln_tuning", "target_modules": ["norm"], "modules_to_save": ["lm_head"]}, {"adapter_dtype": "model"}),
]


@pytest.mark.parametrize(("method", "training"), SETTINGS, ids=lambda setting: str(setting)[:60])
def test_the_script_builds_the_model_of_the_figures(method, training, tmp_path):
    request = body(method, **training)
    file = tmp_path / "train.py"
    file.write_text(script(request))
    made = runpy.run_path(str(file))
    model, _ = made["load"]()
    prepared = made["prepared"](model)
    root = next(path for path, module in prepared.named_modules() if module is model)
    ours = {unwrapped(name, root): facts(parameter) for name, parameter in prepared.named_parameters()}
    with emulate_cuda():
        theirs = {name: facts(parameter) for name, parameter in build_model(parse_request(request)).named_parameters()}
    assert ours == theirs


def facts(parameter):
    return tuple(parameter.shape), parameter.dtype, parameter.requires_grad, getattr(parameter, "blocksize", None)


@pytest.mark.parametrize("method", ["qlora", "adapter"])
def test_a_family_with_transposed_weights_trains_too(method, tmp_path, monkeypatch, capsys):
    trained_as_planned(ran(body({"name": method, **ALL_ROUTERS[method]}, GPT2), tmp_path, monkeypatch, capsys))


@pytest.mark.parametrize("method", ["qlora", "adapter", "prefix", "ln_tuning"])
def test_a_model_that_reads_images_trains_on_text(method, tmp_path, monkeypatch, capsys):
    trained_as_planned(ran(body({"name": method, **ALL_ROUTERS[method]}, GEMMA3), tmp_path, monkeypatch, capsys))


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ({"name": "full"}, {"gradient_checkpointing": True, "gradient_accumulation_steps": 2, "max_grad_norm": None}),
        ({"name": "lora", **LOW_RANK}, {"gradient_checkpointing": True, "padding": True, "micro_batch_size": 2}),
        ({"name": "prompt"}, {"dtype": "float32", "optimizer": "adafactor", "attention": "eager"}),
    ],
    ids=str,
)
def test_the_script_trains_with_the_settings(method, training, tmp_path, monkeypatch, capsys):
    trained_as_planned(ran(body(method, **training), tmp_path, monkeypatch, capsys))


def test_a_script_by_id_reads_a_model_from_a_folder_too(small_model, tmp_path, monkeypatch, capsys):
    saved = tmp_path / "saved"
    request = {**body({"name": "qlora", **LOW_RANK}), "model": "meta-llama/Llama-3.1-8B"}
    printed = ran(request, tmp_path, monkeypatch, capsys, "--model", str(small_model), "--output", str(saved))
    assert re.findall(r"step (\d): loss \d+\.\d+", printed) == ["1", "2"]
    assert (saved / "adapter_config.json").exists()


def test_a_script_is_as_formatters_and_linters_leave_it(tmp_path):
    for name, routers in ALL_ROUTERS.items():
        for model in ({"config": GPT2}, "meta-llama/Llama-3.1-8B"):
            settings = {"target_modules": ["ln_f"]} if name == "ln_tuning" and "config" in model else routers
            request = {**body({"name": name, **settings}, gradient_accumulation_steps=2), "model": model}
            (tmp_path / f"{name}_{'id' if isinstance(model, str) else 'config'}.py").write_text(script(request))
    for name in [name for name, optimizer in OPTIMIZERS.items() if optimizer.on_one_gpu]:
        for trainer in (None, "transformers") if OPTIMIZERS[name].projects else (None,):
            named = "all-linear" if name == "galore_adamw" else ["q_proj", "mlp"]
            method = {"name": "lora" if name == "lorafa" else "full"}
            request = body(method, trainer=trainer, **optimizing(name, named))
            (tmp_path / f"{name}_{trainer}.py").write_text(script(request))
    (tmp_path / "released.py").write_text(script(body({"name": "full"}, optimizer_in_bwd=True)))
    check_with_ruff(tmp_path)


def test_a_script_needs_no_other_file(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(script(body({"name": "prompt"})))
    command = [sys.executable, str(file), "--steps", "1", "--text", __file__]
    alone = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert alone.returncode == 0, alone.stderr
    assert "step 1: loss" in alone.stdout


def test_values_of_a_config_cannot_change_the_code_of_a_script(tmp_path):
    hostile = {**LLAMA, "note": "'''\"\"\"\nimport os\n", "nested": {"true": True, "none": None, "list": [1.5, "a\\"]}}
    file = tmp_path / "train.py"
    file.write_text(script(body({"name": "lora"}, hostile)))
    assert runpy.run_path(str(file))["CONFIG"] == hostile


def test_the_script_inserts_adapters_where_the_estimate_has_them():
    assert (exported_bottleneck.ATTENTION, exported_bottleneck.MLP) == (bottleneck.ATTENTION, bottleneck.MLP)
    assert {
        name: getattr(torch.nn, cls) for name, cls in exported_bottleneck.ACTIVATIONS.items()
    } == bottleneck.ACTIVATIONS


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"model": {"parameters": 10**9}, "method": {"name": "full"}, "accounting": "textbook"}, "model.parameters"),
        ({"accounting": "textbook"}, "accounting"),
    ],
)
def test_a_run_that_cannot_be_trained_is_refused(change, loc):
    with pytest.raises(PlanError) as refused:
        script({**body({"name": "lora"}), **change})
    assert refused.value.problems[0].loc == loc


def test_a_length_that_was_cut_to_the_models_positions_is_the_scripts():
    assert "SEQUENCE_LENGTH = 1024\n" in script({"model": "gpt2", "method": {"name": "lora"}})
