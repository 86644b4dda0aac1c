"""The facts about RoAd."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="RoAd",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="RoAd (Liao & Monz 2024): rotations of pairs of outputs.",
    trainable="out_features per adapted matrix with road_1, twice as many with road_2, four times with road_4",
    inference_overhead="none once merged; unmerged, two elementwise products per adapted matrix",
    mergeable=True,
    best_for="many tasks in one batch, with few parameters for each",
    source="Liao & Monz 2024, arXiv 2409.00119; peft, tuners/road/layer.py, _apply_road",
    peft_type="ROAD",
    config_class="RoadConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
