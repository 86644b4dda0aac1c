"""Commands of TRL, its YAML, and Python code are read into requests with their trainer, and code is never run."""

import json

import pytest

from app.__main__ import main
from app.api.estimate import answer
from app.interop.imports import python_calls, read
from app.interop.imports.literals import UNREAD, value_of
from calculator.common.errors import PlanError

LLAMA = "meta-llama/Llama-3.1-8B"

UNSLOTH = """
%%capture
!pip install --no-deps trl==0.22.2 \\
    transformers==4.56.2
from unsloth import FastLanguageModel, is_bfloat16_supported
max_seq_length = 2 * 1024
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name = "unsloth/Llama-3.1-8B", max_seq_length = max_seq_length, dtype = None, load_in_4bit = True,
)
model = FastLanguageModel.get_peft_model(model, r = 32, lora_alpha = 16, use_gradient_checkpointing = "unsloth")
trainer = SFTTrainer(
    model = model, tokenizer = tokenizer, train_dataset = dataset, max_seq_length = max_seq_length, packing = False,
    args = SFTConfig(per_device_train_batch_size = 2, gradient_accumulation_steps = 4, optim = "adamw_8bit",
        fp16 = not is_bfloat16_supported(), bf16 = is_bfloat16_supported(), seed = 3407, output_dir = folder),
)
if False:
    model, tokenizer = FastLanguageModel.from_pretrained(model_name = "mine", max_seq_length = 77)
"""

SFT = """
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
trainer = SFTTrainer(
    "Qwen/Qwen3-0.6B",
    train_dataset=dataset,
    peft_config=LoraConfig(r=4, target_modules="all-linear"),
    args=SFTConfig(packing=True, max_length=512, per_device_train_batch_size=batch_size(), torch_empty_cache_steps=5,
                   model_init_kwargs={"dtype": "bfloat16", "attn_implementation": "flash_attention_2"}),
)
"""

TRAINER = """
bnb = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16)
model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-3.1-8B", quantization_config=bnb)
model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
args = TrainingArguments("out", fp16=True, optim="paged_adamw_8bit", gradient_accumulation_steps=4)
trainer = Trainer(model=model, args=args, train_dataset=data)
"""


def missed(found):
    return {remark.key: remark.value for remark in found.not_understood}


def peak(request):
    return answer({**request, "reserved": "rule"}).memory.peak_allocated_bytes


def refused(content):
    with pytest.raises(PlanError) as raised:
        read(content)
    return raised.value.problems[0]


def test_a_command_of_trl_has_trls_defaults():
    found = read("trl sft \\\n  --model_name_or_path Qwen/Qwen2.5-0.5B \\\n  --dataset_name x --learning_rate 2.0e-4")
    training = found.request["training"]
    assert (found.format, found.request["model"], found.request["method"]) == (
        "trl",
        "Qwen/Qwen2.5-0.5B",
        {"name": "full"},
    )
    assert (training["trainer"], training["dtype"], training["autocast"]) == ("trl-sft", "float32", "bfloat16")
    assert (training["gradient_checkpointing"], training["sequence_length"]) == (True, 1024)
    assert (training["micro_batch_size"], training["padding"]) == (8, True)
    assert found.not_understood == ()
    assert answer({**found.request, "reserved": "rule"}).warnings == ()


def test_options_of_a_command_are_read_in_every_spelling():
    found = read(
        "CUDA_VISIBLE_DEVICES=0 accelerate launch --num_processes 1 trl/scripts/sft.py --model_name_or_path=gpt2"
        " --use_peft --lora_target_modules q_proj v_proj --no_gradient_checkpointing --load-in-4bit --dtype bfloat16"
        " --packing --attn_implementation flash_attention_2 --per_device_train_batch_size 4 --max_length 256"
        " --use_liger_kernel"
    )
    method, training = found.request["method"], found.request["training"]
    assert (method["name"], method["target_modules"], method["r"]) == ("qlora", ["q_proj", "v_proj"], 16)
    assert (method["double_quant"], method["prepare_model_for_kbit_training"]) == (False, False)
    assert training["gradient_checkpointing"] is False
    assert (training["packing"], training["use_liger_kernel"], training["padding"]) == (True, True, False)
    assert found.not_understood == ()


