"""The sizes of files equal those that safetensors, PEFT, transformers and torch.save write."""

import random

import pytest
import torch
from peft import PeftModel
from transformers import Trainer, TrainingArguments, default_data_collator

from calculator.checkpoint import safetensors_file, torch_file
from calculator.checkpoint.optimizer_file import state_dict
from calculator.checkpoint.parameters import named_parameters
from calculator.checkpoint.torch_file import TorchTensor
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.run import saving
from validation.reference.build import build_model
from validation.reference.trainers.batches import task_rows
from validation.reference.trainers.recipe import parse_recipe

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 11,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 3000,
    "tie_word_embeddings": False,
}


def parsed(method, config=LLAMA, **training):
    return parse_request(
        {
            "model": {"config": config},
            "method": method,
            "training": {"trainer": "transformers", "sequence_length": 8, **training},
        }
    )


def _cuda(_, index=0):
    """The location of a storage on CUDA, a new string each time."""
    return f"cuda:{index}"


@pytest.mark.parametrize("location", ["cpu", "cuda:0"])
def test_a_torch_file_has_the_size_of_its_pickle_and_its_storages(location, tmp_path, monkeypatch):
    registry = [(0, _cuda, None)] if location != "cpu" else []
    monkeypatch.setattr(torch.serialization, "_package_registry", [*registry, *torch.serialization._package_registry])
    drawn = random.Random(3)
    shapes = [tuple(drawn.randint(1, 40) for _ in range(drawn.randint(0, 3))) for _ in range(300)]
    dtypes = [drawn.choice(["float32", "bfloat16", "uint8", "float16", "int64"]) for _ in shapes]

    def values(tensor):
        listed = {i: {"a": tensor(shape, dtype)} for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))}
        return {"state": listed, "groups": [{"lr": 0.1, "betas": (0.9, 0.9), "none": None, "on": True, "n": [70_000]}]}

    torch.save(values(lambda shape, dtype: torch.zeros(shape, dtype=getattr(torch, dtype))), tmp_path / "optimizer.pt")
    ours = torch_file.file_bytes(values(lambda shape, dtype: TorchTensor(shape, dtype, location)), "optimizer")
    assert ours == (tmp_path / "optimizer.pt").stat().st_size


@pytest.mark.parametrize(
    "method",
    [
        {"name": "full"},
        {"name": "lora", "target_modules": "all-linear", "modules_to_save": ["lm_head"]},
        {"name": "lora", "target_modules": ["q_proj", "embed_tokens"]},
        {"name": "lora", "target_modules": ["lm_head"], "use_dora": True, "bias": "all"},
        {"name": "lora", "layers_to_transform": [3, 10], "rank_pattern": {"layers.10.self_attn.v_proj": 4}},
        {"name": "prompt"},
        {"name": "vera"},
        {"name": "ln_tuning"},
    ],
    ids=lambda method: method["name"],
)
def test_the_weights_of_a_checkpoint_have_the_size_that_save_pretrained_writes(method, tmp_path):
    request = parsed(method)
    model = build_model(request, torch.device("cpu")).model
    model.save_pretrained(tmp_path)
    name = "adapter_model.safetensors" if isinstance(model, PeftModel) else "model.safetensors"
    prepared = resident_state(request).prepared
    tensors = prepared.method.saved_tensors([*named_parameters(prepared)], prepared.model)
    assert safetensors_file.file_bytes(tensors) == (tmp_path / name).stat().st_size


def test_a_model_in_several_files_has_those_of_save_pretrained_and_its_index(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "MAX_SHARD_SIZE", 400_000)
    request = parsed({"name": "full"})
    build_model(request, torch.device("cpu")).model.save_pretrained(tmp_path, max_shard_size=400_000)
    files = saving.Saving(resident_state(request)).model_files
    assert len(files) > 4
    written = {path.name: path.stat().st_size for path in tmp_path.iterdir() if "safetensors" in path.name}
    assert {file.name: file.bytes for file in files} == written


@pytest.mark.parametrize(
    ("optimizer", "method"),
    [("adamw_torch", {"name": "lora"}), ("adafactor", {"name": "full"}), ("adamw_8bit", {"name": "full"})],
)
def test_the_optimizers_file_is_that_of_the_trainers_checkpoint(optimizer, method, tmp_path, monkeypatch):
    request = parsed(method, {**LLAMA, "num_hidden_layers": 2}, optimizer=optimizer, dtype="float32")
    monkeypatch.setattr(saving, "state_dict", lambda *arguments: state_dict(*arguments, device="cpu"))
    row = {"input_ids": torch.ones(8, dtype=torch.long), "labels": torch.ones(8, dtype=torch.long)}
    arguments = TrainingArguments(
        output_dir=tmp_path, optim=optimizer, max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True
    )
    model = build_model(request, torch.device("cpu")).model
    Trainer(model=model, args=arguments, train_dataset=[row]).train()
    predicted = saving.Saving(resident_state(request))
    written = tmp_path / "checkpoint-1"
    for file in (*predicted.model_files, *predicted.optimizer_files):
        assert file.bytes == (written / file.name).stat().st_size


BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 300,
}
T5 = {
    "model_type": "t5",
    "d_model": 64,
    "d_ff": 128,
    "d_kv": 16,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 300,
    "decoder_start_token_id": 0,
}
BART = {
    "model_type": "bart",
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 300,
}


@pytest.mark.parametrize(
    ("task", "config", "method"),
    [
        ("seq_cls", {**BERT, "model_type": "roberta"}, {"name": "lora", "bias": "all"}),
        ("token_cls", BERT, {"name": "full"}),
        ("seq_2_seq_lm", T5, {"name": "full"}),
        ("seq_2_seq_lm", BART, {"name": "full"}),
        ("seq_2_seq_lm", BART, {"name": "lora"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("model_type") or value["name"],
)
def test_the_files_of_a_task_are_those_of_the_trainers_checkpoint(task, config, method, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "state_dict", lambda *arguments: state_dict(*arguments, device="cpu"))
    training = {"trainer": "transformers", "sequence_length": 8, "dtype": "float32"}
    body = {"model": {"config": config}, "method": method, "task": task, "training": training}
    recipe = parse_recipe(body)
    arguments = TrainingArguments(output_dir=tmp_path, max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    Trainer(
        model=build_model(recipe.request, torch.device("cpu")).model,
        args=arguments,
        train_dataset=task_rows(recipe),
        data_collator=default_data_collator,
    ).train()
    predicted = saving.Saving(resident_state(parse_request(body)))
    written = tmp_path / "checkpoint-1"
    for file in (*predicted.model_files, *predicted.optimizer_files):
        assert file.bytes == (written / file.name).stat().st_size
