"""The facts about MiSS."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="MiSS",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="MiSS (Kang & Yin 2024, formerly Bone): one matrix shared by blocks of the input, or of the weight.",
    trainable="r · out_features per adapted matrix; out_features · r with bat; r · mini_r with mini",
    inference_overhead="none once merged; unmerged, a sum over blocks of the input and one thin product per matrix",
    mergeable=True,
    best_for="the quality of LoRA with fewer parameters",
    source="Kang & Yin 2024, arXiv 2409.15371; merging: peft, tuners/miss/layer.py, MissLinear.merge",
    peft_type="MISS",
    config_class="MissConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
