"""Scripts of the PEFT format on one GPU are read back with their loop, and those of trainers with their images."""

import pytest

from app.interop.exports import FORMATS
from app.interop.exports.planned import planned
from app.interop.imports import read
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

MODEL = "meta-llama/Llama-3.2-1B"


def script(method, training):
    request = parse_request({"model": MODEL, "method": method, "training": {"sequence_length": 256, **training}})
    return request, FORMATS["peft"](planned(request)).content


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ({"name": "lora"}, {"micro_batch_size": 3, "gradient_accumulation_steps": 4, "autocast": "bfloat16"}),
        ({"name": "lora"}, {"padding": True, "attention": "eager", "adapter_dtype": "model"}),
        ({"name": "qlora"}, {"gradient_checkpointing": True, "optimizer": "paged_adamw_8bit"}),
        ({"name": "full"}, {"max_grad_norm": 0, "optimizer": "muon"}),
        ({"name": "prefix", "num_virtual_tokens": 30}, {"dtype": "float32"}),
        ({"name": "adapter"}, {"adapter_dtype": "model"}),
        ({"name": "adapter", "placement": "pfeiffer", "non_linearity": "silu", "bottleneck_size": 24}, {}),
    ],
)
def test_an_exported_loop_is_read_as_the_request_that_it_was_exported_from(method, training):
    request, text = script(method, training)
    found = read(text)
    again = parse_request(found.request)
    assert found.not_understood == ()
    assert (again.training, again.method) == (request.training, request.method)
    assert estimate(again).memory.peak_allocated_bytes == estimate(request).memory.peak_allocated_bytes


def test_settings_that_are_not_read_from_a_loop_are_listed():
    _, text = script({"name": "lora"}, {"torch_empty_cache_steps": 1})
    assert "empty_cache" in [remark.key for remark in read(text).not_understood]


def test_an_edited_optimizer_is_listed():
    _, text = script({"name": "lora"}, {})
    found = read(text.replace("torch.optim.AdamW(", "MyOptimizer("))
    assert "optimizer" in [remark.key for remark in found.not_understood]
    assert "optimizer" not in found.request["training"]


def test_another_loop_is_not_read():
    found = read(f'model = AutoModelForCausalLM.from_pretrained("{MODEL}")\nMICRO_BATCH_SIZE = 4\n')
    assert found.request["training"]["trainer"] == "transformers"


@pytest.mark.parametrize("trainer", ["transformers", "trl-sft"])
@pytest.mark.parametrize(
    ("model", "images", "padding"),
    [
        ("llava-hf/llava-1.5-7b-hf", {"images_per_sequence": 2}, True),
        ("Qwen/Qwen2.5-VL-3B-Instruct", {"min_pixels": 50_176, "max_pixels": 200_704}, False),
    ],
)
def test_images_of_an_exported_script_are_read(trainer, model, images, padding):
    size = {"images_per_sequence": 1, "image_height": 60, "image_width": 40}
    training = {"trainer": trainer, "sequence_length": 1536, "padding": padding, "images": {**size, **images}}
    body = {"model": model, "method": {"name": "lora", "target_modules": ["q_proj"]}, "training": training}
    request = parse_request(body)
    found = read(FORMATS["peft"](planned(request)).content)
    assert "max_length" not in [remark.key for remark in found.not_understood]
    assert parse_request(found.request).training == request.training
