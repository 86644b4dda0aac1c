"""The exported script of Unsloth: Python parses it, and it is read back as the request."""

import ast

import pytest

from app.interop.exports import export
from app.interop.imports import read
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

LLAMA = "meta-llama/Llama-3.2-1B"
METHOD = {
    "name": "qlora",
    "r": 4,
    "lora_alpha": 8.0,
    "target_modules": ["q_proj", "down_proj"],
    "rank_pattern": {"v": 2},
}
TRAINING = {
    "trainer": "unsloth",
    "autocast": "bfloat16",
    "gradient_checkpointing": True,
    "micro_batch_size": 2,
    "sequence_length": 1024,
    "gradient_accumulation_steps": 4,
    "optimizer": "adamw_8bit",
    "max_grad_norm": 0.3,
}


def exported(method=METHOD, model=LLAMA, **training):
    body = {"model": model, "method": method, "training": {**TRAINING, **training}, "reserved": "rule"}
    return export(parse_request(body), "peft")


@pytest.mark.parametrize(
    ("method", "training"),
    [
        (METHOD, {}),
        ({**METHOD, "use_rslora": True}, {"activation_offloading": False}),
        ({"name": "lora", "target_modules": ["q_proj"]}, {"dtype": "float16", "autocast": "float16"}),
        ({"name": "lora", "target_modules": ["q_proj"]}, {"gradient_checkpointing": False}),
        ({"name": "lora", "target_modules": ["q_proj"], "layers_to_transform": [0, 1]}, {}),
    ],
)
def test_the_script_is_read_back_as_the_request(method, training):
    found = read(exported(method, **training).content)
    assert (found.request["model"], found.tool) == (LLAMA, "unsloth")
    wanted = {**TRAINING, **training}
    assert {name: found.request["training"][name] for name in wanted} == wanted
    assert {name: found.request["method"].get(name) for name in method} == method


def test_unsloth_is_imported_before_what_it_patches():
    tree = ast.parse(exported().content)
    first = next(node for node in tree.body if isinstance(node, ast.ImportFrom))
    assert first.module == "unsloth"
    names = ast.parse(exported({**METHOD, "target_modules": "all-linear"}).content)
    listed = [node for node in ast.walk(names) if isinstance(node, ast.keyword) and node.arg == "target_modules"]
    assert len(ast.literal_eval(listed[0].value)) == 7


def test_a_model_without_an_id_has_no_script():
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = {"config": {**config, "intermediate_size": 128, "vocab_size": 300, "max_position_embeddings": 2048}}
    with pytest.raises(PlanError, match="hub id"):
        exported(model=model)
    assert [remark.loc for remark in exported({**METHOD, "blocksize": 128}).not_expressed] == ["method.blocksize"]


def test_embeddings_and_head_that_are_trained_are_read_back():
    saved = ["embed_tokens", "lm_head"]
    content = exported({**METHOD, "modules_to_save": saved}, "meta-llama/Llama-3.1-8B").content
    assert read(content).request["method"]["modules_to_save"] == saved