@pytest.mark.parametrize(
    ("options", "read_as"),
    [
        ("--packing", {"packing": True}),
        ("--packing --packing_strategy wrapped", {"packing": True, "packing_strategy": "wrapped"}),
        ("--padding_free", {"padding_free": True}),
    ],
)
def test_packing_and_padding_free_are_read(options, read_as):
    found = read(f"trl sft --model_name_or_path gpt2 --per_device_train_batch_size 4 {options}")
    names = ("packing", "packing_strategy", "padding_free")
    assert {name: found.request["training"][name] for name in names if name in found.request["training"]} == read_as
    assert (found.request["training"]["padding"], found.warnings) == (False, ())


def test_a_yaml_of_trl_is_distinguished_from_one_of_llama_factory():
    trl = read("model_name_or_path: gpt2\ndataset_name: x\ngradient_checkpointing_kwargs: {use_reentrant: true}")
    assert (trl.format, trl.request["training"]["gradient_checkpointing_kwargs"]) == ("trl", {"use_reentrant": True})
    assert read("model_name_or_path: gpt2\nstage: sft\ndataset_name: x").format == "llama-factory"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("trl dpo --model_name_or_path gpt2 --packing", "packing with sdpa"),
        ("trl sft --model_name_or_path gpt2 --accelerate_config mine.yaml", "accelerate_config: mine.yaml"),
        (
            "trl sft --model_name_or_path gpt2 --activation_offloading --gradient_checkpointing False",
            "activation_offloading",
        ),
        (UNSLOTH.replace("SFT", "DPO"), "Unsloth"),
    ],
)
def test_arguments_of_a_command_or_script_that_are_not_modeled_are_a_warning(text, warning):
    found = read(text)
    assert len(found.warnings) == 1
    assert warning in found.warnings[0]
    assert peak(found.request) > 0


def test_offloading_is_read_with_checkpoints_that_do_not_reenter():
    found = read("trl sft --model_name_or_path Qwen/Qwen3-0.6B --activation_offloading")
    assert not found.warnings
    assert found.request["training"]["activation_offloading"] is True
    assert peak(found.request) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trl sft --config sft.yaml", "paste that file"),
        ("trl sft --model_name_or_path 'gpt2", "is not a command line: no closing quotation"),
        ("SFTConfig(packing=True", "is not Python: line 1"),
        ("x = SFTConfig(" + "(" * 900 + ")" * 900 + ")", "Python"),
        ("y = MyOwnTrainer()", "trains with MyOwnTrainer, which is not modeled"),
        ('{"cells": [{"cell_type": "code"}]}', "is not a notebook"),
        ("SFTConfig()\n" + "#" * python_calls.LONGEST, "is longer than"),
    ],
)
def test_unreadable_input_is_refused_with_the_reason(text, message):
    assert message in refused(text).msg


def test_an_unsloth_notebook_is_read_with_unsloths_defaults():
    found = read(UNSLOTH)
    method, training = found.request["method"], found.request["training"]
    assert (found.format, found.tool, found.request["model"]) == ("script", "unsloth", LLAMA)
    assert (method["name"], method["r"], method["lora_alpha"], len(method["target_modules"])) == ("qlora", 32, 16, 7)
    assert (training["sequence_length"], training["micro_batch_size"]) == (2048, 2)
    assert (training["trainer"], training["padding"], found.warnings) == ("unsloth", False, ())
    assert (training["dtype"], training["autocast"], training["optimizer"]) == ("bfloat16", "bfloat16", "adamw_8bit")
    assert (found.request["stack"]["trl"], missed(found)["transformers"]) == ("0.22.2", "4.56.2")
    cells = {"cells": [{"cell_type": "markdown", "source": ["# A"]}, {"cell_type": "code", "source": [UNSLOTH]}]}
    assert read(json.dumps(cells)).request == found.request


