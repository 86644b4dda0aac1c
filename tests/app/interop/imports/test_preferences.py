"""Files of axolotl and LLaMA-Factory that train on preferences or with rewards are read as trainers of TRL."""

import pytest

from app.interop.imports import read
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

AXOLOTL = "base_model: meta-llama/Llama-3.2-1B\nadapter: lora\nlora_target_linear: true\nmicro_batch_size: 2\n"
FACTORY = "model_name_or_path: meta-llama/Llama-3.2-1B\nfinetuning_type: lora\ncutoff_len: 512\nbf16: true\n"


def imported(text):
    found = read(text)
    request = parse_request({**found.request, "reserved": "rule"})
    assert estimate(request).memory
    return found, found.request["training"]


@pytest.mark.parametrize(
    ("text", "trainer", "settings"),
    [
        (AXOLOTL + "rl: dpo\ndpo_loss_type: [hinge]\nrl_beta: 0.2", "trl-dpo", {"loss_type": "hinge"}),
        (AXOLOTL + "rl: ipo\nprecompute_ref_log_probs: true", "trl-dpo", {"precompute_ref_log_probs": True}),
        (AXOLOTL + "rl: kto", "trl-kto", {"padding": True}),
        (AXOLOTL + "rl: orpo\norpo_alpha: 0.1", "trl-orpo", {}),
        (
            AXOLOTL + "rl: grpo\ntrl: {beta: 0.01, num_generations: 2, max_completion_length: 128}",
            "trl-grpo",
            {"beta": 0.01, "max_completion_length": 128, "sequence_length": 640},
        ),
        (AXOLOTL + "reward_model: true\nnum_labels: 1", "trl-reward", {}),
        (AXOLOTL.replace("adapter: lora", "adapter: qlora\nload_in_4bit: true") + "rl: orpo", "trl-orpo", {}),
        (FACTORY + "stage: dpo\npref_loss: ipo", "trl-dpo", {"loss_type": "ipo"}),
        (FACTORY + "stage: dpo\npref_loss: simpo", "trl-orpo", {}),
        (FACTORY + "stage: kto\npref_beta: 0.1", "trl-kto", {}),
        (FACTORY + "stage: rm", "trl-reward", {}),
    ],
)
def test_a_stage_is_the_trainer_of_trl_with_a_warning_of_its_release(text, trainer, settings):
    found, training = imported(text)
    assert training["trainer"] == trainer
    assert settings.items() <= training.items()
    (warning,) = found.warnings
    assert warning.endswith("in TRL 1.16.")
    assert found.tool == ""


def test_ipo_is_a_loss_of_dpo():
    assert imported(AXOLOTL + "rl: ipo")[1]["loss_type"] == "ipo"


def test_a_loss_that_is_not_modeled_is_listed():
    found, training = imported(AXOLOTL + "rl: dpo\ndpo_loss_type: [sigmoid, sft]")
    assert "loss_type" not in training
    assert [remark.key for remark in found.not_understood if "loss" in remark.key] == ["loss_type"]
    found, training = imported(FACTORY + "stage: dpo\npref_loss: kto_pair")
    assert "loss_type" not in training
    assert [remark.key for remark in found.not_understood if "loss" in remark.key] == ["pref_loss"]


@pytest.mark.parametrize("text", [AXOLOTL + "rl: simpo", FACTORY + "stage: ppo"])
def test_a_trainer_that_resembles_none_of_trl_stays_supervised_with_a_warning(text):
    found, training = imported(text)
    assert training["trainer"] == "transformers"
    assert "supervised fine-tuning" in found.warnings[0]


def test_vllm_of_a_grpo_file_is_read():
    _, training = imported(AXOLOTL + "rl: grpo\ntrl: {use_vllm: true}\ngradient_accumulation_steps: 4")
    assert training["use_vllm"] is True
    settings = "{use_vllm: true, vllm_mode: server, vllm_gpu_memory_utilization: 0.4}"
    _, training = imported(AXOLOTL + f"rl: grpo\ntrl: {settings}\ngradient_accumulation_steps: 4")
    assert training["vllm_mode"] == "server"
    assert "vllm_gpu_memory_utilization" not in training


@pytest.mark.parametrize(
    ("text", "warns"),
    [
        ("trl grpo --model_name_or_path Qwen/Qwen3-0.6B --reward_funcs accuracy_reward my.reward", False),
        ("trl grpo --model_name_or_path Qwen/Qwen3-0.6B --reward_model_name_or_path Qwen/Qwen3-1.7B", True),
        ('GRPOTrainer("Qwen/Qwen3-0.6B", reward_funcs=[correct, short], args=GRPOConfig("out"))', False),
        ('GRPOTrainer("Qwen/Qwen3-0.6B", reward_funcs="Qwen/Qwen3-1.7B", args=GRPOConfig("out"))', True),
    ],
)
def test_a_reward_model_is_warned_of_and_functions_have_no_effect(text, warns):
    found = read(text)
    assert any("reward model" in warning for warning in found.warnings) == warns
    assert not {"reward_funcs", "reward_model_name_or_path"} & {remark.key for remark in found.not_understood}


def test_one_row_of_llama_factorys_kto_is_two_of_trls():
    found, training = imported(FACTORY + "stage: kto\nper_device_train_batch_size: 1")
    assert training["micro_batch_size"] == 2
    assert ("per_device_train_batch_size", 1) in [(remark.key, remark.value) for remark in found.not_understood]
