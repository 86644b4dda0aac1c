"""Names in training scripts are followed to their values, and models and trainers are read by their classes."""

import pytest

from app.interop.imports import read
from calculator.common.errors import PlanError

LLAMA = "meta-llama/Llama-3.1-8B"

OF_SFT = "SFTTrainer(model={model}, args=SFTConfig(per_device_train_batch_size={rows}), peft_config=LoraConfig(r={r}))"
SEVERAL_NAMES = 'model_id, folder = "Qwen/Qwen3-4B", "out"'
DICTIONARY = 'CONFIG = {"model": "Qwen/Qwen3-4B", "r": 9}'
OPTIONS = """
def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-id", default="Qwen/Qwen3-4B")
    parser.add_argument("--rank", type=int, default=12)
    return parser.parse_args()

args = parse_args()"""
FIELDS = """
@dataclass
class Own:
    name: str = field(default="Qwen/Qwen3-4B")
    r: int = 7

own, config = parser.parse_args_into_dataclasses()"""
NAMED = [
    (SEVERAL_NAMES, {"model": "model_id", "rows": 4, "r": 8}, (4, 8)),
    (DICTIONARY, {"model": 'CONFIG["model"]', "rows": "64 // 16", "r": 'CONFIG["r"]'}, (4, 9)),
    (OPTIONS, {"model": "args.model_id", "rows": 2, "r": "args.rank"}, (2, 12)),
    (FIELDS, {"model": "own.name", "rows": 3, "r": "own.r"}, (3, 7)),
]


@pytest.mark.parametrize(("code", "arguments", "expected"), NAMED, ids=["names", "dictionary", "options", "fields"])
def test_names_of_a_script_are_followed_to_their_values(code, arguments, expected):
    found = read(f"{code}\n{OF_SFT.format(**arguments)}").request
    assert found["model"] == "Qwen/Qwen3-4B"
    assert (found["training"]["micro_batch_size"], found["method"]["r"]) == expected


def test_a_default_of_the_code_is_listed_and_a_value_that_it_sets_is_not():
    script = f"def train(model, r=32):\n    {OF_SFT.format(model='model', rows=1, r='r')}\n\n"
    assumed, given = (read(f'{script}train("Qwen/Qwen3-4B"{r})') for r in ("", ", r=8"))
    assert [imported.request["method"]["r"] for imported in (assumed, given)] == [32, 8]
    assert ["r" in [key.key for key in imported.not_understood] for imported in (assumed, given)] == [True, False]


@pytest.mark.parametrize(
    ("cls", "model", "task"),
    [
        ("LlamaForCausalLM", "meta-llama/Llama-3.2-1B", None),
        ("GPT2LMHeadModel", "openai-community/gpt2", None),
        ("T5ForConditionalGeneration", "google/flan-t5-base", "seq_2_seq_lm"),
        ("BertForSequenceClassification", "google-bert/bert-base-uncased", "seq_cls"),
    ],
)
def test_a_model_that_its_own_class_loads_is_read(cls, model, task):
    found = read(f'model = {cls}.from_pretrained("{model}")\nTrainer(model=model, args=TrainingArguments())')
    assert (found.request["model"], found.request.get("task")) == (model, task)


def test_a_model_that_also_reads_images_is_read_with_a_warning_of_them():
    found = read(
        'model = Qwen3VLForConditionalGeneration.from_pretrained("Qwen/Qwen3-VL-4B-Instruct")\nSFTTrainer(model)'
    )
    assert found.request["model"] == "Qwen/Qwen3-VL-4B-Instruct"
    assert any("the images or audio of a dataset" in warning for warning in found.warnings)


def test_the_model_of_a_reward_trainer_is_that_of_its_classifier():
    load = 'AutoModelForSequenceClassification.from_pretrained("Qwen/Qwen3-0.6B", num_labels=1)'
    found = read(f"model = {load}\nRewardTrainer(model=model, args=RewardConfig())")
    assert found.request["model"] == "Qwen/Qwen3-0.6B"
    assert found.request["training"]["trainer"] == "trl-reward"


def test_a_model_that_the_command_names_is_requested_by_the_name_of_its_variable():
    with pytest.raises(
        PlanError, match=r"reads model_args\.model_name_or_path from its command line or a configuration: give"
    ):
        read("SFTTrainer(model=model_args.model_name_or_path, args=training_args)")


def test_the_lengths_of_prompts_and_answers_do_not_matter_to_a_trainer_that_does_not_generate():
    config = "ORPOConfig(max_length=1024, max_prompt_length=512, max_completion_length=1024 // 2)"
    found = read(f'model = AutoModelForCausalLM.from_pretrained("{LLAMA}")\nORPOTrainer(model=model, args={config})')
    assert found.request["training"]["sequence_length"] == 1024
    assert {"max_prompt_length", "max_completion_length"} <= {*found.without_effect}
    assert "max_completion_length" not in found.request["training"]


@pytest.mark.parametrize(
    ("pinned", "used", "differs"),
    [
        ("0.14.0", "0.15", ", which also computes the accuracy, in the forward pass"),
        ("0.25.0", "0.24", ""),
        ("0.28.0", "1.0", ""),
        ("1.4.0", "1.0", ""),
        ("1.12.0", "1.9", ""),
        ("1.17.0", None, ""),
    ],
)
def test_a_release_of_trl_that_is_not_known_is_read_as_the_one_with_the_loss_most_like_it(pinned, used, differs):
    found = read(f"!pip install trl=={pinned}\n{OF_SFT.format(model=repr('Qwen/Qwen3-4B'), rows=1, r=8)}")
    assert found.request.get("stack") == ({"trl": used} if used else None)
    assert ("trl", f"trl {pinned} is not known: {used or '1.16'} is used{differs}") in [
        (remark.key, remark.why) for remark in found.not_understood
    ]


@pytest.mark.parametrize(
    ("script", "trainer"), [("grpo_vlm", "trl-grpo"), ("gspo", "trl-grpo"), ("sft_gpt_oss", "trl-sft")]
)
def test_scripts_of_trls_examples_are_read_by_their_trainer(script, trainer):
    launch = "accelerate launch \\\n  --num_processes 1 \\\n  "
    found = read(f"{launch}examples/scripts/{script}.py \\\n  --model_name_or_path Qwen/Qwen3-4B --use_peft")
    assert found.request["training"]["trainer"] == trainer
    assert any(f"script: {script}.py" in warning for warning in found.warnings) == script.endswith("_vlm")


@pytest.mark.parametrize("script", ["dpo_online", "distillation"])
def test_a_script_of_another_trainer_is_refused_by_its_name(script):
    with pytest.raises(PlanError, match=rf"runs examples/{script}\.py, whose code decides what it trains: paste"):
        read(f"# a note\npython examples/{script}.py \\\n  --model_name_or_path Qwen/Qwen3-4B")
