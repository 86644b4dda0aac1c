"""Batches with images that a trainer fetches for a whole step, while those of the step before are alive."""

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

BODY = {
    "model": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "method": {"name": "lora", "target_modules": ["q_proj", "v_proj"]},
    "training": {
        "trainer": "trl-sft",
        "sequence_length": 1400,
        "gradient_checkpointing": True,
        "images": {"images_per_sequence": 1, "image_height": 1024, "image_width": 1024},
    },
}


def answer(steps: int, reserved: str):
    training = {**BODY["training"], "gradient_accumulation_steps": steps}
    return estimate(parse_request({**BODY, "training": training, "reserved": reserved}))


def test_many_micro_batches_set_the_peak_before_the_forward_pass() -> None:
    for reserved in ("replay", "rule"):
        memory = answer(64, reserved).memory
        assert memory.peak_phase == "forward"
        names = {component.name: component.bytes for component in memory.components}
        tiles, side = 17, 512  # a whole image and 4 × 4 tiles
        pixels = 4 * 3 * tiles * side**2
        assert names["activations"] > 2 * 64 * pixels
        assert memory.peak_reserved_bytes > memory.peak_allocated_bytes
    assert answer(1, "rule").memory.peak_phase == "backward"
