"""Notebooks of Unsloth: the trained parameters are those that their outputs state."""

import pytest

from app.interop.imports import read
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

CONFIG = "trainer = SFTTrainer(model=model, args=SFTConfig(per_device_train_batch_size=2, max_seq_length=2048))\n"


def notebook(model, cls="FastModel", **arguments):
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return read(
        f'model, tokenizer = {cls}.from_pretrained("{model}", max_seq_length=2048, load_in_4bit=True)\n'
        f"model = {cls}.get_peft_model(model, {given})\n{CONFIG}"
    )


def trained(found):
    return estimate(parse_request({**found.request, "reserved": "rule"})).parameters.trainable


# github.com/unslothai/notebooks, "Number of trainable parameters" in the outputs of nb/*.ipynb
@pytest.mark.parametrize(
    ("model", "cls", "arguments", "parameters"),
    [
        ("unsloth/gemma-3-4b-it", "FastModel", {"r": 8, "finetune_vision_layers": False}, 14_901_248),
        ("unsloth/gemma-3-4b-pt", "FastVisionModel", {"r": 16, "target_modules": "all-linear"}, 38_497_792),
        ("unsloth/LFM2-1.2B", "FastModel", {"r": 16, "finetune_vision_layers": False}, 9_142_272),
        ("unsloth/Phi-3.5-mini-instruct", "FastLanguageModel", {"r": 16}, 29_884_416),
        ("unsloth/Phi-3-medium-4k-instruct", "FastLanguageModel", {"r": 16}, 65_536_000),
        ("unsloth/Phi-4", "FastLanguageModel", {"r": 16}, 65_536_000),
    ],
)
def test_the_trained_parameters_are_those_that_the_notebook_printed(model, cls, arguments, parameters):
    assert trained(notebook(model, cls, **arguments)) == parameters


def test_copies_of_phi_have_the_projections_of_llama_and_mistral():
    types = {
        name: notebook(f"unsloth/{name}", "FastLanguageModel", r=16).request["model"]["config"]["model_type"]
        for name in ("Phi-3.5-mini-instruct", "Phi-3-medium-4k-instruct", "Phi-4")
    }
    assert types == {"Phi-3.5-mini-instruct": "llama", "Phi-3-medium-4k-instruct": "mistral", "Phi-4": "llama"}
    assert notebook("microsoft/phi-4", "FastLanguageModel", r=16).request["model"] == "microsoft/phi-4"


def test_no_modules_of_attention_leave_the_mlp():
    found = notebook("unsloth/gemma-3-4b-it", r=8, finetune_vision_layers=False, finetune_attention_modules=False)
    assert found.request["method"]["target_modules"] == ["down_proj", "gate_proj", "up_proj"]


def test_gemma_of_fast_language_model_is_a_run_with_unsloth():
    found = notebook("unsloth/gemma-7b-bnb-4bit", "FastLanguageModel", r=16)
    assert (found.request["training"]["trainer"], found.warnings) == ("unsloth", ())
    assert trained(found) == 50_003_968


def test_gemma_2_is_read_with_flash_attn_and_a_warning():
    found = notebook("unsloth/gemma-2-9b-bnb-4bit", "FastLanguageModel", r=16)
    training = found.request["training"]
    assert (training["trainer"], training["attention"]) == ("unsloth", "flash_attention_2")
    assert any("compiled attention of Gemma 2" in warning for warning in found.warnings)
    assert trained(found) == 54_018_048


@pytest.mark.parametrize("model", ["unsloth/gemma-3-1b-it", "unsloth/gemma-3-4b-it"])
def test_gemma_3_which_unsloth_compiles_is_another_run(model):
    found = notebook(model, "FastLanguageModel", r=16)
    assert found.request["training"]["trainer"] == "trl-sft"
    assert any("does not model Unsloth." in warning for warning in found.warnings)


def test_experts_in_4_bits_are_warned_of():
    found = notebook("unsloth/gpt-oss-20b", "FastLanguageModel", r=8)
    assert any("experts are in 4 bits" in warning for warning in found.warnings)


def test_embeddings_among_the_targets_are_trained_in_full():
    targets = ["q_proj", "v_proj", "embed_tokens", "lm_head"]
    text = (
        'model, _ = FastLanguageModel.from_pretrained("unsloth/mistral-7b-v0.3", max_seq_length=2048)\n'
        f"model = FastLanguageModel.get_peft_model(model, r=128, target_modules={targets})\n"
        "trainer = UnslothTrainer(model=model, args=UnslothTrainingArguments(\n"
        '    per_device_train_batch_size=3, embedding_learning_rate=1e-5, optim="adamw_8bit"))\n'
    )
    found = read(text)
    method, training = found.request["method"], found.request["training"]
    assert (method["target_modules"], method["modules_to_save"]) == (["q_proj", "v_proj"], ["embed_tokens"])
    assert (training["trainer"], training["micro_batch_size"]) == ("unsloth", 3)
    assert {"target_modules", "embedding_learning_rate"} <= {remark.key for remark in found.not_understood}
    assert trained(found) > 32_768 * 4_096


@pytest.mark.parametrize(
    ("copy", "model"),
    [
        ("unsloth/mistral-7b-bnb-4bit", "mistralai/Mistral-7B-v0.1"),
        ("unsloth/mistral-7b-v0.2-bnb-4bit", "mistralai/Mistral-7B-Instruct-v0.2"),
        ("unsloth/codellama-34b-bnb-4bit", "codellama/CodeLlama-34b-hf"),
    ],
)
def test_unsloths_copies_of_older_models_are_those_models(copy, model):
    code = f'from unsloth import FastLanguageModel\nFastLanguageModel.from_pretrained(model_name="{copy}")\n'
    assert read(code).request["model"] == model


def test_rows_with_images_or_audio_are_another_run():
    collator = "trainer = SFTTrainer(model=model, data_collator=UnslothVisionDataCollator(model, processor))\n"
    load = 'model, processor = FastModel.from_pretrained("unsloth/gemma-4-E4B-it", load_in_4bit=True)\n'
    found = read(f"{load}model = FastModel.get_peft_model(model, r=8)\n{CONFIG}{collator}")
    assert any("the images or audio of a dataset" in warning for warning in found.warnings)
    text = read(f"{load}model = FastModel.get_peft_model(model, r=8)\n{CONFIG}")
    assert not any("the images or audio of a dataset" in warning for warning in text.warnings)


def test_a_notebook_of_sentence_transformers_names_the_task_that_is_modeled():
    with pytest.raises(PlanError, match="state the run with the task feature_extraction"):
        read(
            'model = FastSentenceTransformer.from_pretrained(model_name="unsloth/all-MiniLM-L6-v2")\n'
            "trainer = SentenceTransformerTrainer(model=model)\n"
        )
