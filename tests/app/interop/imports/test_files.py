"""Files of other tools get the tools' own defaults, what a request cannot express is listed, and nothing is run."""

import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.interop.imports import FORMATS, read
from app.interop.imports.text import LONGEST
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

LLAMA = "meta-llama/Llama-3.1-8B"
QUIET = "lora_mlp_kernel: false\nlora_target_linear: true\n"


def axolotl(text):
    return read(f"base_model: {LLAMA}\n{text}")


def llama_factory(text):
    return read(f"model_name_or_path: {LLAMA}\n{text}")


def missed(found):
    return {remark.key: remark.value for remark in found.not_understood}


def refused(content, **options):
    with pytest.raises(PlanError) as raised:
        read(content, **options)
    return raised.value.problems[0]


def test_missing_keys_get_axolotls_defaults():
    found = axolotl("")
    training = found.request["training"]
    assert found.request["method"] == {"name": "full"}
    assert (training["sequence_length"], training["optimizer"]) == (512, "adamw_torch_fused")
    assert (training["dtype"], training["autocast"]) == ("bfloat16", "bfloat16")
    assert list(missed(found)) == ["adapter"]


def test_missing_keys_get_llama_factorys_defaults():
    found = llama_factory("")
    method, training = found.request["method"], found.request["training"]
    assert (method["name"], method["r"], method["lora_alpha"]) == ("lora", 8, 16)
    assert method["target_modules"] == "all-linear"
    assert (training["micro_batch_size"], training["gradient_checkpointing"]) == (8, True)
    assert (training["sequence_length"], training["padding"]) == (2048, True)
    assert training["gradient_checkpointing_kwargs"] == {"use_reentrant": True}
    assert (training["trainer"], found.tool, missed(found)) == ("transformers", "llama-factory", {})


@pytest.mark.parametrize(
    ("text", "dtypes"),
    [
        ("bf16: true", ("bfloat16", "bfloat16")),
        ("bf16: auto\nfp16: true", ("float16", "float16")),
        ("bf16: auto\nfp16:", ("bfloat16", "bfloat16")),
        ("bfloat16: true\nbf16: false", ("bfloat16", "bfloat16")),
        ("float16: true\nbf16: false", ("float16", None)),
        ("bf16: false", ("float32", None)),
    ],
)
def test_axolotls_precisions(text, dtypes):
    training = axolotl(text).request["training"]
    assert (training["dtype"], training["autocast"]) == dtypes


@pytest.mark.parametrize(
    ("text", "dtypes"),
    [
        ("pure_bf16: true", ("bfloat16", None)),
        ("bf16: true", ("bfloat16", "bfloat16")),
        ("fp16: true", ("float16", "float16")),
        ("finetuning_type: full\nbf16: true", ("float32", "bfloat16")),
        ("finetuning_type: full\npure_bf16: true", ("bfloat16", None)),
        ("finetuning_type: full", ("float32", None)),
    ],
)
def test_llama_factorys_precisions(text, dtypes):
    training = llama_factory(text).request["training"]
    assert (training["dtype"], training["autocast"]) == dtypes


def test_axolotl_pads_rows_to_a_multiple_of_64():
    lengths = axolotl("sequence_len: 1000\npad_to_sequence_len: true").request["training"]
    assert (lengths["sequence_length"], lengths["padding"]) == (1024, True)


def test_older_flags_of_attention_are_read():
    assert axolotl("flash_attention: true").request["training"]["attention"] == "flash_attention_2"
    assert axolotl("sdp_attention: true").request["training"]["attention"] == "sdpa"


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("plugins: [mine.Plugin]", {"plugins": ["mine.Plugin"]}),
        ("optimizer: muon", {"optimizer": "muon"}),
        ("attn_implementation: flex_attention", {"attn_implementation": "flex_attention"}),
        (
            "gradient_checkpointing: true\ngradient_checkpointing_kwargs: {context_fn: f}",
            {"gradient_checkpointing_kwargs": {"context_fn": "f"}},
        ),
        ("micro_batch_size: many", {"micro_batch_size": "many"}),
        ("no_such_key: 7", {"no_such_key": 7}),
        ("no_such_key: 2026-11-25", {"no_such_key": "2026-11-25"}),
        ("no_such_key: .nan", {"no_such_key": "nan"}),
        ("no_such_key: false\nother:", {}),
        ("learning_rate: 2e-4\ndatasets: [{path: a}]", {}),
    ],
)
def test_keys_that_are_not_understood_are_listed_with_their_values(text, listed):
    found = axolotl(f"adapter: lora\n{QUIET}{text}")
    assert missed(found) == listed
    assert all(remark.why for remark in found.not_understood)


