"""Files that distribute a run over several GPUs import with their sharding, and no key of it is left unread."""

import json

import pytest
import yaml

from app.interop.exports import export
from app.interop.imports import read
from app.interop.imports.zero_config import KNOWN_FILES
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

AXOLOTL = "base_model: gpt2\nadapter: lora\nlora_target_linear: true\nlora_mlp_kernel: false\nbf16: true\n"
FACTORY = "model_name_or_path: gpt2\nstage: pt\nbf16: true\n"
TRL = "trl sft --model_name_or_path gpt2 --gradient_checkpointing_kwargs.use_reentrant false "

FSDP2 = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_cpu_ram_efficient_loading: true
  fsdp_offload_params: true
  fsdp_reshard_after_forward: false
  fsdp_state_dict_type: FULL_STATE_DICT
mixed_precision: bf16
num_machines: 1
num_processes: 4
"""


def test_a_model_that_is_loaded_before_zero_3_is_read_from_a_file_of_accelerate():
    config = {"distributed_type": "DEEPSPEED", "num_processes": 4, "mixed_precision": "bf16"}
    config["deepspeed_config"] = {"zero_stage": 3, "zero3_init_flag": False}
    plan = {"model": "gpt2", "method": {"name": "lora"}}
    found = read(yaml.safe_dump(config), plan=plan)
    assert found.request["device"] == {"count": 4, "sharding": "zero3"}
    assert "deepspeed" not in found.request["training"]
    config["deepspeed_config"]["zero3_init_flag"] = True
    built = read(yaml.safe_dump(config), plan=plan).request["training"]["deepspeed"]
    assert built == {"zero3_init_flag": True}


@pytest.mark.parametrize(
    ("text", "sharding", "training"),
    [
        (AXOLOTL + "deepspeed: deepspeed_configs/zero1.json", "zero1", {"overlap_comm": True}),
        (AXOLOTL + "deepspeed: {zero_optimization: {stage: 2, reduce_bucket_size: 5e8}}", "zero2", None),
        (FACTORY + "deepspeed: examples/deepspeed/ds_z2_config.json", "zero2", {"round_robin_gradients": True}),
        (TRL + "--accelerate_config zero3", "zero3", None),
        (AXOLOTL + "fsdp_version: 2\nfsdp_config: {reshard_after_forward: false}", "fsdp", None),
        (FACTORY + "fsdp: full_shard auto_wrap offload", "fsdp", None),
        (AXOLOTL + "fsdp: [full_shard, auto_wrap]", "fsdp", None),
        (TRL + "--num_processes 4 --ddp_bucket_cap_mb 10", "ddp", None),
    ],
    ids=str,
)
def test_a_file_imports_with_its_sharding(text, sharding, training):
    found = read(text)
    assert found.request["device"]["sharding"] == sharding
    assert found.request["device"]["count"] >= 2
    zero = found.request["training"].get("deepspeed", {}).get("zero_optimization", {})
    assert (training or {}).items() <= zero.items()
    parse_request(found.request)


def test_an_accelerate_file_sets_the_plan_of_the_page():
    plan = {"model": "gpt2", "method": {"name": "lora"}, "training": {"micro_batch_size": 3, "ddp": {}}}
    found = read(FSDP2, plan=plan)
    assert found.format == "accelerate"
    assert found.request["method"] == {"name": "lora"}
    assert found.request["device"] == {"count": 4, "sharding": "fsdp"}
    training = found.request["training"]
    settings = {"reshard_after_forward": False, "cpu_offload": True}
    assert training["fsdp_config"] == settings | {"cpu_ram_efficient_loading": True}
    assert (training["autocast"], training["micro_batch_size"], "ddp" in training) == ("bfloat16", 3, False)
    assert (found.not_understood, found.warnings) == ((), ())
    others = read(FSDP2.replace("loading: true", "loading: false"), plan=plan)
    assert others.request["training"]["fsdp_config"] == settings


def test_accelerate_alone_broadcasts_weights_unless_a_file_sets_it():
    of_accelerate = read(FSDP2.replace("  fsdp_cpu_ram_efficient_loading: true\n", ""), model="gpt2")
    assert of_accelerate.request["training"]["fsdp_config"]["cpu_ram_efficient_loading"] is True
    assert read(TRL + "--accelerate_config fsdp2").request["training"]["fsdp_config"]["cpu_ram_efficient_loading"]
    axolotl = read(AXOLOTL + "fsdp_version: 2\nfsdp_config: {reshard_after_forward: false}")
    assert axolotl.request["training"]["fsdp_config"] == {"reshard_after_forward": False}


def test_machines_are_nodes_if_they_divide_the_gpus():
    two = FSDP2.replace("num_machines: 1", "num_machines: 2")
    assert read(two, model="gpt2").request["device"]["nodes"] == 2
    three = read(two.replace("num_machines: 2", "num_machines: 3"), model="gpt2")
    assert "nodes" not in three.request["device"]
    assert "num_machines" in {remark.key for remark in three.not_understood}


def test_a_file_without_a_model_needs_one():
    with pytest.raises(PlanError) as refused:
        read(FSDP2)
    assert refused.value.problems[0].loc == "model"


def test_deepspeeds_file_states_sizes_and_what_is_not_modeled():
    config = {
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "optimizer": {"type": "Lamb"},
        "zero_optimization": {
            "stage": 3,
            "offload_param": {"device": "nvme", "nvme_path": "/x"},
            "max_live_parameters": 1e9,
            "zero_hpz_partition_size": 8,
        },
    }
    found = read(json.dumps(config), model="gpt2")
    assert found.format == "deepspeed"
    assert found.request["device"] == {"count": 4, "sharding": "zero3"}
    training = found.request["training"]
    assert [training[name] for name in ("micro_batch_size", "gradient_accumulation_steps", "max_grad_norm")] == [
        2,
        4,
        0.5,
    ]
    offload = {"offload_param": {"device": "cpu"}}
    assert training["deepspeed"]["zero_optimization"] == offload | {"stage3_max_live_parameters": 10**9}
    listed = {remark.key for remark in found.not_understood}
    zero = "deepspeed.zero_optimization"
    assert listed == {"method", "deepspeed.optimizer", f"{zero}.zero_hpz_partition_size"}
    assert f"{zero}.offload_param.nvme_path" in found.without_effect


@pytest.mark.parametrize("name", KNOWN_FILES)
def test_files_of_a_tool_are_read_completely(name):
    found = read(AXOLOTL + f"deepspeed: some/folder/{name}.json")
    keys = [remark.key for remark in found.not_understood if remark.key.startswith("deepspeed")]
    assert keys == (["deepspeed.zero_optimization.stage"] if name == "ds_z0_config" else [])


def test_settings_that_are_not_modeled_are_a_warning():
    (unknown,) = read(AXOLOTL + "deepspeed: mine.json").warnings
    assert "Replace its name by the content of that file" in unknown
    (older,) = read(AXOLOTL + "fsdp_config: {fsdp_sharding_strategy: FULL_SHARD}").warnings
    assert "fsdp_version: 1" in older
    hybrid = read(FACTORY + "fsdp: hybrid_shard").warnings
    assert "HYBRID_SHARD" in hybrid[0]


def test_files_with_fsdp_keep_their_trainer():
    found = read(FACTORY + "fsdp: true\nenable_liger_kernel: true\ncutoff_len: 128")
    training = found.request["training"]
    assert (training["trainer"], training["use_liger_kernel"]) == ("transformers", True)
    assert training["gradient_checkpointing_kwargs"] == {"use_reentrant": True}
    listed = {remark.key for remark in found.not_understood}
    assert not {"trainer", "use_liger_kernel"} & listed
    assert estimate(parse_request(found.request)).memory.peak_allocated_bytes


def test_a_reward_model_under_fsdp_keeps_its_trainer():
    found = read(FACTORY.replace("stage: pt", "stage: rm") + "fsdp: true")
    assert found.request["training"]["trainer"] == "trl-reward"
    assert "stage" not in {remark.key for remark in found.not_understood}


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
@pytest.mark.parametrize("sharding", ["ddp", "zero2"])
def test_an_exported_file_imports_as_the_same_distribution(tool, sharding):
    body = {
        "model": "gpt2",
        "method": {"name": "full"},
        "training": {"trainer": "transformers", "autocast": "bfloat16"},
        "device": {"count": 2, "sharding": sharding},
    }
    if sharding == "zero2":
        body["training"]["deepspeed"] = {"zero_optimization": {"round_robin_gradients": True}}
    exported = export(parse_request(body), tool)
    content = yaml.safe_load(exported.content) | {"num_processes": 2}
    for file in exported.additional_files:
        content["deepspeed"] = json.loads(file.content)
    found = read(content).request
    assert found["device"] == body["device"]
    assert found["training"].get("deepspeed") == body["training"].get("deepspeed")


def test_the_page_keeps_the_plan_that_a_file_distributes(client):
    typed = {"content": FSDP2.replace("true\n  fsdp_resh", "false\n  fsdp_resh"), "method": "lora", "model": "gpt2"}
    page = client.post("/import", data=typed, follow_redirects=True).text
    assert "The model, the method and the other settings stay as they were" in page
    assert 'id="method-lora"' in page
    assert "all_gather" in page


@pytest.mark.parametrize(
    ("params", "optimizer"),
    [({"torch_adam": True}, "adamw_torch"), ({}, "adamw_torch_fused")],
)
def test_the_optimizer_that_deepspeed_creates_replaces_the_plans(params, optimizer):
    config = {"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW", "params": params}}
    plan = {"model": "gpt2", "method": {"name": "full"}, "training": {"autocast": "bfloat16", "optimizer": "sgd"}}
    training = read(json.dumps(config), plan=plan).request["training"]
    assert (training["optimizer"], training["autocast"]) == (optimizer, "bfloat16")


def test_a_deepspeed_file_without_a_plan_trains_in_bfloat16():
    found = read('{"zero_optimization": {"stage": 1}, "bf16": {"enabled": "auto"}}', model="gpt2")
    assert found.request["training"]["autocast"] == "bfloat16"
    assert "bf16.enabled" in {remark.key for remark in found.not_understood}
    estimate(parse_request(found.request))


@pytest.mark.parametrize(("dtype", "autocast"), [("bfloat16", "bfloat16"), ("float32", None)])
def test_a_deepspeed_file_that_leaves_the_precision_to_the_trainer_gets_it_from_the_plans_weights(dtype, autocast):
    plan = {"model": "gpt2", "method": {"name": "lora"}, "training": {"dtype": dtype}}
    found = read('{"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}}', plan=plan)
    assert found.request["training"].get("autocast") == autocast
    estimate(parse_request(found.request))


def test_older_flags_and_a_disk_are_read_as_offloading():
    zero = {"stage": 2, "cpu_offload": True}
    found = read(json.dumps({"zero_optimization": zero}), model="gpt2").request["training"]["deepspeed"]
    assert found == {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    zero = {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/disk", "buffer_count": 5}}
    found = read(json.dumps({"zero_optimization": zero}), model="gpt2")
    assert found.request["training"]["deepspeed"]["zero_optimization"] == {"offload_param": {"device": "cpu"}}
    assert "nvme" in found.warnings[0]


def test_a_feature_of_deepspeed_that_is_not_modeled_is_warned_about():
    config = {"zero_optimization": {"stage": 1}, "tensor_parallel": {"autotp_size": 4}, "flat": {"enabled": False}}
    found = read(json.dumps(config), model="gpt2")
    assert "deepspeed.tensor_parallel" in found.warnings[0]
    assert "deepspeed.flat" in found.without_effect


WRAPPED = "fsdp_version: 2\nfsdp_config: {transformer_layer_cls_to_wrap: NAMES}"


def test_the_classes_of_units_are_read_if_their_units_are_modeled():
    found = read(AXOLOTL + WRAPPED.replace("NAMES", "GPT2Block"))
    assert found.request["training"]["fsdp_config"] == {"transformer_layer_cls_to_wrap": ["GPT2Block"]}
    other = read(AXOLOTL + WRAPPED.replace("NAMES", "GPT2MLP"))
    assert "fsdp_config" not in other.request["training"]
    assert "fsdp_config.transformer_layer_cls_to_wrap" in {remark.key for remark in other.not_understood}


def test_the_classes_of_units_survive_export_and_import():
    training = {"autocast": "bfloat16", "fsdp_config": {"transformer_layer_cls_to_wrap": ["GPT2Block"]}}
    request = {"model": "gpt2", "method": {"name": "lora"}, "training": training}
    request["device"] = {"count": 2, "sharding": "fsdp"}
    files = {file.filename: file.content for file in export(parse_request(request), "peft").additional_files}
    (config,) = [text for text in files.values() if "fsdp_transformer_layer_cls_to_wrap: GPT2Block" in text]
    again = read(config, plan={"model": "gpt2", "method": {"name": "lora"}}).request["training"]["fsdp_config"]
    assert again["transformer_layer_cls_to_wrap"] == ["GPT2Block"]


@pytest.mark.parametrize(
    "text",
    [
        AXOLOTL + "fsdp_version: 2\nfsdp_config: {reshard_after_forward: true}\ndp_shard_size: 4",
        AXOLOTL + "use_ray: true\nray_num_workers: 4",
        FACTORY + "ray_num_workers: 4",
    ],
)
def test_the_number_of_gpus_is_read_from_the_keys_of_a_tool(text):
    found = read(text)
    assert found.request["device"]["count"] == 4
    assert found.warnings == ()
    assert "num_processes" not in {remark.key for remark in found.not_understood}


def test_names_of_a_language_model_are_those_of_a_text_model():
    text = "base_model: Qwen/Qwen3.5-0.8B\nunfrozen_parameters: [model.language_model.*]\nbf16: true"
    assert read(text).request["method"]["unfrozen_parameters"] == ["model.*"]


@pytest.mark.parametrize(("file", "sharding"), [("deepspeed_zero3", "zero3"), ("fsdp2", "fsdp"), ("multi_gpu", "ddp")])
def test_configurations_of_trls_examples_are_read_by_their_names(file, sharding):
    command = f"accelerate launch --config_file examples/accelerate_configs/{file}.yaml examples/scripts/sft.py"
    found = read(f"{command} --model_name_or_path Qwen/Qwen2.5-0.5B --use_peft")
    assert found.request["device"] == {"count": 8, "sharding": sharding}
    assert not found.warnings
    fewer = read(f"{command.replace('launch', 'launch --num_processes 2')} --model_name_or_path Qwen/Qwen2.5-0.5B")
    assert fewer.request["device"]["count"] == 2


def test_another_configuration_of_accelerate_is_warned_about():
    command = "accelerate launch --config_file my/{} examples/scripts/sft.py --model_name_or_path Qwen/Qwen2.5-0.5B"
    for name in ("zero3.yaml", "accelerate_configs/alst_ulysses_4gpu.yaml"):
        (warning,) = read(command.format(name)).warnings
        assert "config_file" in warning


def test_torchrun_counts_the_processes_of_a_node():
    command = "torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d examples/scripts/sft.py"
    found = read(f"{command} --model_name_or_path Qwen/Qwen2.5-0.5B")
    assert found.request["device"] == {"count": 8, "sharding": "ddp", "nodes": 2}
    assert "rdzv_backend" in found.without_effect


def test_the_functions_of_rewards_have_no_effect():
    found = read("trl grpo --model_name_or_path Qwen/Qwen2.5-0.5B --reward_funcs accuracy_reward")
    assert "reward_funcs" in found.without_effect
