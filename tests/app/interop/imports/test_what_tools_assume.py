"""What a tool does where its file is silent, in files and scripts of the form that the tools' own repositories have.

Provenance: axolotl at 067b021 (examples/gemma4, examples/llama-3, examples/llama-2), LLaMA-Factory at ff6d4d1
(examples/extras, examples/train_qlora), torchtune at bd2a0fc (recipes/configs), TRL at f2cd577 (examples/scripts),
PEFT at 5d602fd (examples), accelerate at 16cb6eb (examples), notebooks at bdda2ef (nb).
"""

import pytest

from app.interop.imports import read
from calculator.common.errors import PlanError


def training(text):
    return read(text).request["training"]


def listed(found):
    return {entry.key: entry.why for entry in found.not_understood}


AXOLOTL = "base_model: meta-llama/Llama-3.2-1B\ngradient_checkpointing: true\n"


@pytest.mark.parametrize(
    ("text", "reentrant"),
    [
        ("", True),
        ("rl: dpo", False),
        ("rl: kto\nmicro_batch_size: 2", False),
        ("unfrozen_parameters: [lm_head]", False),
        ("rl: dpo\ngradient_checkpointing_kwargs: {use_reentrant: true}", True),
    ],
)
def test_axolotl_checkpoints_re_entrantly_where_it_trains_every_parameter_on_texts(text, reentrant):
    assert training(AXOLOTL + text)["gradient_checkpointing_kwargs"] == {"use_reentrant": reentrant}


@pytest.mark.parametrize("options", ["", "gradient_checkpointing_kwargs: {use_reentrant: true}"])
def test_axolotl_never_checkpoints_gemma_4_re_entrantly(options):
    text = f"base_model: google/gemma-4-E2B\nadapter: lora\ngradient_checkpointing: true\n{options}"
    assert training(text)["gradient_checkpointing_kwargs"] == {"use_reentrant": False}


@pytest.mark.parametrize(
    ("text", "length", "padding"),
    [
        ("sequence_len: 1000", 1024, True),
        ("sequence_len: 1000\npad_to_sequence_len: false", 1000, False),
        ("sequence_len: 1000\nattn_implementation: flash_attention_2", 1000, False),
        ("sequence_len: 1000\nsample_packing: true\nattn_implementation: flash_attention_2", 1000, False),
    ],
)
def test_axolotl_pads_rows_to_a_multiple_of_64_unless_the_file_says_otherwise(text, length, padding):
    found = training(f"base_model: meta-llama/Llama-3.2-1B\n{text}")
    assert (found["sequence_length"], found["padding"]) == (length, padding)


def test_axolotl_reads_an_empty_bf16_as_none():
    found = training("base_model: meta-llama/Llama-3.2-1B\nbf16:\n")
    assert (found["dtype"], found["autocast"]) == ("float32", None)


@pytest.mark.parametrize(
    ("text", "fuses"),
    [
        ("adapter: qlora", True),
        ("adapter: lora\nload_in_8bit: true", False),
        ("adapter: qlora\nrl: dpo", False),
        ("adapter: qlora\ntrust_remote_code: true", False),
        ("adapter: qlora\nlora_mlp_kernel: false", False),
        ("adapter: lora\nload_in_8bit: true\nlora_mlp_kernel: true", True),
    ],
)
def test_axolotl_fuses_adapters_by_default_in_some_runs(text, fuses):
    assert ("lora_*_kernel" in listed(read(f"base_model: meta-llama/Llama-3.2-1B\n{text}"))) == fuses


FACTORY = "model_name_or_path: {}\nfinetuning_type: lora\nlora_target: all\nbf16: true\n"


def test_llama_factory_runs_gemma_2_without_sdpa():
    found = read(FACTORY.format("google/gemma-2-2b"))
    assert found.request["training"]["attention"] == "eager"
    assert "fa2 for Gemma 2" in listed(found)["flash_attn"]
    assert training(FACTORY.format("google/gemma-2-2b") + "flash_attn: fa2")["attention"] == "flash_attention_2"


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("stage: pt\ncutoff_len: 2048", 2048),
        ("stage: pt\ncutoff_len: 2048\npacking: true", 2047),
        ("stage: sft\ncutoff_len: 2048\npacking: true", 2048),
    ],
)
def test_a_file_of_llama_factory_that_sets_packing_cuts_texts_one_token_shorter(text, length):
    assert training(FACTORY.format("Qwen/Qwen3-4B") + text)["sequence_length"] == length


