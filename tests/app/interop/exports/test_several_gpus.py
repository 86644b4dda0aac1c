"""Files of several GPUs: the script runs in two processes, and accelerate, DeepSpeed and the tools read the others."""

import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser

from app.__main__ import main
from app.interop.exports import export
from app.interop.exports.several_gpus import deepspeed_config
from calculator.estimation.request import parse_request
from tests.app.interop.exports.scripts import LOW_RANK
from tests.app.interop.exports.test_tools import AXOLOTL, LLAMA_FACTORY
from tests.paths import ROOT
from tests.tiny_models import LLAMA

LORA = {"name": "lora", **LOW_RANK}
ZERO = {"zero_optimization": {"reduce_bucket_size": "auto", "overlap_comm": True}}


def request(sharding, method=None, model=None, **training):
    if sharding.startswith("zero"):
        training = {"autocast": "bfloat16", **training}
    return parse_request(
        {
            "model": model or {"config": LLAMA},
            "method": method or {"name": "full"},
            "training": {"sequence_length": 32, **training},
            "device": {"count": 2, "sharding": sharding},
        }
    )


def others(exported):
    return {file.filename: file.content for file in exported.additional_files}


@pytest.mark.trace
def test_two_processes_train_with_the_script_and_the_configuration_of_fsdp(tmp_path):
    exported = export(request("fsdp", LORA, autocast="bfloat16", gradient_accumulation_steps=2), "peft")
    for name, content in {exported.filename: exported.content, **others(exported)}.items():
        (tmp_path / name).write_text(content)
    command = [sys.executable, "tests/app/interop/exports/two_processes.py", str(tmp_path), "--steps", "2"]
    saved = tmp_path / "saved"
    ran = subprocess.run(
        [*command, "--output", str(saved)], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert re.findall(r"step (\d): loss \d+\.\d+", ran.stdout) == ["1", "2"]
    assert "trained parameters: 8,960 (estimated: 8,960)" in ran.stdout
    assert (saved / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("sharding", ["fsdp", "zero3"])
def test_a_trainer_reads_deepspeeds_file_under_zero_only_and_saves_whole_adapters(sharding):
    script = export(request(sharding, {"name": "adapter"}, trainer="transformers"), "peft").content
    assert ("deepspeed.json" in script.partition("def arguments")[2]) is (sharding == "zero3")
    assert "trainer.accelerator.get_state_dict(trainer.model_wrapped)" in script


def test_accelerate_knows_every_key_of_its_configuration():
    options = {action.dest for action in launch_command_parser()._actions}
    for sharding in ("fsdp", "zero2"):
        config = yaml.safe_load(others(export(request(sharding), "peft"))["accelerate.yaml"])
        assert set(config) <= {field.name for field in fields(ClusterConfig)}
        nested = config.get("fsdp_config") or config["deepspeed_config"]
        assert set(nested) <= options
        assert config["num_processes"] == 2


@pytest.mark.parametrize("broadcasts", [True, False])
def test_weights_are_broadcast_under_fsdp_if_the_plan_is(broadcasts):
    plan = request("fsdp", fsdp_config={"cpu_ram_efficient_loading": broadcasts})
    config = yaml.safe_load(others(export(plan, "peft"))["accelerate.yaml"])
    assert config["fsdp_config"]["fsdp_cpu_ram_efficient_loading"] is broadcasts


def test_a_script_for_zero_3_builds_the_model_under_zero_init():
    exported = export(request("zero3", LORA, deepspeed={"zero3_init_flag": True}), "peft")
    script, files = exported.content, others(exported)
    assert script.index("Accelerator(") < script.index("= load(")
    assert ".to(DEVICE)" not in script.partition("def load")[2].partition("def prepared")[0]
    assert "ds_numel" in script  # a partitioned parameter has no elements of its own
    assert yaml.safe_load(files["accelerate.yaml"])["deepspeed_config"]["zero3_init_flag"] is True
    zero = json.loads(files["deepspeed.json"])["zero_optimization"]
    assert zero["stage3_gather_16bit_weights_on_model_save"] is True
    of_trainer = export(request("zero3", trainer="transformers"), "peft").content
    assert of_trainer.index("settings = arguments(args)") < of_trainer.index("= load(")


def test_a_4_bit_model_is_loaded_before_zero_3_is_known():
    exported = export(request("zero3", {"name": "qlora", **LOW_RANK}), "peft")
    assert exported.content.index("= load(") < exported.content.index("Accelerator()")
    config = yaml.safe_load(others(exported)["accelerate.yaml"])["deepspeed_config"]
    assert config["zero3_init_flag"] is False


def test_a_model_that_is_loaded_whole_is_loaded_before_zero_3_is_known():
    whole = request("zero3", LORA, trainer="transformers", deepspeed={"zero3_init_flag": False})
    exported = export(whole, "peft")
    assert exported.content.index("= load(") < exported.content.index("arguments(args),")
    assert yaml.safe_load(others(exported)["accelerate.yaml"])["deepspeed_config"]["zero3_init_flag"] is False
    for tool in ("axolotl", "llama-factory"):
        assert "training.deepspeed.zero3_init_flag" in {remark.loc for remark in export(whole, tool).not_expressed}


def test_deepspeed_gets_the_plan():
    found = json.loads(others(export(request("zero1", micro_batch_size=4, deepspeed=ZERO), "peft"))["deepspeed.json"])
    assert found["zero_optimization"] == {"stage": 1, "reduce_bucket_size": "auto", "overlap_comm": True}
    assert (found["train_micro_batch_size_per_gpu"], found["train_batch_size"]) == (4, 8)
    for_trainer = deepspeed_config(request("zero1", micro_batch_size=4), has_trainer=True)
    assert {for_trainer[key] for key in found if key.startswith("train")} == {"auto"}


@pytest.mark.parametrize(
    ("sharding", "command"),
    [
        ("ddp", "torchrun --nproc_per_node 2 train.py"),
        ("fsdp", "accelerate launch --config_file accelerate.yaml train.py"),
        ("zero2", "accelerate launch --config_file accelerate.yaml train.py"),
    ],
)
def test_the_head_of_the_script_states_the_command(sharding, command):
    assert command in export(request(sharding), "peft").content.replace("\n# ", " ")


def test_files_of_several_nodes_name_the_first_one():
    body = {"model": "gpt2", "method": {"name": "full"}, "device": {"count": 8, "nodes": 2, "sharding": "fsdp"}}
    config = yaml.safe_load(others(export(parse_request(body), "peft"))["accelerate.yaml"])
    assert (config["num_machines"], config["num_processes"], config["main_process_ip"]) == (2, 8, "MAIN_NODE")
    body["device"]["sharding"] = "ddp"
    heads = {name: export(parse_request(body), name).content for name in ("peft", "axolotl", "llama-factory")}
    assert "--nnodes 2 --rdzv_backend c10d --rdzv_endpoint MAIN_NODE:29500" in heads["peft"].replace("\n# ", " ")
    assert "--nproc_per_node=4" in heads["axolotl"].replace("\n# ", " ")
    assert "NNODES=2 NODE_RANK=0 MASTER_ADDR=MAIN_NODE NPROC_PER_NODE=4" in heads["llama-factory"].replace("\n# ", " ")


@pytest.mark.parametrize("sharding", ["ddp", "fsdp", "zero2"])
def test_the_tools_files_have_keys_that_they_document(sharding):
    axolotl, factory = (export(request(sharding, LORA), name) for name in ("axolotl", "llama-factory"))
    assert set(yaml.safe_load(axolotl.content)) <= AXOLOTL
    assert set(yaml.safe_load(factory.content)) <= LLAMA_FACTORY
    assert set(others(axolotl)) == ({"deepspeed.json"} if sharding == "zero2" else set())
    wanted = {"fsdp": {"accelerate.yaml"}, "zero2": {"deepspeed.json"}}
    assert set(others(factory)) == wanted.get(sharding, set())


def test_a_tool_lists_the_distribution_that_it_does_differently():
    config = {"gradient_as_bucket_view": True, "static_graph": True, "bucket_cap_mb": 5}
    plan = request("ddp", LORA, ddp=config, gradient_checkpointing=True)
    found = {name: [remark.loc for remark in export(plan, name).not_expressed] for name in ("axolotl", "llama-factory")}
    view = "training.ddp.gradient_as_bucket_view"
    assert [loc for loc in found["axolotl"] if "ddp" in loc] == [view, "training.ddp.static_graph"]
    assert [loc for loc in found["llama-factory"] if "ddp" in loc] == [view]
    assert "device.sharding" in [remark.loc for remark in export(request("fsdp", LORA), "axolotl").not_expressed]


def test_scripts_of_several_gpus_are_as_formatters_and_linters_leave_them(tmp_path):
    plans = [request("ddp", LORA, ddp={"bucket_cap_mb": 9}), request("fsdp", {"name": "adapter"}, padding=True)]
    plans += [request("fsdp", {"name": "qlora", **LOW_RANK}, gradient_accumulation_steps=2, max_grad_norm=None)]
    plans += [request("fsdp", {"name": "qlora"}, model="meta-llama/Llama-3.1-8B", autocast="bfloat16")]
    plans += [request("fsdp", {"name": "prompt"}), request("fsdp", {"name": "prefix"})]
    plans += [request("zero3", LORA), request("zero3", trainer="transformers"), request("zero3", {"name": "qlora"})]
    plans += [request("zero2", trainer="transformers"), request("ddp", LORA, autocast="bfloat16")]
    for number, plan in enumerate(plans):
        (tmp_path / f"script_{number}.py").write_text(export(plan, "peft").content)
    for check in (("format", "--check"), ("check", "--select", "E,F,I,B")):
        command = [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length", "120", str(tmp_path)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


def test_the_page_links_to_the_additional_files_and_the_command_line_writes_them(client, tmp_path):
    page = client.get("/?method=full&count=2&sharding=fsdp&model=openai-community/gpt2").text
    link = re.search(r'href="(/export/peft/accelerate.yaml[^"]*)"', page)[1].replace("&amp;", "&")
    assert yaml.safe_load(client.get(link).text)["distributed_type"] == "FSDP"
    assert client.get(link.replace("accelerate.yaml", "other.yaml")).status_code == 404
    plan = ["--model", "gpt2", "--method", "full", "--count", "2", "--sharding", "fsdp"]
    main(["export", *plan, "--output", str(tmp_path / "train.py")])
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "accelerate.yaml"}