def test_keys_without_effect_are_named():
    assert axolotl("learning_rate: 2e-4\nseed: 1").without_effect == ("learning_rate", "seed")


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert axolotl(f"adapter: lora\n{QUIET}lora_dropout: 5e-2").request["method"]["lora_dropout"] == 0.05
    assert axolotl("micro_batch_size: '4'").request["training"]["micro_batch_size"] == 4


def test_an_unknown_model_stays_in_its_field_with_a_solution():
    found = read("base_model: nobody/no-such-model\nadapter: lora\n" + QUIET)
    assert found.request["model"] == "nobody/no-such-model"
    assert "config.json" in found.not_understood[0].why
    assert read("base_model: nobody/no-such-model", model=LLAMA).request["model"] == LLAMA


@pytest.mark.parametrize(
    ("content", "loc", "message"),
    [
        ("adapter: lora", "format", "state which"),
        ("- a\n- b", "content", "keys with values"),
        ("", "content", "keys with values"),
        ("base_model: [", "content", "line"),
        ("base_model: a\nbase_model: b", "content", "twice"),
        ("a: &x [1]\nb: *x", "content", "aliases"),
        ("!!python/object/apply:os.system ['true']", "content", "YAML"),
        ("base_model: x\nadapter: llama-adapter", "content.adapter", "not a supported method"),
        ("model_name_or_path: x\nfinetuning_type: dora", "content.finetuning_type", "not a supported method"),
        ('{"peft_type": "SHADOW", "base_model_name_or_path": "gpt2"}', "content.peft_type", "not modeled"),
        ('{"peft_type": ["LORA"], "base_model_name_or_path": "gpt2"}', "content.peft_type", "not modeled"),
        ('{"peft_type": "LORA"}', "model", "give a catalogue id"),
        ('{"peft_type": "LORA", "peft_type": "LORA"}', "content", "twice"),
        ("base_model: gpt2\nmicro_batch_size: 0", "training.micro_batch_size", "at least 1"),
        ("a: " + "[" * 20 + "]" * 20, "content", "levels"),
        ("a: " + "[" * 5000, "content", "levels"),
        ("a: " + "9" * 5000, "content", "YAML"),
        ("x" * (LONGEST + 1), "content", "longer"),
        ("--- a\n--- b", "content", "YAML"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_place(content, loc, message):
    problem = refused(content)
    assert problem.loc == loc
    assert message in problem.msg


@pytest.mark.parametrize("unit", ["k{}: {}\n", "[", "- ", "{{}}, ", "a:\n", "1,"])
def test_every_text_is_read_in_a_short_time(unit):
    text = "a: [" if unit in ("{{}}, ", "1,") else ""
    text += "".join(unit.format(i, i) for i in range(LONGEST // 2))
    start = time.process_time()
    with pytest.raises(PlanError):
        read(text[:LONGEST])
    assert time.process_time() - start < 3


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["auto", "lora", "all"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
KEYS = {
    "axolotl": "base_model adapter load_in_4bit load_in_8bit bnb_config_kwargs lora_r lora_alpha lora_dropout "
    "lora_target_modules lora_target_linear lora_modules_to_save lora_mlp_kernel bf16 fp16 float16 micro_batch_size "
    "batch_size gradient_checkpointing gradient_checkpointing_kwargs attn_implementation flash_attention optimizer "
    "max_grad_norm sequence_len sample_packing pad_to_sequence_len pad_to_multiple_of",
    "llama-factory": "model_name_or_path finetuning_type quantization_bit quantization_type "
    "double_quantization upcast_layernorm lora_rank lora_alpha lora_target additional_target bf16 pure_bf16 flash_attn "
    "disable_gradient_checkpointing use_reentrant_gc per_device_train_batch_size optim max_grad_norm stage packing "
    "cutoff_len",
    "peft": "base_model_name_or_path peft_type r lora_alpha lora_dropout target_modules bias modules_to_save use_dora "
    "num_virtual_tokens prefix_projection encoder_hidden_size rank_pattern",
    "torchtune": "model tokenizer dataset optimizer loss batch_size dtype enable_activation_checkpointing compile "
    "clip_grad_norm optimizer_in_bwd gradient_accumulation_steps checkpointer",
    "trl": "model_name_or_path dtype torch_dtype attn_implementation use_peft load_in_4bit lora_r lora_target_modules "
    "bnb_4bit_quant_type use_bnb_nested_quant bf16 fp16 gradient_checkpointing gradient_checkpointing_kwargs "
    "max_length packing packing_strategy padding_free loss_type use_liger_kernel optim "
    "torch_empty_cache_steps completion_tokens",
    "script": "model_name model dtype load_in_4bit full_finetuning r target_modules bias "
    "max_seq_length use_gradient_checkpointing bnb_4bit_compute_dtype per_device_train_batch_size optim packing",
    "accelerate": "compute_environment distributed_type mixed_precision num_processes fsdp_config deepspeed_config "
    "gradient_clipping",
    "deepspeed": "zero_optimization train_batch_size train_micro_batch_size_per_gpu gradient_clipping bf16 optimizer "
    "compile",
}

#: Keys of several GPUs, which most formats have.
SHARDING = "deepspeed fsdp fsdp_config fsdp_version num_processes ddp_bucket_cap_mb use_fsdp accelerate_config"


#: Older names of keys, which say nothing more where the newer one has the same value.
OLDER = {"torch_dtype": "dtype", "max_seq_length": "max_length", "model": "model_name"}


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("name", FORMATS)
def test_every_file_is_a_request_or_refused(name, data):
    keys = f"{KEYS[name]} {SHARDING}".split()
    content = data.draw(st.dictionaries(st.sampled_from(keys), VALUES, max_size=8))
    content |= data.draw(st.sampled_from([{}, {"peft_type": "LORA"}, {"adapter": "qlora"}]))
    try:
        found = read(yaml.safe_dump(content), name, LLAMA)
    except PlanError as error:
        found, problems = None, error.problems
    if found is None:
        assert [problem for problem in problems if not (problem.loc and problem.msg)] == []
        return
    parse_request(found.request)
    named = {*(part for remark in found.not_understood for part in remark.key.split(".")), *found.without_effect}
    named |= {key for key in content if any(f"{key}: " in warning for warning in found.warnings)}
    unread = {key for key, value in content.items() if isinstance(value, dict) and any(value.values())}
    unread -= {key for key in unread if found.request["method"].get(key) == content[key]}
    unread -= {key for key in unread if key in OLDER and content[key] == content.get(OLDER[key])}
    assert unread <= named | {key for key in unread if "lora_*_kernel" in named and key.endswith("_kernel")}


def test_galore_and_apollo_are_read_from_llama_factorys_keys():
    linear = sorted(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    training = llama_factory("finetuning_type: full\nuse_galore: true\ngalore_rank: 8").request["training"]
    assert (training["optimizer"], training["optim_target_modules"]) == ("galore_adamw", linear)
    assert training["optim_args"] == "rank=8, update_proj_gap=200, scale=2.0, proj_type=std"
    training = llama_factory("finetuning_type: full\nuse_apollo: true\napollo_target: q_proj").request["training"]
    assert (training["optimizer"], training["optim_target_modules"]) == ("apollo_adamw", ["q_proj"])
    assert training["optim_args"].endswith("scale=32.0, proj_type=std, proj=random, scale_type=channel")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("use_galore: true\ngalore_layerwise: true", "galore_adamw_layerwise"),
        ("use_galore: true\ngalore_layerwise: true\noptim: adamw_8bit", "galore_adamw_8bit_layerwise"),
        ("use_apollo: true\napollo_layerwise: true", "apollo_adamw_layerwise"),
        ("optim: lomo", "lomo"),
    ],
)
def test_optimizers_that_step_in_the_backward_pass_are_read(keys, expected):
    found = llama_factory(f"finetuning_type: full\ngradient_accumulation_steps: 1\n{keys}").request
    assert found["training"]["optimizer"] == expected


def test_the_options_of_projections_are_read_from_axolotls_keys():
    found = axolotl("optimizer: galore_adamw\noptim_target_modules: all_linear\noptim_args: {rank: 8}")
    training = found.request["training"]
    assert (training["optimizer"], training["optim_target_modules"]) == ("galore_adamw", "all-linear")
    assert training["optim_args"] == "rank=8"
    assert parse_request(found.request).training.optim_args == "rank=8"


def test_oft_of_llama_factory_names_its_modules_by_lora_target():
    found = llama_factory("finetuning_type: oft\noft_target: q_proj\noft_block_size: 16\nquantization_bit: 4\n")
    method = found.request["method"]
    assert (method["name"], method["oft_block_size"], method["target_modules"]) == ("oft", 16, "all-linear")
    assert list(missed(found)) == ["quantization_bit"]
    assert "oft_target" in found.without_effect
    named = llama_factory("finetuning_type: oft\nlora_target: q_proj,v_proj\nmodule_dropout: 0.1\n")
    assert named.request["method"]["target_modules"] == ["q_proj", "v_proj"]
    assert list(missed(named)) == ["module_dropout"]


def test_a_file_of_llama_factorys_v1_is_refused_by_name():
    file = "model: Qwen/Qwen3-4B\nmodel_class: llm\npeft_config:\n  name: lora\ncutoff_len: 2048\n"
    with pytest.raises(PlanError, match="LLaMA-Factory's v1, whose own training loop is not modeled"):
        read(file)


@pytest.mark.parametrize("key", ["use_muon", "use_adam_mini"])
def test_an_optimizer_of_llama_factory_alone_is_warned_about(key):
    found = llama_factory(f"finetuning_type: full\n{key}: true")
    assert found.request["training"]["optimizer"] == "adamw_torch_fused"
    assert not found.not_understood
    assert f"{key}: true" in found.warnings[0]
    assert "one with adamw_torch_fused" in found.warnings[0]


@pytest.mark.parametrize(
    ("text", "checkpointing", "reentrant"),
    [
        ("use_reentrant_gc: false", True, False),
        ("gradient_checkpointing: true\nuse_reentrant_gc: false", True, True),
        ("gradient_checkpointing: true\ngradient_checkpointing_kwargs: {use_reentrant: false}", True, False),
        ("gradient_checkpointing: false\ngradient_checkpointing_kwargs: {use_reentrant: false}", True, True),
        ("disable_gradient_checkpointing: true", False, None),
        ("disable_gradient_checkpointing: true\ngradient_checkpointing: true", True, None),
    ],
)
def test_trainer_enables_llama_factorys_checkpointing_again(text, checkpointing, reentrant):
    found = llama_factory(text)
    training = found.request["training"]
    assert training["gradient_checkpointing"] is checkpointing
    assert training.get("gradient_checkpointing_kwargs", {}).get("use_reentrant") is reentrant
    assert not {"gradient_checkpointing", "gradient_checkpointing_kwargs"} & set(missed(found))


def test_frozen_layers_of_an_unknown_model_are_refused_with_its_name():
    problem = refused("model_name_or_path: models/llama3-8b-pro\nfinetuning_type: freeze\n")
    assert problem.loc == "content.finetuning_type"
    assert "'models/llama3-8b-pro' is not in the catalogue" in problem.msg