def test_a_script_of_sft_trainer_has_its_own_dtype_and_lists_what_is_not_evaluated():
    found = read(SFT)
    training = found.request["training"]
    assert (training["trainer"], training["dtype"], training["packing"]) == ("trl-sft", "bfloat16", True)
    assert (training["sequence_length"], training["torch_empty_cache_steps"]) == (512, 5)
    assert found.request["method"]["target_modules"] == "all-linear"
    assert missed(found) == {"per_device_train_batch_size": "batch_size()"}
    by_name = read(SFT.replace('"dtype": "bfloat16", ', "")).request["training"]
    assert by_name["dtype"] == "float32"


def test_a_script_of_trainer_is_one_of_transformers():
    found = read(TRAINER)
    method, training = found.request["method"], found.request["training"]
    assert (training["trainer"], training["dtype"], training["autocast"]) == ("transformers", "float16", "float16")
    assert training["gradient_checkpointing"] is False
    assert (method["quant_type"], method["double_quant"], method["prepare_model_for_kbit_training"]) == (
        "nf4",
        False,
        True,
    )
    assert list(missed(found)) == ["max_length"]


@pytest.mark.parametrize(
    ("pinned", "stack"), [("trl==1.9.0", {"trl": "1.9.0"}), ("trl==1.9.0 peft==0.2.0", {"trl": "1.9.0"})]
)
def test_pinned_releases_are_the_stack_if_they_are_known(pinned, stack):
    found = read(f"!pip install {pinned}\n{SFT.replace('packing=True', 'packing=False')}")
    assert found.request["stack"] == stack
    assert ("peft" in missed(found)) is ("peft" in pinned)


def test_code_is_not_run():
    found = read("import os\nos.abort()\nSFTTrainer('gpt2', args=SFTConfig(max_length=[64 for _ in iter(int, 1)][0]))")
    assert "max_length" in missed(found)


def test_only_expressions_without_effects_have_values():
    import ast

    names = {"x": 3}
    for text, value in (("2 * x + 1", 7), ("not True", False), ("torch.float16", "float16"), ("[1, x]", [1, 3])):
        assert value_of(ast.parse(text, mode="eval").body, names) == value
    for text in ("y", "f()", "10**9", "'a' * x", "{**x}", "x[0]", "[y]"):
        assert value_of(ast.parse(text, mode="eval").body, names) is UNREAD


def test_the_page_imports_a_command(client):
    text = client.get("/import", params={"content": "trl sft --model_name_or_path gpt2 --dataset_name x"}).text
    assert 'value="trl-sft" checked' in text
    assert "This run has its defaults:" not in text or "float32" in text
    unsloth = client.get("/import", params={"content": UNSLOTH}).text
    assert 'value="unsloth" checked' in unsloth