def test_oft_in_llama_factory_names_that_it_would_not_adapt_the_tower():
    text = "model_name_or_path: Qwen/Qwen2.5-VL-7B-Instruct\nfinetuning_type: oft\noft_target: all\nbf16: true\n"
    assert "tower has adapters" in listed(read(text))["freeze_vision_tower"]


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("me/Meta-Llama-3-8B-Instruct-GPTQ", {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}),
        ("me/Meta-Llama-3-8B-GPTQ-Int8", {"quant_method": "gptq", "bits": 8, "group_size": 128, "desc_act": False}),
    ],
)
def test_a_copy_in_gptq_has_the_usual_groups_and_lists_its_layers(name, stored):
    found = read(FACTORY.format(name))
    assert found.request["model"]["config"]["quantization_config"] == stored
    assert "q_proj" in found.request["method"]["target_modules"]
    assert "lm_head" not in found.request["method"]["target_modules"]
    assert "groups of 128 as usual" in listed(found)["model_name_or_path"]


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("me/Qwen3-4B-BF16", "Qwen/Qwen3-4B"),
        ("me/my-reward-Qwen3-4B", "Qwen/Qwen3-4B"),
        ("bigscience/bloomz-560m", "bigscience/bloom-560m"),
        ("me/tiny-gpt2", "me/tiny-gpt2"),
    ],
)
def test_a_fine_tuned_model_is_read_by_its_name_as_its_original(name, original):
    found = read(FACTORY.format(name))
    assert found.request["model"] == original
    assert "model_name_or_path" in listed(found)


@pytest.mark.parametrize(
    ("model", "dtype"),
    [("google-bert/bert-base-cased", "float32"), ("openai-community/gpt2", "float32"), ("Qwen/Qwen3-4B", "bfloat16")],
)
def test_a_script_without_a_dtype_loads_that_of_the_checkpoint(model, dtype):
    found = read(f"model = AutoModelForCausalLM.from_pretrained('{model}')\nTrainer(model=model)")
    assert found.request["training"]["dtype"] == dtype
    assert ("dtype" in listed(found)) == (dtype == "bfloat16")


def test_a_length_of_none_is_not_the_default_of_the_configuration():
    found = read("SFTTrainer(model='Qwen/Qwen3-0.6B', args=SFTConfig(max_length=None))")
    assert "rows are not cut" in listed(found)["max_length"]
    plain = read("m = AutoModelForCausalLM.from_pretrained('Qwen/Qwen3-0.6B', max_length=None)\nTrainer(model=m)")
    assert "sequence_length" not in plain.request["training"]


def test_the_length_of_a_trainers_script_is_where_its_tokenizer_cuts():
    code = """
def cut(rows):
    return tokenizer(rows["text"], truncation=True, max_length=384)
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B", dtype=torch.bfloat16)
Trainer(model=model, args=TrainingArguments(per_device_train_batch_size=2))
"""
    found = read(code)
    assert found.request["training"]["sequence_length"] == 384
    assert found.not_understood == ()


def test_adapters_that_a_script_keeps_in_the_models_dtype_are():
    code = """
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B", dtype=torch.bfloat16)
model = get_peft_model(model, LoraConfig(r=8), autocast_adapter_dtype=False)
Trainer(model=model)
"""
    assert read(code).request["training"]["adapter_dtype"] == "model"


def test_completions_whose_length_code_computes_fill_the_longest_sequence():
    code = """
max_seq_length = 2048
model, tokenizer = FastLanguageModel.from_pretrained(model_name="unsloth/Qwen3-4B", max_seq_length=max_seq_length)
model = FastLanguageModel.get_peft_model(model, r=16)
longest = int(np.quantile(dataset["L"], 0.9))
trainer = GRPOTrainer(model=model, args=GRPOConfig(max_completion_length=max_seq_length - longest))
"""
    found = read(code)
    assert found.request["training"]["sequence_length"] == 2048
    assert "1536 tokens" in listed(found)["max_completion_length"]


TORCHTUNE = """
model:
  _component_: torchtune.models.{}
  lora_attn_modules: [q_proj, v_proj]
optimizer: {{_component_: torch.optim.AdamW, fused: true}}
tokenizer: {{max_seq_len: 512}}
checkpointer: {{}}
dataset_val: {{split: "train[95%:]"}}
batch_size_val: ${{batch_size}}
"""


