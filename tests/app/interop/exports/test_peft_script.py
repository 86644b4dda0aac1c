"""The exported script runs: it builds the model of the figures and trains it, with any method."""

import re
import runpy
import subprocess
import sys

import bitsandbytes as bnb
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.optimization import Adafactor

from app.interop.exports import bottleneck as exported_bottleneck
from app.interop.exports import export, peft_script
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request
from calculator.resident.optimizers import OPTIMIZERS
from calculator.trainers import TRAINERS
from tests.tiny_models import GPT2, LLAMA
from validation.reference import bottleneck
from validation.reference.build import build_model
from validation.reference.module_paths import unwrapped
from validation.reference.optimizers import optimizer_for
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

LOW_RANK = {"r": 4, "target_modules": "all-linear"}
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


def body(method, config=LLAMA, **training):
    return {"model": {"config": config}, "method": method, "training": {"sequence_length": 32, **training}}


def optimizing(name, named="all-linear"):
    """The settings of an optimizer, with the modules that one of projections needs."""
    return {"optimizer": name, **({"optim_target_modules": named} if OPTIMIZERS[name].projects else {})}


def script(request):
    return export(parse_request(request), "peft").content


def ran(request, tmp_path, monkeypatch, capsys, *options):
    """What a script of two steps prints."""
    file = tmp_path / "train.py"
    file.write_text(script(request))
    monkeypatch.setattr(sys, "argv", ["train.py", "--steps", "2", *options])
    runpy.run_path(str(file), run_name="__main__")
    return capsys.readouterr().out


def trained_as_planned(printed):
    """Two steps with a loss, and the planned number of trained parameters."""
    found = re.search(r"trained parameters: ([\d,]+) \(planned: ([\d,]+)\)", printed)
    assert found[1] == found[2]
    assert re.findall(r"step (\d): loss \d+\.\d+", printed) == ["1", "2"]


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
def test_the_script_trains_as_the_settings_say(method, training, tmp_path, monkeypatch, capsys):
    trained_as_planned(ran(body(method, **training), tmp_path, monkeypatch, capsys))


