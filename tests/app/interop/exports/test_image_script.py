"""The exported script of a model that reads images trains on them."""

import re
import runpy

import pytest

from app.interop.exports import export
from calculator.common.errors import PlanError
from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_request
from calculator.trainers.image_batch import tensors
from tests.app.interop.exports.readers_of_images import LLAVA as CONFIG
from tests.app.interop.exports.scripts import LOW_RANK, check_with_ruff, ran, script

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

IMAGES = {"images_per_sequence": 1, "image_height": 60, "image_width": 40}
MODELS = {
    "HuggingFaceTB/SmolVLM-256M-Instruct": {"image_height": 512, "image_width": 512},
    "OpenGVLab/InternVL3_5-8B-HF": {},
    "Qwen/Qwen2.5-VL-3B-Instruct": {"min_pixels": 784, "max_pixels": 200_704},
    "google/gemma-3-4b-pt": {},
    "google/paligemma-3b-pt-224": {},
    "llava-hf/llava-1.5-7b-hf": {},
}


def body(trainer="transformers", model="llava-hf/llava-1.5-7b-hf", images=(), **training):
    settings = {"trainer": trainer, "sequence_length": 640, "images": {**IMAGES, **dict(images)}, **training}
    return {"model": model, "method": {"name": "lora", **LOW_RANK}, "training": settings}


TRAINED_BY = [
    ("transformers", {"name": "lora", **LOW_RANK}, {"padding": True}),
    ("trl-sft", {"name": "lora", **LOW_RANK}, {}),
    ("trl-dpo", {"name": "lora", **LOW_RANK}, {"padding": True}),
    ("trl-kto", {"name": "full"}, {"micro_batch_size": 2}),
]


@pytest.mark.parametrize(("trainer", "method", "training"), TRAINED_BY, ids=[row[0] for row in TRAINED_BY])
def test_the_script_trains_a_model_on_images_from_a_folder(
    trainer, method, training, small_llava, tmp_path, monkeypatch, capsys
):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (40, 60)).save(pictures / "one.png")
    request = {**body(trainer, **training), "method": method}
    printed = ran(request, tmp_path, monkeypatch, capsys, "--model", str(small_llava), "--images", str(pictures))
    assert re.findall(r"step (\d): loss \d+\.\d+", printed) == ["1", "2"]


@pytest.mark.parametrize("padding", [True, False])
def test_a_batch_has_the_tensors_of_the_figures(padding, small_llava, tmp_path):
    request = body(micro_batch_size=2, padding=padding, images={"images_per_sequence": 1})
    file = tmp_path / "train.py"
    file.write_text(script(request))
    made = runpy.run_path(str(file))
    _, processor = made["load"](str(small_llava))
    rows = made["Rows"](made["SAMPLE"], [], processor, 2)
    batch = made["collator"](processor)([rows[0], rows[1]])
    parsed = parse_request({**request, "model": {"config": CONFIG}})
    planned = dict.fromkeys(("input_ids", "attention_mask", "labels"), (2, 640))
    planned |= {name: tuple(map(int, shape)) for name, shape, _ in tensors(model_of(parsed.model), parsed.training)}
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == planned
    assert bool((batch["attention_mask"] == 0).any()) is padding


def test_the_script_of_each_family_is_as_formatters_and_linters_leave_it(tmp_path):
    for number, (model, images) in enumerate(MODELS.items()):
        for trainer, padding in (("transformers", True), ("trl-sft", False)):
            request = body(trainer, model, images, sequence_length=2048, padding=padding)
            text = script({**request, "reserved": "rule"})
            assert "AutoModelForImageTextToText.from_pretrained" in text
            (tmp_path / f"script_{number}_{trainer}.py").write_text(text)
    check_with_ruff(tmp_path)
    limited = script({**body(model="Qwen/Qwen2.5-VL-3B-Instruct", images={"max_pixels": 200_704}), "reserved": "rule"})
    assert "AutoProcessor.from_pretrained(model_id, max_pixels=200704)" in limited


@pytest.mark.parametrize(
    ("change", "file_format", "loc"),
    [
        (
            {"training": {"trainer": "trl-grpo", "micro_batch_size": 2, "max_completion_length": 8}},
            "peft",
            "training.trainer",
        ),
        ({"training": {"trainer": None}}, "peft", "training.trainer"),
        ({"model": "google/paligemma-3b-pt-224", "training": {"trainer": "trl-dpo"}}, "peft", "training.trainer"),
        ({"model": {"config": CONFIG}}, "peft", "model.config"),
        ({}, "axolotl", "training.images"),
        ({}, "llama-factory", "training.images"),
    ],
)
def test_a_request_with_images_without_a_script_names_the_field(change, file_format, loc):
    request = body()
    training = {**request["training"], **change.get("training", {})}
    with pytest.raises(PlanError) as refused:
        export(parse_request({**request, **change, "training": training, "reserved": "rule"}), file_format)
    assert [(problem.loc, "leave images out" in problem.msg) for problem in refused.value.problems] == [
        (loc, loc != "model.config")
    ]