@pytest.mark.parametrize(
    ("builder", "model"),
    [
        ("qwen3.lora_qwen3_0_6b_instruct", "Qwen/Qwen3-0.6B"),
        ("qwen3.lora_qwen3_32b", "Qwen/Qwen3-32B"),
        ("qwen2_5.lora_qwen2_5_7b_instruct", "Qwen/Qwen2.5-7B"),
        ("gemma2.lora_gemma2_2b", "google/gemma-2-2b"),
    ],
)
def test_a_model_of_torchtune_whose_step_is_not_modeled_runs_in_the_reference_step(builder, model):
    found = read(TORCHTUNE.format(builder))
    assert found.request["model"] == model
    assert ("trainer" in found.request["training"]) == ("qwen2_5" in builder)
    assert len(found.warnings) == ("qwen2_5" not in builder)
    assert found.not_understood == ()


def test_a_phi_of_torchtune_has_separate_projections():
    found = read(TORCHTUNE.format("phi3.lora_phi3_mini"))
    assert found.request["model"]["config"]["model_type"] == "mistral"
    assert found.request["training"]["trainer"] == "torchtune"


def test_a_recipe_of_torchtune_without_an_optimizer_trains_nothing():
    text = "model: {_component_: torchtune.models.llama2.llama2_7b}\ncheckpointer: {}\nmax_new_tokens: 300\n"
    assert "generates" in read(text).warnings[0]


FLASH = "attn_implementation: flash_attention_2"
SHARDED = "fsdp_version: 2\nfsdp_config: {version: 2}"


@pytest.mark.parametrize(
    ("text", "replaced", "warning"),
    [
        (
            f"base_model: google/gemma-3-4b-pt\nadapter: qlora\nlora_target_linear: true\n{FLASH}",
            {"attention": "sdpa"},
            "attention: flash_attention_2 here (transformers refuses it for a model that reads images)",
        ),
        (
            f"base_model: meta-llama/Llama-3.2-1B\n{SHARDED}\noptimizer: adamw_torch_8bit",
            {"optimizer": "adamw_torch"},
            "optimizer: adamw_torch_8bit here (it is modeled under fsdp in the reference step, without offload)",
        ),
    ],
)
def test_a_setting_that_is_refused_is_replaced_with_a_warning(text, replaced, warning):
    found = read(text)
    assert {name: found.request["training"][name] for name in replaced} == replaced
    assert any(warning in line for line in found.warnings)


def test_float16_under_zero_is_replaced_and_groups_of_completions_that_do_not_divide_are_left_out():
    config = {"fp16": {"enabled": True}, "zero_optimization": {"stage": 2}}
    found = read(config, plan={"model": "Qwen/Qwen3-0.6B", "method": {"name": "lora"}})
    assert found.request["training"]["autocast"] == "bfloat16"
    code = "GRPOTrainer(model='Qwen/Qwen3-0.6B', args=GRPOConfig(per_device_train_batch_size=2, max_prompt_length=64))"
    grouped = read(code)
    assert "num_generations" not in grouped.request["training"]
    assert grouped.warnings == ()
    assert "no figure depends on it" in listed(grouped)["num_generations"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/bash\nexport N=4\nif [ $N: ]; then\n  echo a: b: c\nfi\n", "is a shell script without a command"),
        ("import torch\n\ndef main(a: int):\n    x = torch.zeros(3)\n", "is Python that sets up no run"),
        ("from trl.experimental.gkd import GKDTrainer\ntrainer = GKDTrainer()", "trains with GKDTrainer, which is not"),
        (
            "m = AutoModelForCausalLM.from_pretrained('gpt2')\nm = get_peft_model(m, FrodConfig())",
            "FrodConfig is not modeled: each pass sorts",
        ),
        ("x: [1, 2", "is not YAML: line 1"),
    ],
)
def test_a_program_without_a_run_that_is_read_is_named_as_such(text, message):
    with pytest.raises(PlanError) as refused:
        read(text)
    assert message in refused.value.problems[0].msg


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("m = AutoModelForCausalLM.from_pretrained(model_args.model_name_or_path)", "model_args.model_name_or_path"),
        ("SFTConfig(max_length=64)", "the code names no model"),
    ],
)
def test_code_that_states_no_model_is_refused_with_the_reason(code, message):
    with pytest.raises(PlanError) as refused:
        read(code)
    assert message in refused.value.problems[0].msg


