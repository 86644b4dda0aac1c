"""Seeded random requests with images."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.estimation.estimate import model_of
from calculator.estimation.image_requests import image_families, processed
from calculator.estimation.request import parse_request
from validation.random_grid.random_requests import random_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The sides of images, in pixels.
SIDES = (20, 56, 100, 140, 200, 224, 300, 336, 450, 640)

#: The tokens of text in a sequence.
WORDS = (1, 2, 16, 64, 200, 512)


def random_image_request(seed: int, number: int, families: Sequence[str] = ()) -> dict[str, Any]:
    """Return the body of one request with images, of one of the families whose images are modeled."""
    rng = random.Random(f"images {seed} {number}")
    request = random_request(seed, number, families or image_families())
    request["model"] = _with_tower(rng, request["model"])
    training = {name: value for name, value in request["training"].items() if name != "attention"}
    training["micro_batch_size"] = rng.choice((1, 1, 2, 3))
    training["images"] = {
        "images_per_sequence": rng.choice((1, 1, 1, 2, 3)),
        "image_height": rng.choice(SIDES),
        "image_width": rng.choice(SIDES),
    }
    training["sequence_length"] = tokens_of_images(request, training) + rng.choice(WORDS)
    method = {"name": "lora"} if "num_virtual_tokens" in request["method"] else request["method"]
    if method["name"] in ("prefix", "prompt", "p_tuning"):
        method = {"name": "full"}
    return {**request, "training": training, "method": method}


def _with_tower(rng: random.Random, model: dict[str, Any]) -> dict[str, Any]:
    """Return a random model with a tower as large as its text model."""
    config = model["config"]
    draw = _TOWERS.get(config["model_type"])
    if draw is None:
        return model
    return {"config": {**config, **draw(rng, config)}}


def _qwen(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    heads, depth = rng.choice((1, 2, 3, 4)), rng.randint(1, 4)
    vision = {
        **config["vision_config"],
        "depth": depth,
        "num_heads": heads,
        "hidden_size": 8 * heads * rng.randint(1, 10),
        "intermediate_size": rng.choice((33, 96, 128, 300)),
        "patch_size": rng.choice((14, 16)),
        "window_size": rng.choice((56, 112)),
        "fullatt_block_indexes": [index for index in range(depth) if rng.random() < 0.4],
        "deepstack_visual_indexes": [index for index in range(depth) if rng.random() < 0.4],
    }
    return {"vision_config": vision}


def _qwen2(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    heads = rng.choice((1, 2, 3, 4))
    vision = {
        **config["vision_config"],
        "depth": rng.randint(1, 4),
        "num_heads": heads,
        "embed_dim": 8 * heads * rng.randint(1, 10),
        "mlp_ratio": rng.choice((1, 2, 4)),
        "patch_size": rng.choice((14, 16)),
    }
    return {"vision_config": vision}


def _encoder(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    """Draw an encoder as in SigLIP."""
    heads, patch = rng.choice((1, 2, 3, 4)), rng.choice((7, 14, 16))
    return {
        **config["vision_config"],
        "hidden_size": 8 * heads * rng.randint(1, 10),
        "intermediate_size": rng.choice((33, 96, 128, 300)),
        "num_hidden_layers": rng.randint(1, 4),
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": patch * rng.randint(4, 16) + rng.choice((0, 0, 1)),
        "hidden_act": rng.choice(("gelu_pytorch_tanh", "gelu", "quick_gelu")),
    }


def _gemma3(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    vision = {**_encoder(rng, config), "vision_use_head": False}
    side = vision["image_size"] // vision["patch_size"]
    return {"vision_config": vision, "mm_tokens_per_image": rng.randint(1, side) ** 2}


def _paligemma(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    return {"vision_config": {**_encoder(rng, config), "vision_use_head": False}}


def _gemma4(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    groups = rng.choice((1, 2, 3))
    vision = {
        **config["vision_config"],
        "hidden_size": 8 * rng.randint(1, 20),
        "intermediate_size": rng.choice((33, 96, 128, 300)),
        "num_hidden_layers": rng.randint(1, 4),
        "num_attention_heads": groups * rng.choice((1, 1, 2)),
        "num_key_value_heads": groups,
        "head_dim": rng.choice((8, 36, 64)),
        "pooling_kernel_size": rng.choice((2, 3, 3)),
        "patch_size": rng.choice((8, 16)),
    }
    return {"vision_config": vision}


def _gemma4_unified(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    width = rng.choice((8, 33, 64, 160))
    sizes = {"pooling_kernel_size": rng.choice((1, 2, 3)), "patch_size": rng.choice((4, 8, 16))}
    return {"vision_config": {**config["vision_config"], **sizes, "mm_embed_dim": width, "output_proj_dims": width}}


def _llava(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    return {"vision_config": _encoder(rng, config)}


def _llava_next(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    vision = {**_encoder(rng, config)}
    vision["image_size"] = vision["patch_size"] * rng.randint(2, 8)
    side, pairs = vision["image_size"], [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]
    resolutions = [[rows * side, columns * side] for rows, columns in rng.sample(pairs, rng.randint(1, 5))]
    return {"vision_config": vision, "image_grid_pinpoints": resolutions}


def _idefics3(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    vision, factor = _encoder(rng, config), rng.choice((1, 2, 3))
    vision["image_size"] = vision["patch_size"] * factor * rng.randint(1, 3)
    return {"vision_config": vision, "scale_factor": factor}


def _internvl(rng: random.Random, config: dict[str, Any]) -> dict[str, Any]:
    vision, factor = {**config["vision_config"], **_encoder(rng, config)}, rng.choice((1, 2, 2, 3))
    vision["image_size"] = vision["patch_size"] * factor * rng.randint(1, 3)
    return {"vision_config": vision, "downsample_ratio": 1 / factor}


_TOWERS: dict[str, Callable[[random.Random, dict[str, Any]], dict[str, Any]]] = {
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "gemma4_unified": _gemma4_unified,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "llava": _llava,
    "llava_next": _llava_next,
    "paligemma": _paligemma,
    "qwen2_5_vl": _qwen,
    "qwen2_vl": _qwen2,
    "qwen3_5": _qwen,
    "qwen3_5_moe": _qwen,
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
    "smolvlm": _idefics3,
}


def tokens_of_images(request: dict[str, Any], training: dict[str, Any]) -> int:
    """Return the tokens of a sequence's images; none, where the request is refused anyway."""
    parsed = parse_request({**request, "method": {"name": "full"}, "training": training})
    try:
        image = processed(parsed, model_of(parsed.model))
    except PlanError:
        return 0
    return int(training["images"]["images_per_sequence"]) * image.length