@pytest.fixture
def small_model(tmp_path):
    """A folder with a small model and a tokenizer, because the catalogue's model would have to be fetched."""
    folder = tmp_path / "model"
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA), dtype=torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(WordLevel({"[UNK]": 0, "the": 1, "step": 2, "[EOS]": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]").save_pretrained(folder)
    return folder


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
    for name in [name for name, each in OPTIMIZERS.items() if each.on_one_gpu]:
        for trainer in (None, "transformers") if OPTIMIZERS[name].projects else (None,):
            named = "all-linear" if name == "galore_adamw" else ["q_proj", "mlp"]
            method = {"name": "lora" if name == "lorafa" else "full"}
            request = body(method, trainer=trainer, **optimizing(name, named))
            (tmp_path / f"{name}_{trainer}.py").write_text(script(request))
    (tmp_path / "released.py").write_text(script(body({"name": "full"}, optimizer_in_bwd=True)))
    for check in (("format", "--check"), ("check", "--select", "E,F,I,B")):
        command = [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length", "120", str(tmp_path)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


def test_a_script_needs_no_other_file(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(script(body({"name": "prompt"})))
    command = [sys.executable, str(file), "--steps", "1", "--text", __file__]
    alone = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert alone.returncode == 0, alone.stderr
    assert "step 1: loss" in alone.stdout


def test_values_cannot_leave_their_place(tmp_path):
    hostile = {**LLAMA, "note": "'''\"\"\"\nimport os\n", "nested": {"true": True, "none": None, "list": [1.5, "a\\"]}}
    file = tmp_path / "train.py"
    file.write_text(script(body({"name": "lora"}, hostile)))
    assert runpy.run_path(str(file))["CONFIG"] == hostile


@pytest.mark.parametrize(
    "name", [name for name, each in OPTIMIZERS.items() if not each.package and name not in ("muon", "lorafa")]
)
def test_the_optimizer_is_the_one_of_the_figures(name):
    trainable = [torch.nn.Parameter(torch.zeros(2, 2))]
    known = {"torch": torch, "bnb": bnb, "Adafactor": Adafactor, "trainable": trainable, "LEARNING_RATE": 1e-4}
    ours, theirs = eval(peft_script.OPTIMIZERS[name], known), optimizer_for(name, trainable)
    assert type(ours) is type(theirs)
    assert ours.defaults == theirs.defaults
    if name not in ("sgd", "adafactor", "adagrad", "rmsprop") and "torch" not in name:
        assert (vars(ours.args), ours.is_paged) == (vars(theirs.args), theirs.is_paged)


def test_the_script_of_lorafa_lists_what_is_trained_after_a_is_frozen():
    text = script(body({"name": "lora"}, LLAMA, optimizer="lorafa"))
    assert "from peft.optimizers import create_lorafa_optimizer" in text
    assert text.count("optimizer = create_lorafa_optimizer(") == 1
    assert text.index("create_lorafa_optimizer(\n") < text.index("trainable = [")
    compile(text, "train.py", "exec")


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
def test_a_file_with_lorafa_is_refused(tool):
    request = parse_request(body({"name": "lora"}, LLAMA, optimizer="lorafa"))
    with pytest.raises(PlanError, match=r"training\.optimizer: only a script makes .*: export the peft script"):
        export(request, tool)


def test_the_script_of_muon_updates_hidden_matrices_with_it(tmp_path):
    request = body({"name": "full"}, LLAMA, optimizer="muon")
    file = tmp_path / "train.py"
    file.write_text(script(request))
    made = runpy.run_path(str(file))["MuonWithAdamW"]
    model = build_model(parse_request(request)).model
    muon, adamw = made(model, lr=1e-4).both
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert type(muon) is torch.optim.Muon
    assert {names[id(each)].split(".")[-2] for group in muon.param_groups for each in group["params"]} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert len(adamw.param_groups[0]["params"]) + len(muon.param_groups[0]["params"]) == len(names)


@pytest.mark.parametrize("name", [name for name, each in OPTIMIZERS.items() if each.package])
def test_a_script_imports_the_package_of_its_optimizer(name):
    text = script(body({"name": "full"}, LLAMA, **optimizing(name)))
    module = peft_script.MODULES[OPTIMIZERS[name].package]
    assert f"\nimport {module}\n" in text
    call = "lambda group: " if OPTIMIZERS[name].layerwise else "optimizer = "
    assert f" {call}{module}." in text
    assert ("optimizer.train()" in text) == name.startswith("schedule_free")


def test_the_script_projects_the_gradients_of_the_figures(tmp_path):
    request = body({"name": "full"}, LLAMA, **optimizing("galore_adamw", ["q_proj"]), optim_args="rank=8")
    text = script(request).replace("import galore_torch\n", "")
    file = tmp_path / "train.py"
    file.write_text(text)
    model = build_model(parse_request(request)).model
    others, projected = runpy.run_path(str(file))["projected"](model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(each)].endswith("q_proj.weight") for each in projected.pop("params"))
    assert projected == {"rank": 8, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
    assert not any("q_proj" in names[id(each)] for each in others["params"])


def test_the_script_of_released_gradients_steps_in_the_backward_pass(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(script(body({"name": "full"}, LLAMA, optimizer_in_bwd=True)))
    made = runpy.run_path(str(file))["OptimizerPerParameter"]
    weight = torch.nn.Parameter(torch.ones(2, 2))
    made([{"params": [weight]}], lambda trainable: torch.optim.SGD(trainable, lr=1.0))
    weight.sum().backward()
    assert weight.grad is None
    assert torch.equal(weight, torch.zeros(2, 2))
    assert "optimizer.step()" not in file.read_text()


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_the_script_of_lomo_calls_its_backward(name):
    text = script(body({"name": "full"}, LLAMA, optimizer=name))
    assert "    optimizer.fused_backward(loss, LEARNING_RATE)\n" in text
    assert "loss.backward()" not in text


def test_adapters_go_where_the_figures_have_them():
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
def test_what_cannot_be_trained_is_refused(change, loc):
    with pytest.raises(PlanError) as refused:
        script({**body({"name": "lora"}), **change})
    assert refused.value.problems[0].loc == loc


def test_a_length_that_was_cut_to_the_models_positions_is_the_scripts():
    assert "SEQUENCE_LENGTH = 1024\n" in script({"model": "gpt2", "method": {"name": "lora"}})


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


@pytest.mark.parametrize(("trainer", "method", "training"), TRAINED_BY, ids=[each[0] for each in TRAINED_BY])
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
    written += [script(body({"name": "qlora", **LOW_RANK}, **training)) for training in (packed, drawn)]
    compared = {"trainer": "trl-dpo", "precompute_ref_log_probs": True}
    for method in ({"name": "full"}, {"name": "qlora", **LOW_RANK}):
        written.append(script({**body(method, **compared), "model": "meta-llama/Llama-3.1-8B"}))
    for trainer, method, training in ADDING[2:]:
        for kind in (method, {"name": "qlora", **LOW_RANK}) if trainer != "trl-orpo" else (method,):
            request = body(kind, trainer=trainer, **training)
            written.append(script({**request, "model": "meta-llama/Llama-3.1-8B"}))
    for number, text in enumerate(written):
        (tmp_path / f"script_{number}.py").write_text(text)
    for check in (("format", "--check"), ("check", "--select", "E,F,I,B")):
        command = [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length", "120", str(tmp_path)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


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
    ("trainer", "method", "training"), ADDING, ids=[f"{each[0]}-{each[1]['name']}" for each in ADDING]
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


def test_padding_is_listed_where_a_trainer_cannot_pad_to_a_length():
    request = {**body({"name": "full"}, trainer="trl-grpo", micro_batch_size=2, padding=True), "model": "gpt2"}
    exported = export(parse_request(request), "peft")
    assert "training.padding" in [each.loc for each in exported.not_expressed]
    assert "pad_to_multiple_of" not in exported.content


def test_a_script_of_dpo_needs_a_tokenizer_and_a_method_whose_adapters_it_knows():
    for change, loc in (({}, "model.config"), ({"model": "gpt2", "method": {"name": "ia3"}}, "method.name")):
        with pytest.raises(PlanError) as refused:
            script({**body({"name": "lora"}, trainer="trl-dpo"), **change})
        assert refused.value.problems[0].loc == loc


@pytest.mark.parametrize("trainer", [each for each in TRAINERS if each not in ("unsloth", "torchtune")])
def test_a_trainer_has_a_script_or_is_refused_by_name(trainer):
    request = body({"name": "lora", **LOW_RANK}, trainer=trainer, micro_batch_size=2)
    request["model"] = "meta-llama/Llama-3.2-1B"
    if trainer in peft_script.TRAINER_SCRIPTS:
        assert "def main" in script(request)
        return
    with pytest.raises(PlanError) as refused:
        script(request)
    assert refused.value.problems[0].loc == "training.trainer"


def test_a_script_lists_the_labelled_tokens_that_its_text_does_not_have():
    exported = export(parse_request(body({"name": "lora"}, trainer="trl-sft", completion_tokens=5)), "peft")
    assert [each.loc for each in exported.not_expressed] == ["training.completion_tokens"]


@pytest.mark.parametrize(
    ("trainer", "why"),
    [
        ("trl-sft", "computes the loss from all logits"),
        ("trl-kto", "the figures are of another run"),
        ("unsloth", "without Unsloth's patches"),
    ],
)
def test_a_file_of_axolotl_names_the_trainer_that_it_does_not_run(trainer, why):
    own = {"autocast": "bfloat16"} if trainer == "unsloth" else {}
    request = {**body({"name": "lora"}, trainer=trainer, micro_batch_size=2, **own), "model": "meta-llama/Llama-3.2-1B"}
    exported = export(parse_request(request), "axolotl")
    assert [why in each.why for each in exported.not_expressed if each.loc == "training.trainer"] == [True]
