"""The facts about GraLoRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="GraLoRA",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="GraLoRA (Jung et al. 2025): a low-rank update for each block of the weight.",
    trainable="(r + hybrid_r) · (in_features + out_features) per adapted matrix",
    inference_overhead="none once merged; unmerged, two thin products per adapted matrix",
    mergeable=True,
    best_for="high ranks, where LoRA overfits",
    source="Jung et al. 2025, arXiv 2505.20355; peft, tuners/gralora/layer.py, Linear.forward",
    peft_type="GRALORA",
    config_class="GraloraConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
