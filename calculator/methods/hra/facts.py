"""The facts about HRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="HRA",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="HRA (Yuan et al. 2024): Householder reflections of the input of frozen weights.",
    trainable="r · in_features per adapted matrix",
    inference_overhead="none once merged; unmerged, each adapted weight is multiplied with the reflections first",
    mergeable=True,
    best_for="rotations with as few parameters as a thin matrix",
    source="Yuan et al. 2024, arXiv 2405.17484; merging: peft, tuners/hra/layer.py, HRALinear.merge",
    peft_type="HRA",
    config_class="HRAConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