def test_an_unmodeled_trainer_and_an_unread_adapter_are_named():
    code = """
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B", dtype="bfloat16")
BCOTrainer(model=model, peft_config=get_peft_config(model_args))
"""
    found = read(code)
    assert "the trainer BCOTrainer" in found.warnings[0]
    own = read(
        'm = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")\n'
        "SFTTrainer(model=m, peft_config=get_peft_config(args))"
    )
    assert "no adapter is assumed" in listed(own)["peft_config"]


def test_a_trainer_that_the_code_defines_itself_is_no_other_trainer():
    code = """
class Weighted(Trainer):
    pass
class WeightedTrainer(Trainer):
    pass
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B", dtype="bfloat16")
WeightedTrainer(model=model)
"""
    assert read(code).warnings == ()


def test_groups_of_gpus_and_fp8_of_accelerate_are_warnings():
    text = """
distributed_type: FSDP
num_processes: 4
mixed_precision: fp8
fp8_config: {backend: TE}
fsdp_config: {fsdp_version: 2}
parallelism_config: {parallelism_config_cp_size: 2, parallelism_config_dp_shard_size: 2}
"""
    found = read(text, plan={"model": "Qwen/Qwen3-0.6B", "method": {"name": "lora"}})
    assert found.request["training"]["autocast"] == "bfloat16"
    assert [line.split(".")[0] for line in found.warnings] == [
        "Headroom does not model cp_size: 2",
        "Headroom does not model mixed_precision: fp8",
    ]


def test_a_formatted_string_is_a_value():
    assert read('n = "0.6B"\nSFTTrainer(model=f"Qwen/Qwen3-{n}")').request["model"] == "Qwen/Qwen3-0.6B"


PEFTS = """accelerate launch --num_processes 2 train.py --model_name_or_path Qwen/Qwen3-4B --bf16 True --packing True \\
  --max_length 1024 --chat_template_format none --use_flash_attn True --use_peft_lora True --use_reentrant True \\
  --use_4bit_quantization True --bnb_4bit_compute_dtype bfloat16 --bnb_4bit_quant_storage_dtype bfloat16 --splits train
"""


def test_a_command_of_pefts_own_script_is_a_run_of_trls_sft_trainer_with_the_scripts_defaults():
    found = read(PEFTS)
    method, settings = found.request["method"], found.request["training"]
    assert (method["name"], method["r"], method["lora_alpha"], method["lora_dropout"]) == ("qlora", 64, 16, 0.1)
    assert (method["quant_storage"], len(method["target_modules"])) == ("bfloat16", 7)
    assert (settings["trainer"], settings["dtype"], settings["attention"]) == (
        "trl-sft",
        "bfloat16",
        "flash_attention_2",
    )
    assert settings["gradient_checkpointing_kwargs"] == {"use_reentrant": True}
    assert found.request["device"] == {"count": 2, "sharding": "ddp"}
    assert found.not_understood == ()
    plain = read("python train.py --model_name_or_path Qwen/Qwen3-4B --use_peft_lora True").request
    assert (plain["training"]["dtype"], plain["training"]["gradient_checkpointing"]) == ("float32", True)


def test_a_command_of_pefts_own_script_with_unsloth_is_refused():
    with pytest.raises(PlanError, match="paste a script of Unsloth"):
        read("python train.py --model_name_or_path Qwen/Qwen3-4B --use_peft_lora True --use_unsloth True")


TRL = "model_name_or_path: Qwen/Qwen2.5-0.5B\n"


@pytest.mark.parametrize(
    ("text", "trainer", "why"),
    [
        (f"# dpo_config.yaml\n{TRL}datasets:\n  - path: a/b\n", "trl-dpo", None),
        (f"# trl reward --config mine.yaml\n{TRL}dataset_name: a/b\n", "trl-reward", None),
        (f"{TRL}reward_funcs: [accuracy_reward]\n", "trl-grpo", "its keys are those of trl grpo"),
        (f"{TRL}dataset_name: a/b\n", "trl-sft", "trl sft is assumed"),
    ],
)
def test_a_configuration_of_trl_runs_the_trainer_that_its_comment_or_its_keys_name(text, trainer, why):
    found = read(text)
    assert found.request["training"]["trainer"] == trainer
    assert (why or "") in listed(found).get("trl subcommand", "")
    assert ("trl subcommand" in listed(found)) == (why is not None)


def test_a_comment_on_trl_does_not_make_a_file_of_llama_factory_one_of_trl():
    assert read(f"# as trl dpo\n{TRL}stage: sft\n").format == "llama-factory"
