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
    from collections.abc import Sequence

#: The sides of images, in pixels.
SIDES = (20, 56, 100, 140, 200, 224, 300, 336, 450, 640)

#: The tokens of text in a sequence.
WORDS = (1, 2, 16, 64, 200, 512)


def random_image_request(seed: int, number: int, families: Sequence[str] = ()) -> dict[str, Any]:
    """Return the body of one request with images, of one of the families whose images are modelled."""
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
    training["sequence_length"] = _tokens(request, training) + rng.choice(WORDS)
    method = {"name": "lora"} if "num_virtual_tokens" in request["method"] else request["method"]
    if method["name"] in ("prefix", "prompt", "p_tuning"):
        method = {"name": "full"}
    return {**request, "training": training, "method": method}


def _with_tower(rng: random.Random, model: dict[str, Any]) -> dict[str, Any]:
    """Return a random model with a tower as large as its text model."""
    config = model["config"]
    if config["model_type"] not in ("qwen2_5_vl", "qwen3_vl"):
        return model
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
    return {"config": {**config, "vision_config": vision}}


def _tokens(request: dict[str, Any], training: dict[str, Any]) -> int:
    """Return the tokens of a sequence's images; none, where the request is refused anyway."""
    parsed = parse_request({**request, "method": {"name": "full"}, "training": training})
    try:
        image = processed(parsed, model_of(parsed.model))
    except PlanError:
        return 0
    return int(training["images"]["images_per_sequence"]) * (image.tokens + image.around)