def test_the_command_reads_a_script(tmp_path, capsys):
    file = tmp_path / "train.py"
    file.write_text(SFT)
    assert main(["import", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["trainer"] == "trl-sft"


def test_a_grpo_command_has_the_lengths_and_the_reference_of_its_config():
    found = read(
        "trl grpo --model_name_or_path openai-community/gpt2 --beta 0.04 --max_prompt_length 100 --num_iterations 2"
    )
    training = found.request["training"]
    assert training["trainer"] == "trl-grpo"
    assert (training["sequence_length"], training["max_completion_length"]) == (612, 512)
    assert (training["num_generations"], training["beta"]) == (8, 0.04)
    assert missed(found) == {"num_iterations": 2}
    assert "max_prompt_length" in missed(read("trl rloo --model_name_or_path gpt2"))


def test_beta_has_no_effect_with_a_trainer_that_always_has_a_reference():
    found = read("trl dpo --model_name_or_path gpt2 --beta 0.3")
    assert "beta" not in found.request["training"]
    assert "beta" in found.without_effect


def notebook(*cells, output=""):
    """A notebook of code cells, the first of which printed something."""
    code = [{"cell_type": "code", "source": [cell], "outputs": [{"text": [output]}]} for cell in cells]
    return json.dumps({"cells": code})


def test_outputs_of_a_notebook_do_not_count_in_its_length():
    assert read(notebook(UNSLOTH, output="x" * python_calls.LONGEST)).request == read(UNSLOTH).request
    assert "is longer than" in refused(notebook(UNSLOTH, "#" * python_calls.LONGEST)).msg


def test_a_cell_that_is_not_python_is_listed_and_the_others_are_read():
    found = read(notebook(UNSLOTH, "print(f'{[}')"))
    assert found.request == read(UNSLOTH).request
    assert missed(found).keys() - missed(read(UNSLOTH)).keys() == {"a cell"}
    assert "is not Python" in refused(notebook("SFTConfig(")).msg


GRPO = """
model, tokenizer = FastLanguageModel.from_pretrained(model_name="unsloth/Qwen3-4B-Base", max_seq_length=1024)
model = FastLanguageModel.get_peft_model(model, r=32)
sft = SFTTrainer(model=model, args=SFTConfig(per_device_train_batch_size=2, optim="adamw_torch"))
args = GRPOConfig(per_device_train_batch_size=1, gradient_accumulation_steps=1, num_generations=4, max_prompt_length=64)
trainer = GRPOTrainer(model=model, args=args)
"""


def test_the_last_trainer_of_a_script_is_read_and_the_others_are_listed():
    found = read(GRPO)
    assert (found.request["training"]["trainer"], found.request["training"]["optimizer"]) == ("trl-grpo", "adamw_8bit")
    assert {"SFTTrainer", "SFTConfig"} <= missed(found).keys()


def test_unsloth_replaces_a_batch_that_is_no_whole_groups_of_completions():
    assert read(GRPO).request["training"]["micro_batch_size"] == 4
    accumulated = GRPO.replace("accumulation_steps=1", "accumulation_steps=4")
    assert read(accumulated).request["training"]["micro_batch_size"] == 1


def test_a_script_that_loads_a_model_of_images_is_read_with_a_warning():
    found = read(UNSLOTH.replace("FastLanguageModel", "FastVisionModel"))
    assert any("images or audio of a dataset" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ("OSFConfig(effective_rank=16)", {"name": "osf", "effective_rank": 16}),
        ("AdaptionPromptConfig(adapter_len=4)", {"name": "adaption_prompt", "adapter_len": 4}),
        ("peft.PromptTuningConfig(num_virtual_tokens=8)", {"name": "prompt", "num_virtual_tokens": 8}),
        ("IA3Config(task_type='CAUSAL_LM')", {"name": "ia3", "target_modules": None}),
    ],
)
def test_a_script_trains_with_the_method_of_its_config(config, method):
    lines = ("AutoModelForCausalLM.from_pretrained('Qwen/Qwen3-0.6B')", f"get_peft_model(model, {config})", "Trainer()")
    found = read("\n".join(lines)).request["method"]
    assert {name: found[name] for name in method} == method


def test_4_bits_under_a_method_but_lora_are_listed():
    code = TRAINER.replace('LoraConfig(target_modules=["q_proj"])', "OSFConfig()")
    found = read(code)
    assert found.request["method"]["name"] == "osf"
    assert missed(found)["load_in_4bit"] is True


def test_a_script_without_a_trainer_lists_that_its_loop_is_not_read():
    loop = TRAINER[: TRAINER.index("args =")] + "for batch in loader:\n    model(**batch).loss.backward()\n"
    assert ("trainer" in missed(read(TRAINER)), "trainer" in missed(read(loop))) == (False, True)


def test_completions_of_one_batch_are_divided_into_groups_instead_of_the_rows_of_a_step():
    command = "trl grpo --model_name_or_path Qwen/Qwen3-0.6B --per_device_train_batch_size 2 --num_generations 16"
    alone = read(command)
    assert "num_generations" not in alone.request["training"]
    assert missed(alone)["num_generations"] == 16
    found = read(f"{command} --generation_batch_size 16")
    assert "num_generations" not in found.request["training"]
    assert "generation_batch_size" in {remark.key for remark in found.not_understood}
    assert answer(found.request).memory
