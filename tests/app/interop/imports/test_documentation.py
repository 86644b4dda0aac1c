"""What tools' documentation shows: parts that are left out, jobs of the Hub, several commands, generation by vLLM."""

import pytest

from app.interop.imports import read
from calculator.common.errors import PlanError

GRPO = "trl grpo --model_name_or_path Qwen/Qwen2.5-0.5B --use_vllm True --temperature 0.7"
GRPO += " --vllm_gpu_memory_utilization 0.4"


def test_vllm_of_trl_is_read():
    found = read(GRPO)
    assert (found.request["training"]["use_vllm"], found.request["training"]["vllm_gpu_memory_utilization"]) == (
        True,
        0.4,
    )
    assert not found.warnings
    assert "temperature" in found.without_effect
    script = "GRPOTrainer(model='gpt2', args=GRPOConfig(use_vllm=True, vllm_mode='server', vllm_server_host='a'), ...)"
    assert read(script).request["training"]["vllm_mode"] == "server"


def test_vllm_without_a_trainer_that_generates_is_warned_about():
    assert "use_vllm" in read(GRPO.replace("grpo", "sft", 1)).warnings[0]


def test_axolotl_takes_vllms_share_from_the_settings_of_its_server():
    text = "base_model: gpt2\nrl: grpo\ntrl: {use_vllm: true, vllm_mode: MODE}\nvllm: {gpu_memory_utilization: 0.3}"
    assert read(text.replace("MODE", "colocate")).request["training"]["vllm_gpu_memory_utilization"] == 0.3
    assert "vllm_gpu_memory_utilization" not in read(text.replace("MODE", "server")).request["training"]


@pytest.mark.parametrize(
    "text",
    [
        "SFTTrainer(\n    'gpt2',\n    ...\n    args=SFTConfig(max_length=77, ...),\n    ...\n)",
        "model_name_or_path: gpt2\n...\nstage: sft\ncutoff_len: 77\n...\n",
        "# A job:\nhf jobs uv run --with a \\\n 'https://a.co/sft.py' \\\n --model_name_or_path gpt2 --max_length 77",
        "pip install trl\nexport A=1\ntrl sft --model_name_or_path gpt2 --max_length 77\n",
    ],
)
def test_parts_around_the_settings_are_ignored(text):
    found = read(text)
    assert (found.request["model"], found.request["training"]["sequence_length"]) == ("openai-community/gpt2", 77)
    assert "with" not in {remark.key for remark in found.not_understood}


def test_several_commands_are_refused():
    with pytest.raises(PlanError, match="has 2 commands that run a trainer: paste one"):
        read(f"{GRPO}\n\n{GRPO}")


@pytest.mark.parametrize(
    ("named", "model"),
    [
        ("HuggingFaceTB/SmolLM3-3B-Base", "HuggingFaceTB/SmolLM3-3B"),
        ("/root/models/LLM-Research/Meta-Llama-3___1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("./qwen/Qwen1.5-7B-Chat/", "Qwen/Qwen1.5-7B"),
    ],
)
def test_copies_of_a_model_are_found_by_name(named, model):
    assert read(f"trl sft --model_name_or_path {named}").request["model"] == model


def test_queries_of_the_gpu_in_a_script_have_known_answers():
    script = """
device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
bf16 = torch.cuda.get_device_capability()[0] >= 8
SFTTrainer("gpt2", args=SFTConfig(bf16=bf16, optim="paged_adamw_8bit" if device == "cuda" else "adamw_torch"))
"""
    training = read(script).request["training"]
    assert (training["optimizer"], training["autocast"]) == ("paged_adamw_8bit", "bfloat16")
