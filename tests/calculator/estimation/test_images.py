"""Requests with images: what the processor makes of them, what is refused, and what an answer states."""

import json

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.image_requests import image_families, processed
from calculator.estimation.request import parse_request
from calculator.limit_search.limits import limit, parse_limit
from tests.paths import CASE_FILES

QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"
IMAGE = {"images_per_sequence": 1, "image_height": 252, "image_width": 280}
TINY = json.loads((CASE_FILES / "images.jsonl").read_text().splitlines()[0])["request"]["model"]
PROCESSED = json.loads((CASE_FILES / "images" / "processed.json").read_text())
MODELS = {
    "qwen2_5_vl": QWEN,
    "qwen2_vl": "Qwen/Qwen2-VL-2B-Instruct",
    "qwen3_vl": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3_vl_moe": "Qwen/Qwen3-VL-30B-A3B-Instruct",
    "gemma3": "google/gemma-3-4b-pt",
    "gemma4": {"config": {"model_type": "gemma4", "vision_config": {}}},
    "gemma4_unified": "google/gemma-4-12B",
    "internvl": "OpenGVLab/InternVL3_5-8B-HF",
    "paligemma": "google/paligemma-3b-pt-224",
    "llava": "llava-hf/llava-1.5-7b-hf",
    "llava_next": {"config": {"model_type": "llava_next"}},
    "qwen3_5": {"config": {"model_type": "qwen3_5"}},
    "qwen3_5_moe": {"config": {"model_type": "qwen3_5_moe"}},
    "idefics3": {"config": {"model_type": "idefics3", "vision_config": {"image_size": 364, "patch_size": 14}}},
    "smolvlm": {
        "config": {"model_type": "smolvlm", "scale_factor": 4, "vision_config": {"image_size": 512, "patch_size": 16}}
    },
}
GEMMA = {
    "model_type": "gemma3",
    "mm_tokens_per_image": 16,
    "text_config": {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "vision_config": {"hidden_size": 32, "num_attention_heads": 2, "image_size": 56, "patch_size": 14},
}
WITH_HEAD = GEMMA
LLAVA, TILED = {"model_type": "llava"}, {"model_type": "llava_next"}
WITHOUT_HEAD = {**GEMMA["vision_config"], "vision_use_head": False}
FULL_ATTENTION = {**GEMMA["text_config"], "sliding_window": None, "layer_types": ["full_attention"] * 2}
WITHOUT_WINDOW = {**GEMMA, "text_config": FULL_ATTENTION, "vision_config": WITHOUT_HEAD}


def body(model=TINY, images=IMAGE, method=None, training=None, **more):
    training = {"sequence_length": 128, "images": images, **(training or {})}
    method = method or {"name": "lora", "target_modules": ["q_proj"]}
    return {"model": model, "method": method, "training": training, "reserved": "rule", **more}


def answer(*arguments, **more):
    return estimate(parse_request(body(*arguments, **more)))


def refusals(*arguments, **more):
    with pytest.raises(PlanError) as raised:
        answer(*arguments, **more)
    return {problem.loc: problem.msg for problem in raised.value.problems}


@pytest.mark.parametrize("case", PROCESSED, ids=lambda case: f"{case['model_type']}-{case['image_height']}")
def test_images_are_resized_as_the_real_processor_does(case):
    names = ("image_height", "image_width", "min_pixels", "max_pixels")
    images = {"images_per_sequence": 1} | {name: case[name] for name in names if name in case}
    request = parse_request(body(MODELS[case["model_type"]], images))
    image = processed(request, model_of(request.model))
    assert (image.rows, image.columns, image.tokens) == (case["rows"], case["columns"], case["tokens"])
    assert image.tiles == case.get("tiles", 1)


def test_a_catalogue_model_reads_images_with_its_towers():
    model = "Qwen/Qwen3.5-0.8B"
    whole, text = answer(model), answer(model, images=None)
    assert (whole.model.id, whole.model.model_type, text.model.model_type) == (model, "qwen3_5", "qwen3_5_text")
    assert whole.parameters.total > text.parameters.total


def test_an_answer_states_the_tokens_of_an_image():
    text = " ".join(answer().assumptions)
    assert "resizes an image to 252 × 280: 18 × 20 patches, 90 tokens and 2 around them" in text
    assert "92 of the 128 tokens" in text
    assert "only text" not in text
    assert "only text" in " ".join(answer(images=None).assumptions)


def test_a_tower_that_is_trained_needs_more_than_a_frozen_one():
    frozen = answer(method={"name": "lora", "target_modules": ["q_proj"]}).memory
    trained = answer(method={"name": "lora", "target_modules": ["q_proj", "qkv"]}).memory
    assert trained.phases[0].peak_bytes > frozen.phases[0].peak_bytes


def test_an_image_in_tiles_states_their_number():
    images = {"images_per_sequence": 1, "image_height": 900, "image_width": 900}
    text = " ".join(answer({"config": TILED}, images, training={"sequence_length": 3000}).assumptions)
    assert "48 × 48 patches in 5 tiles (one of the whole image), 2,928 tokens" in text


def test_a_larger_image_needs_more():
    training = {"sequence_length": 1024}
    peaks = [
        answer(images={**IMAGE, "image_height": height}, training=training).memory.peak_allocated_bytes
        for height in (280, 560, 840)
    ]
    assert peaks == sorted(set(peaks))


@pytest.mark.parametrize(
    ("change", "loc", "message"),
    [
        ({"model": "google-bert/bert-base-uncased", "task": "seq_cls"}, "training.images", "seq_cls with images"),
        ({"model": "Qwen/Qwen3-0.6B"}, "training.images", "qwen3 has no vision tower"),
        ({"model": "mistralai/Ministral-3-3B-Base-2512"}, "training.images", "the images of mistral3 are not modeled"),
        ({"model": WITH_HEAD}, "model.config.vision_config.vision_use_head", "must be false"),
        ({"model": WITHOUT_WINDOW}, "model.config.text_config.sliding_window", "fails without a window"),
        (
            {"model": LLAVA | {"vision_feature_layer": 0}},
            "model.config.vision_feature_layer",
            "of the tower's 24 layers",
        ),
        (
            {"model": LLAVA | {"vision_config": {"model_type": "siglip_vision_model"}}},
            "model.config.vision_config",
            "clip",
        ),
        (
            {"model": TILED | {"vision_feature_select_strategy": "full"}},
            "model.config.vision_feature_select_strategy",
            "must be default",
        ),
        ({"model": TILED | {"image_grid_pinpoints": [[336, 500]]}}, "model.config.image_grid_pinpoints", "multiples"),
        (
            {"model": LLAVA, "method": {"name": "ln_tuning"}, "training": {"sequence_length": 1024}},
            "method.target_modules",
            "holds other",
        ),
        ({"model": {"model_type": "gemma4"}}, "training.images", "no vision_config"),
        (
            {"model": {"model_type": "gemma4", "vision_config": {"pooling_kernel_size": 1}}},
            "model.config.vision_config.pooling_kernel_size",
            "selects the padding",
        ),
        (
            {"model": "google/gemma-3-4b-pt", "images": {**IMAGE, "max_pixels": 9000}},
            "training.images.max_pixels",
            "no limits of pixels",
        ),
        ({"training": {"trainer": "trl-orpo"}}, "training.trainer", "trl-kto, trl-grpo and trl-rloo"),
        (
            {
                "training": {"trainer": "trl-grpo", "micro_batch_size": 2, "max_completion_length": 9},
                "device": {"count": 2, "sharding": "ddp", "memory_bytes": 10**9},
            },
            "training.use_vllm",
            "only with vLLM",
        ),
        (
            {"training": {"trainer": "trl-rloo", "micro_batch_size": 2, "use_vllm": True}},
            "training.max_completion_length",
            "35 tokens of a sequence are left",
        ),
        (
            {
                "training": {
                    "trainer": "trl-kto",
                    "micro_batch_size": 2,
                    "autocast": "bfloat16",
                    "fsdp_config": {"reshard_after_forward": False},
                },
                "device": {"count": 2, "sharding": "fsdp", "memory_bytes": 10**9},
            },
            "training.loss_type",
            "not modeled under fsdp",
        ),
        (
            {"training": {"trainer": "trl-dpo", "sequence_length": 93}},
            "training.sequence_length",
            "93 tokens: set more",
        ),
        (
            {"training": {"trainer": "trl-dpo", "precompute_ref_log_probs": True}},
            "training.precompute_ref_log_probs",
            "batch by batch",
        ),
        ({"training": {"trainer": "trl-kto", "completion_tokens": 100}}, "training.completion_tokens", "after prompts"),
        ({"training": {"trainer": "trl-sft", "packing": True}}, "training.packing", "which also reads images"),
        ({"training": {"attention": "eager"}}, "training.attention", "sdpa and flash_attention_2"),
        ({"training": {"sequence_length": 91}}, "training.sequence_length", "an image is 92 tokens"),
        ({"training": {"sequence_lengths": [[128, 2]]}}, "training.sequence_lengths", "one length"),
        ({"method": {"name": "prompt"}}, "method.name", "not modeled yet"),
        ({"stack": {"transformers": "5.20"}}, "stack", "the default releases"),
        ({"images": {**IMAGE, "image_width": 60_000}}, "training.images.image_width", "a factor of 200"),
        ({"images": {**IMAGE, "min_pixels": 9000, "max_pixels": 8000}}, "training.images.min_pixels", "at most"),
        ({"images": {"image_height": 300}}, "training.images.image_height", "there are no images"),
        ({"training": {"micro_batch_size": 65_536}}, "training.images.images_per_sequence", "at most 4,096"),
    ],
)
def test_settings_that_are_not_modeled_are_refused_with_a_solution(change, loc, message):
    model = change.get("model")
    wrapped = {"model": {"config": model}} if isinstance(model, dict) and "model_type" in model else {}
    assert message in refusals(**change | wrapped)[loc]


def test_symbolic_sizes_give_the_same_figures_as_a_concrete_step():
    lengths = (128, 200, 256)
    shared = [answer(training={"sequence_length": length}).memory.peak_allocated_bytes for length in lengths]
    alone = [
        estimate(parse_request(body(training={"sequence_length": length})), whole=True).memory.peak_allocated_bytes
        for length in reversed(lengths)
    ]
    assert shared == alone[::-1]


def test_every_family_whose_images_are_modeled_is_compared_with_its_processor():
    assert {case["model_type"] for case in PROCESSED} == set(image_families()) == set(MODELS)


@pytest.mark.parametrize("trainer", [None, "trl-sft"])
def test_the_largest_micro_batch_with_images_is_found(trainer):
    training = {
        "trainer": trainer,
        "sequence_length": 160,
        "images": {"images_per_sequence": 1, "image_height": 200, "image_width": 300},
    }
    body = {"model": TINY, "method": {"name": "lora", "target_modules": ["q_proj"]}, "training": training}
    body |= {"device": {"memory_bytes": 10**9}, "reserved": "rule", "solve_for": "micro_batch_size"}
    assert limit(parse_limit(body)).value > 1


def test_more_features_than_layers_are_answered():
    """Qwen3-VL adds the tower's earlier outputs to its first layers, of which there may be fewer."""
    text = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text["num_key_value_heads"] = 2
    vision = {"depth": 3, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64}
    vision["deepstack_visual_indexes"] = [0, 1, 2]
    config = {"model_type": "qwen3_vl", "text_config": text, "vision_config": vision}
    assert answer({"config": config}, training={"sequence_length": 512}).memory.required_bytes > 0
