"""The exported script of a model that reads images trains on them."""

import re
import runpy

import pytest
import torch

from app.interop.exports import export
from calculator.common.errors import PlanError
from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_request
from calculator.trainers.image_batch import tensors
from tests.app.interop.exports.scripts import LOW_RANK, check_with_ruff, ran, script

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

#: The tower has 24 × 24 patches as that of LLaVA 1.5, so that images are as many tokens.
CONFIG = {
    "model_type": "llava",
    "image_token_index": 2,
    "text_config": {
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 96,
        "patch_size": 4,
        "projection_dim": 16,
    },
}
IMAGES = {"images_per_sequence": 1, "image_height": 60, "image_width": 40}
MODELS = {
    "HuggingFaceTB/SmolVLM-256M-Instruct": {"image_height": 512, "image_width": 512},
    "OpenGVLab/InternVL3_5-8B-HF": {},
    "Qwen/Qwen2.5-VL-3B-Instruct": {"min_pixels": 784, "max_pixels": 200_704},
    "google/gemma-3-4b-pt": {},
    "google/paligemma-3b-pt-224": {},
    "llava-hf/llava-1.5-7b-hf": {},
}

#: A chat template as those of models that read images: places of images and texts, one after the other.
TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
)


def body(trainer="transformers", model="llava-hf/llava-1.5-7b-hf", images=(), **training):
    settings = {"trainer": trainer, "sequence_length": 640, "images": {**IMAGES, **dict(images)}, **training}
    return {"model": model, "method": {"name": "lora", **LOW_RANK}, "training": settings}


@pytest.fixture
def small_llava(tmp_path):
    """A folder with a small LLaVA and its processor."""
    pytest.importorskip("PIL", reason="scripts with images need Pillow")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        CLIPImageProcessorPil,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    folder = tmp_path / "model"
    config = AutoConfig.for_model(**CONFIG)
    AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(WordLevel({"[UNK]": 0, "[EOS]": 1, "<image>": 2, "the": 3, "step": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]", additional_special_tokens=["<image>"]
    )
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("trainer", "training"), [("transformers", {"padding": True}), ("trl-sft", {})])
def test_the_script_trains_a_model_on_images_from_a_folder(
    trainer, training, small_llava, tmp_path, monkeypatch, capsys
):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (40, 60)).save(pictures / "one.png")
    printed = ran(
        body(trainer, **training), tmp_path, monkeypatch, capsys, "--model", str(small_llava), "--images", str(pictures)
    )
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
    assert {name: tuple(each.shape) for name, each in batch.items()} == planned
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
        ({"training": {"trainer": "trl-dpo"}}, "peft", "training.trainer"),
        ({"training": {"trainer": None}}, "peft", "training.trainer"),
        (
            {"device": {"count": 2, "sharding": "zero2"}, "training": {"autocast": "bfloat16"}},
            "peft",
            "device.sharding",
        ),
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
